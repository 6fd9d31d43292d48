"""A pilot chooses its rows by their length."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquill.tasks.money.sample import Pick, choose

ROWS = {10: 500, 40: 400, 160: 90, 640: 10}


def test_every_length_has_its_share() -> None:
    """Rows of each length are chosen in proportion to their number and the square root of their tokens."""
    weight = {tokens: count * tokens**0.5 for tokens, count in ROWS.items()}
    taken = Counter(pick.prompt_tokens for pick in choose(ROWS, 100, 0.3))
    for tokens in ROWS:
        assert taken[tokens] == pytest.approx(100 * weight[tokens] / sum(weight.values()), abs=2)


def test_a_larger_pilot_begins_with_the_smaller() -> None:
    """The first rows of a pilot of 200 are those of a pilot of 50, so that a pilot can be made larger."""
    assert choose(ROWS, 200, 0.7)[:50] == choose(ROWS, 50, 0.7)


def test_other_runs_take_other_rows() -> None:
    """Another starting point chooses other rows."""
    assert set(choose(ROWS, 50, 0.1)) != set(choose(ROWS, 50, 0.6))


@given(
    st.dictionaries(st.integers(0, 3_000), st.integers(1, 300), min_size=1, max_size=30),
    st.integers(1, 400),
    st.floats(0, 1, exclude_max=True),
)
def test_as_many_as_there_are(rows: dict[int, int], most: int, start: float) -> None:
    """Only existing rows are chosen, none of them twice, and as many as requested, or all."""
    chosen = choose(rows, most, start)
    assert len(chosen) == len(set(chosen)) == min(most, sum(rows.values()))
    assert all(0 <= pick.place < rows[pick.prompt_tokens] for pick in chosen)


def test_all_rows_can_be_chosen() -> None:
    """A pilot as large as the job chooses every row."""
    rows = {5: 3, 7: 1}
    assert sorted(choose(rows, 100, 0.5)) == [Pick(5, 0), Pick(5, 1), Pick(5, 2), Pick(7, 0)]
