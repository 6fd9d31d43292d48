"""How long answers will be: learned from answers of the same job, model and prompt, of earlier runs or of a pilot.

What is kept is small: for each class of input length (eight to the doubling) the number of answers, the sums of their
output tokens and of the squares, and of the logarithms of those that were not cut at max_output_tokens; and how many
prompt tokens were counted, reported and cached, since it is what the service reports that is paid.

The prediction for an input length has two parts. One is a line: the logarithm of the output is normal about a straight
line over the logarithm of the input, cut at max_output_tokens (a censored regression: J. Tobin, Econometrica 26, 1958),
whose mean is then scaled so that the ratios of seen to predicted average to one. That ratio is what makes it hold for
answers that are not log-normal. The other is the mean of the class itself, taken for as much as it is known better than
the line (empirical Bayes: J. James & C. Stein, 1961): a class that was seen a thousand times speaks for itself, one
that was never seen lies on the line, and where classes scatter no more than chance makes them, only the line counts.

How far a sum over many rows may be off: by the line (heteroscedasticity-consistent covariance, H. White, Econometrica
48, 1980), by the classes, by chance among the rows, and, when what was learned is of another night, by the night.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CLASSES_A_DOUBLING = 8
# Nights differ more than chance among the rows of one night tells; measured history replaces this once there is some.
BETWEEN_NIGHTS = 0.02
FEWEST = 8  # answers, from which on a spread is believed
OUTPUT_BINS_A_DOUBLING = 4  # of output tokens, for a picture of them
_ROUNDS, _CLOSE = 300, 1e-9
_LEAST_SIGMA = 1e-3


def class_of(prompt_tokens: int) -> int:
    """The class of an input length; class 0 is one token."""
    return int(CLASSES_A_DOUBLING * math.log2(max(1, prompt_tokens)))


def output_bin(output_tokens: int) -> int:
    """The bin of an output length in a picture; bin 0 begins at one token."""
    return int(OUTPUT_BINS_A_DOUBLING * math.log2(max(1, output_tokens)) + 1e-9)


def _middle(number: int) -> float:
    return (number + 0.5) / CLASSES_A_DOUBLING * math.log(2.0)  # its logarithm


@dataclass(slots=True)
class Seen:
    """Answers of one class: how many, sums over output tokens as billed, and over the logarithms of those not cut."""

    count: int = 0
    total: int = 0
    squares: int = 0
    cut: int = 0
    logs: float = 0.0
    log_squares: float = 0.0
    counted: int = 0  # prompt tokens: as they were counted, as the service reported them, and of these cached
    prompt: int = 0
    cached: int = 0

    def add(self, output_tokens: int, *, cut: bool, counted: int = 0, prompt: int = 0, cached: int = 0) -> None:
        """Count one answer; `cut` says that max_output_tokens ended it."""
        self.count += 1
        self.counted += counted
        self.prompt += prompt
        self.cached += cached
        self.total += output_tokens
        self.squares += output_tokens * output_tokens
        if cut:
            self.cut += 1
        else:
            log = math.log(max(1, output_tokens))
            self.logs += log
            self.log_squares += log * log

    def merge(self, other: Seen) -> None:
        """Count the answers of another run."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class History:
    """Classes of answers; `runs` is how many finished runs they are from, 0 for a pilot or a run under way."""

    classes: dict[int, Seen] = field(default_factory=dict)
    runs: int = 0

    def add(self, prompt_tokens: int, usage: tuple[int, int, int, int], max_output_tokens: int) -> None:
        """Count one answer: tokens as they were counted, and as the service reported them."""
        prompt, cached, output, _ = usage
        seen = self.classes.setdefault(class_of(prompt_tokens), Seen())
        seen.add(output, cut=output >= max_output_tokens, counted=prompt_tokens, prompt=prompt, cached=cached)

    @property
    def count(self) -> int:
        """How many answers there are."""
        return sum(seen.count for seen in self.classes.values())


