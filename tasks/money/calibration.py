"""Counted against reported prompt tokens: how far they differ, and how an approximate count is corrected.

If a model's own tokenizer is not public, another encoding stands in for it, and the model's chat template adds a fixed
number of tokens to each request. So the reported tokens lie near a line over the counted ones: an overhead per request
and a ratio per token, fitted by least squares to the answers of earlier runs. The fit needs only five sums. They are
kept by class of length (one per doubling), each with the largest excess over the allowance that was ever seen. A
reservation must never be too low, so it is the allowance plus that excess, and at least 1.1 times the line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MIN_ANSWERS = 10  # fewer are not enough to predict the next thousand
SPREAD = 0.1  # lengths that vary by less than this part of their mean give a ratio, but no line
ABOVE_LINE = 1.1
# A reply that reports more than MAX_RATIO * counted + MAX_OVERHEAD is a fault of the service: billed, not learned from.
MAX_RATIO, MAX_OVERHEAD = 8, 4096


def allowance(counted: int) -> int:
    """Tokens to reserve for an approximate count: 1.5 * counted + 16, since small vocabularies need more tokens."""
    return counted + counted // 2 + 16


def size_class(counted: int) -> int:
    """The class of a counted length: 1 for one token, 2 for two and three, and so on, doubling each time."""
    return max(1, counted).bit_length()


@dataclass(slots=True)
class RegressionSums:
    """Answers of one class: sums over counted (x) and reported (y) prompt tokens, and the largest excess in tokens."""

    answers: int = 0
    counted: int = 0
    reported: int = 0
    squares: float = 0.0  # of x
    products: float = 0.0  # of x and y
    excess: int = 0  # the largest y above the allowance for x

    def add(self, counted: int, reported: int) -> None:
        """Add one answer."""
        self.answers += 1
        self.counted += counted
        self.reported += reported
        self.squares += counted * counted
        self.products += counted * reported
        self.excess = max(self.excess, reported - allowance(counted))

    def merge(self, other: RegressionSums) -> None:
        """Add the answers of another run."""
        self.answers += other.answers
        self.counted += other.counted
        self.reported += other.reported
        self.squares += other.squares
        self.products += other.products
        self.excess = max(self.excess, other.excess)


@dataclass(frozen=True, slots=True)
class WorstRow:
    """The answer whose count was farthest off; `deviation` is a fraction of the counted tokens."""

    deviation: float
    source_file: str
    row_number: int
    counted: int
    reported: int


@dataclass(slots=True)
class CountComparison:
    """Counted against reported prompt tokens of the answers that one run paid for."""

    answers: int = 0
    counted: int = 0
    reported: int = 0
    worst: WorstRow | None = None
    classes: dict[int, RegressionSums] = field(default_factory=dict)  # what may be learned from

    def add(self, counted: int, reported: int, source_file: str, row_number: int) -> None:
        """Compare one answer."""
        self.answers += 1
        self.counted += counted
        self.reported += reported
        deviation = reported / max(1, counted) - 1
        if self.worst is None or abs(deviation) > abs(self.worst.deviation):
            self.worst = WorstRow(deviation, source_file, row_number, counted, reported)
        if reported <= MAX_RATIO * counted + MAX_OVERHEAD:
            self.classes.setdefault(size_class(counted), RegressionSums()).add(counted, reported)

    @property
    def deviation(self) -> float | None:
        """Reported tokens above the counted ones, as a fraction of these; negative for fewer, None without answers."""
        return self.reported / self.counted - 1 if self.counted else None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was learned about a model at an endpoint; `excess` is a (class, tokens above the allowance) per class."""

    overhead: float = 0.0
    ratio: float = 1.0
    answers: int = 0
    excess: tuple[tuple[int, int], ...] = ()

    @classmethod
    def learn(cls, classes: Mapping[int, RegressionSums]) -> Calibration | None:
        """Fit the line; None without answers. With fewer than MIN_ANSWERS only the excess counts."""
        whole = RegressionSums()
        for tally in classes.values():
            whole.merge(tally)
        if not whole.answers or not whole.counted:
            return None
        overhead, ratio = _line(whole) if whole.answers >= MIN_ANSWERS else (0.0, 1.0)
        excess = tuple((number, classes[number].excess) for number in sorted(classes))
        return cls(overhead, ratio, whole.answers, excess)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Calibration:
        """Read a calibration that `dataclasses.asdict` and JSON wrote."""
        excess = tuple((int(number), int(tokens)) for number, tokens in found["excess"])
        return cls(found["overhead"], found["ratio"], found["answers"], excess)

    @property
    def is_fitted(self) -> bool:
        """Whether there were enough answers to correct an expected count."""
        return self.answers >= MIN_ANSWERS

    def expected(self, counted: int) -> float:
        """The expected number of prompt tokens that the service will report."""
        return max(1.0, self.overhead + self.ratio * counted)

    def reserved(self, counted: int) -> int:
        """Prompt tokens to reserve: allowance plus largest excess of similar lengths, at least 1.1 times the line."""
        number = size_class(counted)
        below = [tokens for seen, tokens in self.excess if seen <= number][-1:]
        above = [tokens for seen, tokens in self.excess if seen >= number][:1]
        excess = max(0, *below, *above)
        return max(allowance(counted) + excess, math.ceil(ABOVE_LINE * self.expected(counted)))


def _line(whole: RegressionSums) -> tuple[float, float]:
    """Overhead and ratio by least squares; only the ratio if the lengths hardly vary or the line does not rise."""
    x_mean, y_mean = whole.counted / whole.answers, whole.reported / whole.answers
    variance = whole.squares / whole.answers - x_mean * x_mean
    if variance > (SPREAD * x_mean) ** 2:
        ratio = (whole.products / whole.answers - x_mean * y_mean) / variance
        if ratio > 0:
            return y_mean - ratio * x_mean, ratio
    return 0.0, y_mean / x_mean
