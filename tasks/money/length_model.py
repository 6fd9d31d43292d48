"""Predict how long answers will be, from answers of the same job, model and prompt, of earlier runs or of a pilot.

The prediction for an input length has two parts. One is the line of `length_law`, whose mean is scaled so that the
ratios of seen to predicted average to one: with that scale it holds for answers that are not log-normal. The other is
the mean of the class itself, weighted by how much better it is known than the line (empirical Bayes: J. James & C.
Stein, 1961). A class that was seen a thousand times counts almost alone, a class that was never seen lies on the line,
and if classes scatter no more than by chance, only the line counts.

A sum over many rows may be off by the line (heteroscedasticity-consistent covariance, H. White, Econometrica 48, 1980),
by the classes, by chance among the rows, and, if the answers are of another night, by the difference between nights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from parquill.tasks.money.length_law import CLOSE, fit_log_normal
from parquill.tasks.money.length_stats import (
    OUTPUT_BINS_A_DOUBLING,
    History,
    LengthStats,
    length_class,
    middle_of,
    output_bin,
)

# Nights differ more than chance among the rows of one night explains; to be replaced by a measured value.
BETWEEN_NIGHTS = 0.02
MIN_ANSWERS = 8  # the least number of answers for which a spread is used


class LengthModel:
    """Predicts output tokens from input tokens."""

    def __init__(self, history: History, max_output_tokens: int) -> None:
        """`history` has at least one answer."""
        self._most = max_output_tokens
        self.answers, self.runs = history.count, history.runs
        self._classes = history.classes
        self._whole = LengthStats()
        for seen in history.classes.values():
            self._whole.merge(seen)
        self.latency_s = self._whole.seconds / self._whole.timed if self._whole.timed else None  # mean of an answer
        self.law = fit_log_normal(history.classes, max_output_tokens)
        mean = {number: self.law.mean(middle_of(number)) for number in history.classes}
        self._scale = sum(seen.total / mean[number] for number, seen in history.classes.items()) / self.answers
        line = {number: self._line(number) for number in history.classes}
        self._ratios = {n: seen.total / seen.count / line[n] for n, seen in history.classes.items()}
        # squared relative deviations of answers from their prediction: sums by class, and their mean over all
        self._squares = {
            n: max(0.0, (seen.squares - 2 * seen.total * line[n] + seen.count * line[n] ** 2) / line[n] ** 2)
            for n, seen in history.classes.items()
        }
        self._dispersion = sum(self._squares.values()) / max(1, self.answers - 3)
        inside = sum((s.squares - s.total**2 / s.count) / line[n] ** 2 for n, s in history.classes.items())
        free = self.answers - len(history.classes)
        self._within = min(self._dispersion, max(0.0, inside) / free) if free >= MIN_ANSWERS else self._dispersion
        self._between = self._scatter()
        self._known: dict[int, float] = {}
        if self._between:  # a line that does not fit is off where there are few answers: scale to meet the total seen
            self._scale *= self._whole.total / sum(s.count * self._one(n) for n, s in history.classes.items())

    def _line(self, number: int) -> float:
        return min(float(self._most), self._scale * self.law.mean(middle_of(number)))

    def _scatter(self) -> float:
        """Variance of the classes' ratios to the line beyond chance, by the method of moments."""
        counts = [seen.count for seen in self._classes.values()]
        seen = sum(n * (ratio - 1) ** 2 for n, ratio in zip(counts, self._ratios.values(), strict=True))
        room = self.answers - sum(n * n for n in counts) / self.answers
        if len(counts) <= 3 or room <= 0:
            return 0.0
        return max(0.0, (seen - self._within * (len(counts) - 3)) / room)

    def _weight(self, number: int) -> float:
        """The weight of the class's own mean against the line, from 0 to 1."""
        seen = self._classes.get(number)
        if seen is None or not self._between:
            return 0.0
        return seen.count / (seen.count + self._within / self._between)

    def expected(self, prompt_tokens: int) -> float:
        """Expected output tokens of one request, at most max_output_tokens."""
        number = length_class(prompt_tokens)
        if number not in self._known:
            self._known[number] = self._one(number)
        return self._known[number]

    def _one(self, number: int) -> float:
        own = 1.0 + self._weight(number) * (self._ratios.get(number, 1.0) - 1.0)
        return min(float(self._most), self._line(number) * own)

    def output_shares(self, rows: Mapping[int, int]) -> list[tuple[int, float]]:
        """Predicted share of answers by bin of output length, for `rows` (prompt tokens -> rows)."""
        classes: dict[int, int] = {}
        for prompt_tokens, count in rows.items():
            number = length_class(prompt_tokens)
            classes[number] = classes.get(number, 0) + count
        whole = sum(classes.values())
        shares, below = [], 0.0
        for number in range(output_bin(self._most) + 1 if whole else 0):
            end = 2 ** ((number + 1) / OUTPUT_BINS_A_DOUBLING)
            upto = sum(n * self.law.share_below(end, middle_of(place)) for place, n in classes.items()) / whole
            upto = 1.0 if number == output_bin(self._most) else upto
            shares.append((number, upto - below))
            below = upto
        return shares

    def reported(self, prompt_tokens: int) -> tuple[int, int, int]:
        """Expected reported tokens for a counted input, and how many of them are cached and cache writes."""
        seen = self._classes.get(length_class(prompt_tokens))
        if seen is None or seen.count < MIN_ANSWERS or not seen.prompt:
            seen = self._whole
        if not seen.prompt or not seen.counted:
            return prompt_tokens, 0, 0
        prompt = round(prompt_tokens * seen.prompt / seen.counted)
        return prompt, round(prompt * seen.cached / seen.prompt), round(prompt * seen.cache_write / seen.prompt)

    def deviation(self, rows: Mapping[int, int]) -> float:
        """Relative standard deviation of the output tokens of `rows` (prompt tokens -> rows); infinite if unknown."""
        if self.answers < MIN_ANSWERS:
            return math.inf
        tokens: dict[int, float] = {}
        squares = 0.0
        for prompt_tokens, count in rows.items():
            expected = self.expected(prompt_tokens)
            number = length_class(prompt_tokens)
            tokens[number] = tokens.get(number, 0.0) + count * expected
            squares += count * expected * expected
        whole = sum(tokens.values())
        if not whole:
            return 0.0
        shares = {number: part / whole for number, part in tokens.items()}
        variance = self._dispersion * squares / whole**2 + self._line_variance(shares)
        for number, share in shares.items():
            weight = self._weight(number)
            seen = self._classes.get(number)
            own = self._within / seen.count * weight**2 if seen is not None else 0.0
            variance += share**2 * (own + self._between * (1.0 - weight))
        return math.sqrt(variance + (BETWEEN_NIGHTS**2 if self.runs else 0.0))

    def _line_variance(self, shares: Mapping[int, float]) -> float:
        """Variance of the logarithm of the sum that comes from intercept and slope."""
        counts = {number: seen.count for number, seen in self._classes.items()}
        weight = sum(counts.values())
        middle = sum(n * middle_of(number) for number, n in counts.items()) / weight
        spread = sum(n * (middle_of(number) - middle) ** 2 for number, n in counts.items())
        away = sum(share * (middle_of(number) - middle) for number, share in shares.items())
        pull = away / spread if spread > CLOSE else 0.0
        whole = sum(r * (1 / weight + pull * (middle_of(n) - middle)) ** 2 for n, r in self._squares.items())
        return whole * weight / max(1, weight - 3)
