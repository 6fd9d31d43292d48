"""Distributions count values in a fixed number of bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquill.tasks.results.distribution import MAX_BINS, Distribution, nice_steps


def _of(values: list[int]) -> Distribution:
    made = Distribution()
    made.add(np.array(values, np.int64))
    return made


@given(st.lists(st.integers(0, 2**40), max_size=50), st.integers(0, 50))
def test_batches_make_no_difference(values: list[int], cut: int) -> None:
    """The same values give the same distribution, however they are divided; each is in one bar that holds it."""
    whole, parts = _of(values), Distribution()
    for part in (values[:cut], values[cut:]):
        parts.add(np.array(part, np.int64))
    assert (parts.counts == whole.counts).all()
    assert (parts.total, parts.zeros, parts.least, parts.most) == (whole.total, whole.zeros, whole.least, whole.most)
    assert whole.zeros + whole.count == len(values)
    bars = whole.bars()
    assert sum(bar.count for bar in bars) == whole.count
    assert len(bars) <= 32
    for bar in bars:
        inside = sum(bar.low * (1 - 1e-8) <= value <= bar.high * (1 + 1e-8) for value in values)
        assert inside >= bar.count


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_a_quantile_is_off_by_a_bin_at_most(values: list[int], share: float) -> None:
    """A quantile lies between the least and the greatest value, and is near the exact one."""
    found = _of(values)
    exact = sorted(values)[max(0, int(np.ceil(share * len(values))) - 1)]
    assert found.least <= found.quantile(share) <= found.most
    assert found.quantile(share) == pytest.approx(exact, rel=0.045)


def test_the_largest_value_has_a_bin() -> None:
    """The greatest number that a column can hold is counted, and needs no more memory."""
    found = _of([2**63 - 1, 1])
    assert (found.count, len(found.counts), found.most) == (2, MAX_BINS, 2**63 - 1)


def test_without_values_there_is_nothing() -> None:
    """Zeros alone make no bar."""
    found = _of([0, 0])
    assert (found.bars(), found.zeros, found.mean, found.quantile(0.5)) == ([], 2, 0, 0)


@given(st.floats(1e-9, 1e9), st.floats(1, 1e6))
def test_labels_of_an_axis_are_round_and_few(low: float, ratio: float) -> None:
    """Between any two values there are at most as many labels as asked for, within them and in order."""
    steps = nice_steps(low, low * ratio, 5)
    assert len(steps) <= 5
    assert steps == sorted(steps)
    assert all(low * 0.999 <= step <= low * ratio * 1.001 for step in steps)