@dataclass(frozen=True, slots=True)
class Law:
    """Logarithm of the output: normal, mean `intercept + slope * log(input)`, deviation `sigma`, cut at `most`."""

    intercept: float
    slope: float
    sigma: float
    most: int

    def mean(self, log_input: float) -> float:
        """Mean output tokens of one answer: E[min(Y, most)] of a log-normal Y."""
        mu, sigma, limit = self.intercept + self.slope * log_input, self.sigma, math.log(self.most)
        within = _below((limit - mu - sigma * sigma) / sigma)
        whole = mu + sigma * sigma / 2
        tokens = math.exp(min(whole, 700.0)) * within if within > 0 else 0.0
        return max(1.0, min(float(self.most), tokens + self.most * (1.0 - _below((limit - mu) / sigma))))

    def share_below(self, tokens: float, log_input: float) -> float:
        """The share of answers that are shorter than `tokens`."""
        if tokens > self.most:
            return 1.0
        return _below((math.log(max(tokens, 1e-9)) - self.intercept - self.slope * log_input) / self.sigma)


class LengthModel:
    """Predicts output tokens from input tokens."""

    def __init__(self, history: History, max_output_tokens: int) -> None:
        """`history` has at least one answer."""
        self._most = max_output_tokens
        self.answers, self.runs = history.count, history.runs
        self._classes = history.classes
        self._whole = Seen()
        for seen in history.classes.values():
            self._whole.merge(seen)
        self.law = _fit(history.classes, max_output_tokens)
        mean = {number: self.law.mean(_middle(number)) for number in history.classes}
        self._scale = sum(seen.total / mean[number] for number, seen in history.classes.items()) / self.answers
        line = {number: self._line(number) for number in history.classes}
        self._ratios = {n: seen.total / seen.count / line[n] for n, seen in history.classes.items()}
        # of one answer about its prediction, relative: its square, by class, and over all
        self._squares = {
            n: max(0.0, (seen.squares - 2 * seen.total * line[n] + seen.count * line[n] ** 2) / line[n] ** 2)
            for n, seen in history.classes.items()
        }
        self._dispersion = sum(self._squares.values()) / max(1, self.answers - 3)
        inside = sum((s.squares - s.total**2 / s.count) / line[n] ** 2 for n, s in history.classes.items())
        free = self.answers - len(history.classes)
        self._within = min(self._dispersion, max(0.0, inside) / free) if free >= FEWEST else self._dispersion
        self._between = self._scatter()
        self._known: dict[int, float] = {}
        if self._between:  # a line that does not fit is off where few answers are: what was seen is met as a whole
            self._scale *= self._whole.total / sum(s.count * self._one(n) for n, s in history.classes.items())

    def _line(self, number: int) -> float:
        return min(float(self._most), self._scale * self.law.mean(_middle(number)))

    def _scatter(self) -> float:
        """Variance of the classes' ratios to the line beyond what chance makes, by the method of moments."""
        counts = [seen.count for seen in self._classes.values()]
        seen = sum(n * (ratio - 1) ** 2 for n, ratio in zip(counts, self._ratios.values(), strict=True))
        room = self.answers - sum(n * n for n in counts) / self.answers
        if len(counts) <= 3 or room <= 0:
            return 0.0
        return max(0.0, (seen - self._within * (len(counts) - 3)) / room)

    def _weight(self, number: int) -> float:
        """How far the class speaks for itself, from 0 to 1."""
        seen = self._classes.get(number)
        if seen is None or not self._between:
            return 0.0
        return seen.count / (seen.count + self._within / self._between)

    def expected(self, prompt_tokens: int) -> float:
        """Expected output tokens of one request, at most max_output_tokens."""
        number = class_of(prompt_tokens)
        if number not in self._known:
            self._known[number] = self._one(number)
        return self._known[number]

    def _one(self, number: int) -> float:
        own = 1.0 + self._weight(number) * (self._ratios.get(number, 1.0) - 1.0)
        return min(float(self._most), self._line(number) * own)

    def output_shares(self, rows: Mapping[int, int]) -> list[tuple[int, float]]:
        """Share of answers by bin of output length, as the law has it for `rows` (prompt tokens -> rows)."""
        classes: dict[int, int] = {}
        for prompt_tokens, count in rows.items():
            number = class_of(prompt_tokens)
            classes[number] = classes.get(number, 0) + count
        whole = sum(classes.values())
        shares, below = [], 0.0
        for number in range(output_bin(self._most) + 1 if whole else 0):
            end = 2 ** ((number + 1) / OUTPUT_BINS_A_DOUBLING)
            upto = sum(n * self.law.share_below(end, _middle(place)) for place, n in classes.items()) / whole
            upto = 1.0 if number == output_bin(self._most) else upto
            shares.append((number, upto - below))
            below = upto
        return shares

    def reported(self, prompt_tokens: int) -> tuple[int, int]:
        """Of a counted input: the tokens that the service is expected to report, and those it has cached of them."""
        seen = self._classes.get(class_of(prompt_tokens))
        if seen is None or seen.count < FEWEST or not seen.prompt:
            seen = self._whole
        if not seen.prompt or not seen.counted:
            return prompt_tokens, 0
        prompt = round(prompt_tokens * seen.prompt / seen.counted)
        return prompt, round(prompt * seen.cached / seen.prompt)

    def deviation(self, rows: Mapping[int, int]) -> float:
        """Relative standard deviation of the output tokens of `rows` (prompt tokens -> rows); infinite if unknown."""
        if self.answers < FEWEST:
            return math.inf
        tokens: dict[int, float] = {}
        squares = 0.0
        for prompt_tokens, count in rows.items():
            expected = self.expected(prompt_tokens)
            number = class_of(prompt_tokens)
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
        """Of the logarithm of the sum, from intercept and slope."""
        counts = {number: seen.count for number, seen in self._classes.items()}
        weight = sum(counts.values())
        middle = sum(n * _middle(number) for number, n in counts.items()) / weight
        spread = sum(n * (_middle(number) - middle) ** 2 for number, n in counts.items())
        away = sum(share * (_middle(number) - middle) for number, share in shares.items())
        pull = away / spread if spread > _CLOSE else 0.0
        whole = sum(r * (1 / weight + pull * (_middle(n) - middle)) ** 2 for n, r in self._squares.items())
        return whole * weight / max(1, weight - 3)


