"""Rows of the results to look at: those with given values, and a random sample of these."""

from __future__ import annotations

import pyarrow as pa
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.results.samples import sample_rows


def _batches(prefix: str = "") -> list[pa.RecordBatch]:
    """Return 100 rows in batches of 30, of which every tenth is truncated."""
    rows = [
        {
            "id": number,
            "is_new": number < 5,
            "note": None if number == 7 else "x",
            f"{prefix}completion": f"answer {number}",
            f"{prefix}status": "truncated" if number % 10 == 0 else "ok",
            f"{prefix}finished_at": number,
        }
        for number in range(100)
    ]
    batches: list[pa.RecordBatch] = pa.Table.from_pylist(rows).to_batches(max_chunksize=30)
    return batches


def test_a_sample_is_the_same_each_time() -> None:
    """Two people who look at the same results see the same rows, in input order."""
    first, second = sample_rows(_batches(), 10), sample_rows(_batches(), 10)
    assert first == second
    numbers = [given["id"] for given, _ in first.rows]
    assert (len(numbers), first.matching, numbers) == (10, 100, sorted(numbers))
    assert max(numbers) > 50


def test_each_row_has_the_same_chance() -> None:
    """Over many sizes of a sample, early and late rows are chosen about equally often."""
    chosen = [given["id"] for size in range(1, 60) for given, _ in sample_rows(_batches(), size).rows]
    early = sum(number < 50 for number in chosen)
    assert 0.4 < early / len(chosen) < 0.6


def test_conditions_choose_rows() -> None:
    """All conditions must hold; a null is written `null` and a truth value `true`."""
    found = sample_rows(_batches(), None, [("status", "truncated")])
    assert [given["id"] for given, _ in found.rows] == list(range(0, 100, 10))
    assert sample_rows(_batches(), 3, [("status", "truncated")]).matching == 10
    both = sample_rows(_batches(), None, [("is_new", "true"), ("status", "truncated")])
    assert [given["id"] for given, _ in both.rows] == [0]
    assert [given["id"] for given, _ in sample_rows(_batches(), None, [("note", "null")]).rows] == [7]
    assert sample_rows(_batches(), 5, [("status", "refused")]).rows == []


def test_columns_are_found_without_their_prefix() -> None:
    """With a `column_prefix`, a condition may leave it out, and the row's own columns come without it."""
    found = sample_rows(_batches("llm_"), 1, [("status", "truncated"), ("id", "20")])
    assert found.rows == [
        (
            {"id": 20, "is_new": False, "note": "x"},
            {"completion": "answer 20", "status": "truncated", "finished_at": 20},
        )
    ]


def test_an_unknown_column_is_refused() -> None:
    """The refusal names the column, and the columns that there are."""
    with pytest.raises(BadInput, match=r"no column 'state'; they have 'id', 'is_new', 'note', 'completion'"):
        sample_rows(_batches(), 5, [("state", "ok")])
