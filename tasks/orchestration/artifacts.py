"""The tables of estimate and summary in Markdown, made with pandas; every value from outside is escaped."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from typing import Any

import pandas as pd

from parquill.tasks.money.figures import estimate_pairs
from parquill.tasks.records import Estimate
from parquill.tasks.results.charts import draw_cost
from parquill.tasks.results.escaping import escape, escape_own
from parquill.tasks.results.figures import (
    GROUP_HEAD,
    error_figures,
    group_figures,
    status_figures,
    summary_figures,
    summary_sentences,
)
from parquill.tasks.results.overview import Overview
from parquill.tasks.results.result_batch import ShownRow
from parquill.tasks.storage.uri import join, redact_uri

MAX_GROUPS = 20  # values of a `for_each` name
MAX_ROWS = 20  # rows that are not ok
MAX_ID = 80  # characters of an id


def _markdown(frame: pd.DataFrame, own: Sequence[str] = ()) -> str:
    """Return a table; the columns `own` hold sentences of Parquill, in which code is marked."""
    lines = ["| " + " | ".join(escape(name) for name in frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    shown = [escape_own if name in own else escape for name in frame.columns]
    for row in frame.itertuples(index=False):
        cells = [show(value) for show, value in zip(shown, row, strict=True)]
        lines += ["| " + " | ".join(cells) + " |"]
    return "\n".join(lines)


def estimate_table(estimate: Estimate) -> str:
    """Return the table of the estimate."""
    pairs = estimate_pairs(estimate)
    if estimate.tokens_note:
        about = {"prompt tokens": f"prompt tokens ({estimate.tokens_note})"}
        pairs = {about.get(name, name): value for name, value in pairs.items()}
    return _markdown(pd.DataFrame({"": list(pairs), "value": list(pairs.values())}))


def rows_table(summary: dict[str, Any]) -> str:
    """Return the table of rows by status, with their shares."""
    return "## Rows\n\n" + _markdown(pd.DataFrame(status_figures(summary), columns=["status", "rows", "share"]))


def groups_tables(summary: dict[str, Any]) -> str:
    """Return a table for each `for_each` name: rows, cost and answer length by value."""
    tables = []
    for name, rows in group_figures(summary, MAX_GROUPS).items():
        whole = len(summary["groups"][name])
        of = f"\n\nThe {len(rows)} of {whole:,} values with the most rows that are not ok." if whole > len(rows) else ""
        tables.append(f"## By {escape(name)}\n\n{_markdown(pd.DataFrame(rows, columns=[name, *GROUP_HEAD]))}{of}")
    return "\n\n".join(tables)


def cost_picture(summary: dict[str, Any]) -> str:
    """Return the chart of the cost as an image in Markdown: Prefect's pages show that, but no inline SVG."""
    chart = draw_cost(summary, stands_alone=True)
    if chart is None:
        return ""
    return f"![{chart.title}](data:image/svg+xml;base64,{base64.b64encode(chart.svg.encode()).decode()})"


def places(output_uri: str) -> str:
    """Return where the files are. They are no links: a browser opens no file from a page of a server."""
    files = {"Report": "report.html", "Results": "results", "Summary": "summary.json"}
    lines = [f"{name}: {escape(join(redact_uri(output_uri), file))}" for name, file in files.items()]
    shown = escape(f"parquill report {shlex.quote(redact_uri(output_uri))}")
    return "## Files\n\n" + "\n\n".join([*lines, f"In a terminal: {shown}"])


def what_to_do(step: str) -> str:
    """Return the first line of an artifact: what the reader should do."""
    return f"**What to do:** {escape_own(step)}."


def money_table(summary: dict[str, Any]) -> str:
    """Return the table of cost against estimate, tokens and requests, with sentences about them."""
    pairs = summary_figures(summary)
    table = "## Cost\n\n" + _markdown(pd.DataFrame({"": list(pairs), "value": list(pairs.values())}))
    return "\n\n".join([table, *map(escape, summary_sentences(summary))])


def errors_tables(summary: dict[str, Any], overview: Overview | None) -> str:
    """Return a table of reasons why rows are not ok, with what to do, and one of the first rows of each reason."""
    errors = error_figures(summary)
    if not errors:
        return ""
    text = "## Not ok\n\n" + _markdown(
        pd.DataFrame(errors, columns=["code", "rows", "meaning", "what to do"]), ["meaning", "what to do"]
    )
    if overview is None:
        return text
    codes = [error.code for error in errors]
    rows = [
        [*_place(row), row.status, row.error_code, row.error_message]
        for code in codes
        for row in overview.failures.get(code, ())
    ]
    columns = [*_place_names(overview), "status", "code", "message"]
    return f"{text}\n\n### The first of each\n\n{_markdown(pd.DataFrame(rows[:MAX_ROWS], columns=columns))}"


def slowest_table(overview: Overview | None) -> str:
    """Return the table of the slowest answers, in seconds."""
    if overview is None or not overview.slowest.rows:
        return ""
    rows = [[f"{row.latency_s:.2f}", *_place(row)] for row in overview.slowest.rows]
    return "## Slowest\n\n" + _markdown(pd.DataFrame(rows, columns=["seconds", *_place_names(overview)]))


def _place_names(overview: Overview) -> list[str]:
    id_column = overview.plan.id_column
    return [*([id_column] if id_column is not None else []), *overview.plan.for_each, "file", "row"]


def _place(row: ShownRow) -> list[Any]:
    """Return where a row is: its id, if the job has an `id_column`, its `for_each` values, its file and number.

    No other cell is shown in Prefect.
    """
    # promise: S3 of a row's cells Prefect gets its id and its `for_each` values only
    return [
        *([(row.id.text or "")[:MAX_ID]] if row.id is not None else []),
        *row.for_each,
        row.source_file,
        row.row_number,
    ]