def _fit(classes: Mapping[int, Seen], most: int) -> Law:
    """The likeliest law for answers of which some were cut: expectation and maximization in turns.

    Each turn puts in the place of a cut answer what the law of the turn before expects of it (mean and square of a
    normal variable above a limit), and then fits by least squares.
    """
    limit = math.log(most)
    x = {number: _middle(number) for number in classes}
    weight = sum(seen.count for seen in classes.values())
    x_mean = sum(seen.count * x[number] for number, seen in classes.items()) / weight
    x_spread = sum(seen.count * (x[number] - x_mean) ** 2 for number, seen in classes.items())
    uncut = sum(seen.count - seen.cut for seen in classes.values())
    law = Law(limit if not uncut else 0.0, 0.0, 1.0, most)
    if not uncut:
        return Law(limit + 1.0, 0.0, _LEAST_SIGMA, most)
    for turn in range(_ROUNDS):
        sums: dict[int, float] = {}
        squares = 0.0
        for number, seen in classes.items():
            mean, square = limit, limit * limit
            if seen.cut and turn:
                mean, square = _above(law.intercept + law.slope * x[number], law.sigma, limit)
            sums[number] = seen.logs + seen.cut * mean
            squares += seen.log_squares + seen.cut * square
        y_mean = sum(sums.values()) / weight
        both = sum(total * (x[number] - x_mean) for number, total in sums.items())
        slope = both / x_spread if x_spread > _CLOSE else 0.0
        left = squares - weight * y_mean**2 - slope * both
        sigma = math.sqrt(max(_LEAST_SIGMA**2, left / max(1, weight - (2 if weight > 2 else 0))))
        new = Law(y_mean - slope * x_mean, slope, sigma, most)
        moved = abs(new.intercept - law.intercept) + abs(new.slope - law.slope) + abs(new.sigma - law.sigma)
        law = new
        if moved < _CLOSE or uncut == weight:
            break
    return law


def _below(z: float) -> float:
    return math.erfc(-z / math.sqrt(2.0)) / 2.0


def _above(mu: float, sigma: float, limit: float) -> tuple[float, float]:
    """Mean of a normal variable, and of its square, where it is above a limit."""
    z = (limit - mu) / sigma
    tail = _below(-z)
    # far out the ratio of density and tail tends to z + 1/z
    hazard = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / tail if tail > 1e-280 else z + 1 / z
    return mu + sigma * hazard, mu * mu + sigma * sigma + sigma * hazard * (limit + mu)


def merge(histories: Iterable[History]) -> History:
    """All answers of several runs together."""
    whole = History()
    for history in histories:
        whole.runs += history.runs
        for number, seen in history.classes.items():
            whole.classes.setdefault(number, Seen()).merge(seen)
    return whole
