"""Rows and money over time: at most MAX_BUCKETS buckets of equal width, however long a run takes.

Each width divides the next one, so buckets are merged without loss: the order of the rows does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from parquill.tasks.results.distribution import Whole

MAX_BUCKETS = 120
US_PER_S = 1_000_000
# seconds: from one second to a day, then doubled
_WIDTHS_S = (1, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400)


@dataclass(slots=True)
class Bucket:
    """What was finished from `start_s` (seconds since 1970) on: rows that are ok, other rows, nano-dollars."""

    start_s: int
    ok: int = 0
    not_ok: int = 0
    cost_nano: int = 0

    @property
    def rows(self) -> int:
        """All rows."""
        return self.ok + self.not_ok


@dataclass(slots=True)
class Timeline:
    """Rows and money by the time when rows were finished; `width_s` is that of a bucket."""

    width_s: int = _WIDTHS_S[0]
    _buckets: dict[int, list[int]] = field(default_factory=dict)  # number -> rows ok, rows not ok, nano-dollars

    def add(self, finished_us: Whole, ok: Whole, cost_nano: Whole) -> None:
        """Add rows: when they were finished (microseconds since 1970), 1 for ok and 0 for not, and their cost."""
        if not len(finished_us):
            return
        numbers, where = np.unique(finished_us // (US_PER_S * self.width_s), return_inverse=True)
        while numbers[-1] - numbers[0] >= 4 * MAX_BUCKETS:  # a batch of rows from many days
            self._widen()
            numbers, where = np.unique(finished_us // (US_PER_S * self.width_s), return_inverse=True)
        sums = np.zeros((len(numbers), 3), np.int64)
        np.add.at(sums, where, np.stack([ok, 1 - ok, cost_nano], axis=1))
        for number, values in zip(numbers.tolist(), sums.tolist(), strict=True):
            self._put(number, values)
        # promise: load: a timeline has a fixed number of buckets
        while max(self._buckets) - min(self._buckets) >= MAX_BUCKETS:
            self._widen()

    def _put(self, number: int, values: list[int]) -> None:
        found = self._buckets.setdefault(number, [0, 0, 0])
        for index, value in enumerate(values):
            found[index] += value

    def _widen(self) -> None:
        wider = next((width for width in _WIDTHS_S if width > self.width_s), self.width_s * 2)
        factor, old = wider // self.width_s, self._buckets
        self.width_s, self._buckets = wider, {}
        for number, values in old.items():
            self._put(number // factor, values)

    @property
    def buckets(self) -> list[Bucket]:
        """All buckets from the first to the last, those without rows too."""
        if not self._buckets:
            return []
        return [
            Bucket(number * self.width_s, *self._buckets.get(number, (0, 0, 0)))
            for number in range(min(self._buckets), max(self._buckets) + 1)
        ]
