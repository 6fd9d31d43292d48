"""The overview of the results: one pass, the same for the same results, bounded in memory."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from parquill.tasks.results.overview import EXAMPLES, SAMPLED, SLOWEST, Overview
from parquill.tasks.results.report_plan import ReportPlan
from parquill.tasks.results.samples import MAX_CELL
from tests.tasks.results.result_rows import RUN, failed_row, result_row, table_of

PLAN = ReportPlan(columns=["text"], for_each=["language"], id_column="id")


def _overview(rows: list[dict[str, Any]], chunk: int = 1_000, run: str = RUN, plan: ReportPlan = PLAN) -> Overview:
    return Overview.of(run, plan, table_of(rows).to_batches(max_chunksize=chunk))


def _mixed(count: int) -> list[dict[str, Any]]:
    codes = ("bad_request", "timeout")
    return [failed_row(n, codes[n % 2]) if n % 5 == 0 else result_row(n) for n in range(count)]


def test_batches_make_no_difference() -> None:
    """The same results give the same overview, however they are divided into batches."""
    rows = _mixed(300)
    whole = _overview(rows)
    for chunk in (1, 7, 100):
        parts = _overview(rows, chunk)
        for name in ("random", "failures"):
            assert getattr(parts, name) == getattr(whole, name), (chunk, name)
        assert parts.longest.rows == whole.longest.rows
        assert parts.slowest.rows == whole.slowest.rows
        assert parts.timeline.buckets == whole.timeline.buckets
        for name in ("lengths", "latencies_us", "costs_nano"):
            assert (getattr(parts, name).counts == getattr(whole, name).counts).all()
            assert getattr(parts, name).total == getattr(whole, name).total


def test_another_run_samples_other_rows() -> None:
    """The run decides which rows are sampled: the same run the same ones, another run others."""
    rows = [result_row(n) for n in range(500)]
    first, again, other = (_overview(rows, run=run).random for run in (RUN, RUN, "20261129-030000-cd34"))
    assert first == again
    assert len({row.row_number for row in first}) == SAMPLED
    assert [row.row_number for row in first] != [row.row_number for row in other]


def test_the_samples_are_the_right_rows() -> None:
    """The longest answers, the slowest rows, and the first rows of each reason of failure are found."""
    rows = _mixed(400)
    rows[111] |= {"completion": "long " * 100}
    rows[222] |= {"latency_s": 99.0}
    found = _overview(rows, 50)
    assert found.longest.rows[0].row_number == 111
    assert len(found.longest.rows) == SAMPLED
    assert found.slowest.rows[0].row_number == 222
    assert [row.row_number for row in found.slowest.rows[1:]] == [399, 398, 397, 396]
    assert len(found.slowest.rows) == SLOWEST
    assert {code: [row.row_number for row in each] for code, each in found.failures.items()} == {
        "bad_request": [0, 10, 20],
        "timeout": [5, 15, 25],
    }
    assert len(found.failures["timeout"]) == EXAMPLES


def test_only_what_this_run_paid_for_is_in_the_distributions() -> None:
    """Rows of an earlier run and rows that reuse an answer are in the samples, but not in distributions and timeline."""
    rows = [result_row(0), result_row(1, run_id="earlier"), result_row(2, reused=True, completion_tokens=0)]
    found = _overview(rows)
    assert (found.lengths.count, found.latencies_us.count, found.costs_nano.count) == (1, 1, 1)
    assert [row.row_number for row in found.slowest.rows] == [0]
    assert len(found.random) == 3


def test_a_row_shows_where_it_is_and_what_went_in() -> None:
    """A row has its id, its `for_each` values, the columns of the prompt first, and its answer."""
    (row,) = _overview([result_row(3, latency_s=0.25)]).random
    assert (row.id and row.id.text, row.for_each, row.source_file, row.row_number) == ("r3", ("fr",), "in.parquet", 3)
    assert ([(name, cell.text) for name, cell in row.cells], row.more_columns) == ([("text", "text 3")], 0)
    assert (row.answer.text, row.status, row.tokens, row.cost_nano, row.latency_s) == ("answer 3", "ok", 4, 4, 0.25)


def test_a_prefix_is_understood() -> None:
    """With `column_prefix` the overview is the same."""
    rows = _mixed(30)
    found = Overview.of(RUN, PLAN, table_of(rows, "llm_").to_batches())
    assert found.random == _overview(rows).random


def test_cells_are_cut() -> None:
    """Of a cell of megabytes only its beginning stays in memory, with the number of its characters."""
    (row,) = _overview([result_row(0, text="x" * 5_000_000, completion="y" * 4_000)]).random
    assert [(len(cell.text or ""), cell.length) for cell in (row.cells[0][1], row.answer)] == [
        (MAX_CELL, 5_000_000),
        (MAX_CELL, 4_000),
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([b"ok \xff\xfe"]).cast(pa.string(), safe=False).view(pa.string()), "ok \ufffd\ufffd"),
        (pa.array([b"\x00\x01"], pa.binary()), "AAE="),
        (pa.array([2**62], pa.timestamp("s")), "(a value that cannot be shown)"),
        (pa.array([{"a": [1, None]}]), '{"a":[1,null]}'),
        (pa.array([None], pa.null()), None),
        (pa.array([True]), "true"),
    ],
    ids=["not UTF-8", "bytes", "a time beyond Python's", "a struct", "null", "a truth value"],
)
def test_any_cell_can_be_shown(values: pa.Array, text: str | None) -> None:
    """No value of the input ends the report: each has a text, or one that says that it has none."""
    rows = table_of([result_row(0)]).drop(["text"]).append_column("text", values)
    order = ["id", "text", *(name for name in rows.column_names if name not in {"id", "text"})]
    (row,) = Overview.of(RUN, PLAN, rows.select(order).to_batches()).random
    assert row.cells[0][1].text == text


def test_no_rows_make_an_empty_overview() -> None:
    """An empty input has an overview without rows."""
    found = Overview.of(RUN, PLAN, [pa.RecordBatch.from_pylist([], schema=table_of([]).schema)])
    assert (found.random, found.failures, found.longest.rows, found.timeline.buckets) == ([], {}, [], [])
