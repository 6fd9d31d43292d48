"""How long answers will be: learned from the answers of earlier runs of the same job, model and prompt.

What is kept of a run is small: for each class of input length (eight to the doubling) how many answers there were and
the sums of their output tokens, of the squares and of the logarithms. A prediction for an input length is the mean of
its class, drawn towards a line through all classes (logarithm of output over logarithm of input, least squares weighted
by counts) as far as the class has few answers; the whole is scaled so that it meets the total of what was seen. So a
class that was seen a thousand times speaks for itself, and one that was never seen lies on the line. Answers that were
cut at max_output_tokens count as they were billed, so the mean needs no correction for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

CLASSES_A_DOUBLING = 8
DRAWN = 20.0  # answers of a class that weigh as much as the line
# Nights differ more than chance among the rows of one night tells; measured history replaces this once there is some.
BETWEEN_NIGHTS = 0.02


def class_of(prompt_tokens: int) -> int:
    """The class of an input length; class 0 is one token."""
    return int(CLASSES_A_DOUBLING * math.log2(max(1, prompt_tokens)))


def _middle(number: int) -> float:
    return (number + 0.5) / CLASSES_A_DOUBLING * math.log(2.0)  # its logarithm


@dataclass(slots=True)
class Seen:
    """Answers of one class: their count, and sums over their output tokens."""

    count: int = 0
    total: int = 0
    squares: int = 0
    logs: float = 0.0

    def add(self, output_tokens: int) -> None:
        """Count one answer."""
        self.count += 1
        self.total += output_tokens
        self.squares += output_tokens * output_tokens
        self.logs += math.log(max(1, output_tokens))

    def merge(self, other: Seen) -> None:
        """Count the answers of another run."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.logs += other.logs


@dataclass(slots=True)
class History:
    """Classes of answers, and how many runs they are from."""

    classes: dict[int, Seen] = field(default_factory=dict)
    runs: int = 0

    def add(self, prompt_tokens: int, output_tokens: int) -> None:
        """Count one answer."""
        self.classes.setdefault(class_of(prompt_tokens), Seen()).add(output_tokens)

    @property
    def count(self) -> int:
        """How many answers there are."""
        return sum(seen.count for seen in self.classes.values())


class LengthModel:
    """Predicts output tokens from input tokens."""

    def __init__(self, history: History, max_output_tokens: int) -> None:
        """`history` has at least one answer."""
        self._most = max_output_tokens
        self.answers, self.runs = history.count, history.runs
        self._classes = history.classes
        self._intercept, self._slope = _line(history.classes)
        raw = {number: self._drawn(number) for number in history.classes}
        seen = sum(found.total for found in history.classes.values())
        predicted = sum(raw[number] * found.count for number, found in history.classes.items())
        self._scale = seen / predicted if predicted else 1.0
        variance = sum(max(0.0, s.squares - s.total**2 / s.count) for s in history.classes.values())
        self.spread = math.sqrt(variance / max(1, self.answers - len(history.classes)))  # of one answer, tokens
        self._known: dict[int, float] = {}

    def _drawn(self, number: int) -> float:
        line = math.exp(self._intercept + self._slope * _middle(number))
        seen = self._classes.get(number)
        return line if seen is None else (seen.total + DRAWN * line) / (seen.count + DRAWN)

    def expected(self, prompt_tokens: int) -> float:
        """Expected output tokens of one request, at most max_output_tokens."""
        number = class_of(prompt_tokens)
        if number not in self._known:
            self._known[number] = min(float(self._most), self._drawn(number) * self._scale)
        return self._known[number]

    def deviation(self, rows: int, expected_total: float) -> float:
        """Standard deviation, in tokens, of the sum over `rows` answers: chance, what was learned from, and nights."""
        chance = self.spread**2 * rows
        learned = (self.spread * rows) ** 2 / max(1, self.answers)
        return math.sqrt(chance + learned + (BETWEEN_NIGHTS * expected_total) ** 2)


def _line(classes: dict[int, Seen]) -> tuple[float, float]:
    """Intercept and slope of the logarithm of output over that of input; a level line where only one class was seen."""
    weight = sum(seen.count for seen in classes.values())
    x_mean = sum(seen.count * _middle(number) for number, seen in classes.items()) / weight
    # the logarithm of the mean and not the mean of the logarithms: it is the mean that costs
    y = {number: math.log(max(1.0, seen.total / seen.count)) for number, seen in classes.items()}
    y_mean = sum(seen.count * y[number] for number, seen in classes.items()) / weight
    spread = sum(seen.count * (_middle(number) - x_mean) ** 2 for number, seen in classes.items())
    if spread < 1e-9:
        return y_mean, 0.0
    both = sum(seen.count * (_middle(number) - x_mean) * (y[number] - y_mean) for number, seen in classes.items())
    slope = both / spread
    return y_mean - slope * x_mean, slope


def merge(histories: Iterable[History]) -> History:
    """All answers of several runs together."""
    whole = History()
    for history in histories:
        whole.runs += history.runs
        for number, seen in history.classes.items():
            whole.classes.setdefault(number, Seen()).merge(seen)
    return whole
