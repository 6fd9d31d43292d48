"""How values are spread: counts in bins of equal ratio. Memory is the same for ten values and for a million.

All sums are of whole numbers, so the result does not depend on how the rows were divided into batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BINS_A_DOUBLING = 16
MAX_BINS = 63 * BINS_A_DOUBLING  # up to the largest 64-bit integer

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bar:
    """How many values are at least `low` and below `high`."""

    low: float
    high: float
    count: int


@dataclass(slots=True)
class Distribution:
    """Counts of whole numbers from 1 up; zeros are counted apart."""

    zeros: int = 0
    total: int = 0
    least: int = 0
    most: int = 0
    counts: Whole = field(default_factory=lambda: np.zeros(MAX_BINS, np.int64))

    def add(self, values: Whole) -> None:
        """Add values; none of them may be negative."""
        self.zeros += int(np.count_nonzero(values == 0))
        values = values[values > 0]
        if not len(values):
            return
        self.total += int(values.sum())
        low, high = int(values.min()), int(values.max())
        self.least, self.most = min(self.least or low, low), max(self.most, high)
        bins = (np.log2(values.astype(np.float64)) * BINS_A_DOUBLING + 1e-9).astype(np.int64)
        # promise: load: a distribution has a fixed number of bins
        self.counts += np.bincount(np.minimum(bins, MAX_BINS - 1), minlength=MAX_BINS)

    @property
    def count(self) -> int:
        """How many values there are, without the zeros."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean of all values but the zeros; 0 without values."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Return about the value that `share` of the values (without the zeros) do not exceed; 0 without values.

        It is exact for the least and the greatest value, and otherwise off by a bin at most, which is 4.4 %.
        """
        if not self.count:
            return 0.0
        sums = np.cumsum(self.counts)
        wanted = share * self.count
        index = int(np.searchsorted(sums, wanted))
        inside = (wanted - (int(sums[index]) - int(self.counts[index]))) / max(1, int(self.counts[index]))
        return min(max(2 ** ((index + inside) / BINS_A_DOUBLING), self.least), self.most)

    def bars(self, a_doubling: int | None = None, most: int = 32) -> list[Bar]:
        """Return neighboring bars from the least to the greatest value: `a_doubling` of them, or `most` in all.

        `a_doubling` divides BINS_A_DOUBLING.
        """
        used = np.flatnonzero(self.counts)
        if not len(used):
            return []
        first, last = int(used[0]), int(used[-1])
        merged = 1
        if a_doubling is not None:
            merged = BINS_A_DOUBLING // a_doubling
        while a_doubling is None and last // merged - first // merged + 1 > most:
            merged *= 2
        return [
            Bar(
                2 ** (number * merged / BINS_A_DOUBLING),
                2 ** ((number + 1) * merged / BINS_A_DOUBLING),
                int(self.counts[number * merged : (number + 1) * merged].sum()),
            )
            for number in range(first // merged, last // merged + 1)
        ]


def nice_steps(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten) from `low` to `high`, `most` at the most."""
    if not 0 < low <= high:
        return []
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [digit * 10.0**power for power in powers for digit in digits]
        found = [each for each in found if low * (1 - 1e-9) <= each <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]
