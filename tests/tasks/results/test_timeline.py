"""Rows and money over time, in a bounded number of buckets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parquill.tasks.results.timeline import MAX_BUCKETS, Timeline

ROWS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 1), st.integers(0, 10**9)), min_size=1, max_size=40)


def _add(line: Timeline, rows: list[tuple[int, int, int]]) -> None:
    times, ok, costs = np.array(rows, np.int64).reshape(-1, 3).T
    line.add(times * 1_000_000, ok, costs)


@given(ROWS, st.randoms(use_true_random=False))
def test_order_and_batches_make_no_difference(rows: list[tuple[int, int, int]], random: object) -> None:
    """The same rows give the same timeline in any order, whole or one by one; no row and no money is lost."""
    whole, single = Timeline(), Timeline()
    _add(whole, rows)
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for row in shuffled:
        _add(single, [row])
    assert (single.width_s, single.buckets) == (whole.width_s, whole.buckets)
    assert sum(bucket.rows for bucket in whole.buckets) == len(rows)
    assert sum(bucket.ok for bucket in whole.buckets) == sum(ok for _, ok, _ in rows)
    assert sum(bucket.cost_nano for bucket in whole.buckets) == sum(cost for _, _, cost in rows)


def test_buckets_are_bounded() -> None:
    """A run of a second, a night or a year has at most MAX_BUCKETS buckets."""
    for seconds in (1, 119, 120, 8 * 3_600, 366 * 86_400, 50 * 366 * 86_400):
        line = Timeline()
        _add(line, [(0, 1, 0), (seconds, 1, 0)])
        assert len(line.buckets) <= MAX_BUCKETS, seconds
    night = Timeline()
    _add(night, [(0, 1, 0), (8 * 3_600, 1, 0)])
    assert night.width_s == 300


def test_a_bucket_without_rows_is_shown() -> None:
    """A time in which nothing was finished is a gap in the timeline."""
    line = Timeline()
    _add(line, [(100, 1, 5), (103, 0, 7)])
    assert [(bucket.start_s, bucket.rows, bucket.cost_nano) for bucket in line.buckets] == [
        (100, 1, 5),
        (101, 0, 0),
        (102, 0, 0),
        (103, 1, 7),
    ]
    assert Timeline().buckets == []
