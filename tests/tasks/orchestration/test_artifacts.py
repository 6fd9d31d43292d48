"""The parts of Prefect's artifacts."""

from __future__ import annotations

from parquill.tasks.orchestration.artifacts import (
    cost_picture,
    errors_tables,
    groups_tables,
    places,
    rows_table,
    slowest_table,
    what_to_do,
)
from parquill.tasks.results.overview import Overview
from parquill.tasks.results.report_plan import ReportPlan
from tests.tasks.results.result_rows import RUN, failed_row, result_row, summary_of, table_of

PLAN = ReportPlan(for_each=["language"], id_column="id")
ROWS = [
    failed_row(0, completion="SECRET", text="SECRET", id="SKU-7"),
    result_row(1, text="SECRET", completion="SECRET"),
]


def test_no_cell_but_the_id_is_in_an_artifact() -> None:
    """Tables of rows name each row by its id and `for_each` values; no other cell and no answer is in them."""
    table = table_of(ROWS)
    overview = Overview.of(RUN, PLAN, table.to_batches())
    errors, slow = errors_tables(summary_of(table), overview), slowest_table(overview)
    assert "| SKU\\-7 | fr | in.parquet | 0 | failed |" in errors
    assert "| 0.20 | r1 | fr | in.parquet | 1 |" in slow
    assert "SECRET" not in errors + slow


def test_each_reason_says_what_to_do() -> None:
    """The table of reasons has the advice of each, with its code marked as code."""
    table = table_of([failed_row(0, "timeout")])
    text = errors_tables(summary_of(table), None)
    assert "no answer within retry.timeout\\_s | raise `retry.timeout_s` if the model is slow" in text


def test_files_are_named_and_not_linked() -> None:
    """The places of the files are text: a browser opens no file from a page of a server."""
    text = places("/srv/out put")
    assert "Report: /srv/out put/report.html" in text
    assert "'/srv/out put'" in text
    assert "](" not in text
    assert "file:" not in text
    assert "secret" not in places("s3://bucket/out?endpoint_override=secret")


def test_a_table_of_many_values_is_cut() -> None:
    """Of hundreds of `for_each` values, those with the most rows that are not ok are shown."""
    groups = [
        {"value": f"v{n}", "rows": 9, "not_ok": n, "cost_usd": "0.5", "mean_answer_tokens": None} for n in range(300)
    ]
    text = groups_tables(summary_of(table_of([]), groups={"language": groups}))
    assert "| v299 | 9 | 299 | $0.50 |" in text
    assert "| v1 |" not in text
    assert "The 20 of 300 values" in text


def test_the_first_line_is_what_to_do() -> None:
    """What to do is a line of its own, in which code is marked."""
    assert what_to_do("raise `budget.run_usd` <now>") == "**What to do:** raise `budget.run_usd` &lt;now&gt;."


def test_without_cost_there_is_no_picture() -> None:
    """A free run has no picture of its cost; any other has one that needs no network."""
    assert not cost_picture(summary_of(table_of([])))
    assert cost_picture(summary_of(table_of([result_row(0)]))).startswith(
        "![Cost against the estimate](data:image/svg+xml"
    )
    assert "| ok | 1 | 100 % |" in rows_table(summary_of(table_of([result_row(0)])))
