"""What differs between two outputs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.results.difference import Batches, compare_outputs


def _row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"p{number}",
        "completion": f"answer {number}",
        "status": "ok",
        "error_message": None,
        "cost_usd": Decimal("0.000001000"),
        "source_file": "in.parquet",
        "row_number": number,
        "finished_at": 1,
        **changes,
    }


def _output(rows: list[dict[str, Any]]) -> Batches:
    def read() -> Iterator[pa.RecordBatch]:
        yield from pa.Table.from_pylist(rows or [_row(0)]).slice(0, len(rows)).to_batches(max_chunksize=7)

    return read


def test_equal_outputs_do_not_differ() -> None:
    """All rows are the same, and nothing is shown."""
    rows = [_row(number) for number in range(40)]
    found = compare_outputs(_output(rows), _output(rows))
    assert (found.rows, found.same, found.changed, found.only_before, found.only_after) == ((40, 40), 40, 0, 0, 0)
    assert (found.examples, found.statuses) == ([], {})


def test_changed_answers_and_statuses_are_counted() -> None:
    """A row is changed if its answer or its status differs; pairs of different statuses are counted."""
    before = [_row(number) for number in range(20)]
    after = [dict(row) for row in before]
    after[3]["completion"] = "another answer"
    after[5] |= {"status": "failed", "completion": None, "error_message": "the service failed"}
    after[6] |= {"status": "failed", "completion": None, "cost_usd": Decimal(0)}
    found = compare_outputs(_output(before), _output(after), examples=2)
    assert (found.same, found.changed, dict(found.statuses)) == (17, 3, {("ok", "failed"): 2})
    assert found.cost_nano == (20_000, 19_000)
    assert [row.key for row in found.examples] == [
        {"source_file": "in.parquet", "row_number": 3},
        {"source_file": "in.parquet", "row_number": 5},
    ]
    assert (found.examples[0].before["completion"], found.examples[0].after["completion"]) == (
        "answer 3",
        "another answer",
    )
    assert found.examples[1].after["error_message"] == "the service failed"


def test_rows_of_one_output_only() -> None:
    """Rows are matched by their place in the input, in whatever order they come."""
    before = [_row(number) for number in range(10)]
    after = [_row(number) for number in reversed(range(4, 13))]
    found = compare_outputs(_output(before), _output(after))
    assert (found.same, found.changed, found.only_before, found.only_after) == (6, 0, 4, 3)


def test_rows_are_matched_by_columns() -> None:
    """With `on`, rows that moved to another place in the input are matched by what identifies them."""
    before = [_row(number) for number in range(10)]
    after = [_row(number + 5, id=f"p{number}", completion=f"answer {number}") for number in range(10)]
    assert compare_outputs(_output(before), _output(after)).changed == 5
    found = compare_outputs(_output(before), _output(after), ["id"])
    assert (found.same, found.changed) == (10, 0)


def test_rows_of_for_each_are_matched_in_their_order() -> None:
    """Several rows of one input row are matched one by one."""
    before = [_row(number // 3, completion=f"{number}") for number in range(12)]
    after = [dict(row) for row in before]
    after[4]["completion"] = "another"
    found = compare_outputs(_output(before), _output(after))
    assert (found.same, found.changed, found.examples[0].before["completion"]) == (11, 1, "4")


def test_an_output_without_rows() -> None:
    """An empty output differs in all rows of the other."""
    rows = [_row(number) for number in range(3)]
    assert compare_outputs(_output([]), _output(rows)).only_after == 3
    assert compare_outputs(_output(rows), _output([])).only_before == 3


def test_columns_that_do_not_identify_a_row_are_refused() -> None:
    """A column with the same value in several rows, or one that is not there, is refused by its name."""
    rows = [_row(number, id="same") for number in range(3)]
    with pytest.raises(BadInput, match="id do not identify the rows"):
        compare_outputs(_output(rows), _output(rows), ["id"])
    with pytest.raises(BadInput, match="no column 'sku'; they have 'id'"):
        compare_outputs(_output(rows), _output(rows), ["sku"])
