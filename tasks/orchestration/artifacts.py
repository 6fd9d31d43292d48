"""The tables of estimate and summary in Markdown, made with pandas; every value from outside is escaped."""

from __future__ import annotations

import base64
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from parquill.tasks.money.amounts import format_column, usd_to_nano
from parquill.tasks.money.figures import estimate_pairs
from parquill.tasks.records import Estimate
from parquill.tasks.results.escaping import escape
from parquill.tasks.results.figures import summary_figures, summary_sentences
from parquill.tasks.storage.uri import join

if TYPE_CHECKING:
    from parquill.tasks.results.totals import ResultTotals


def _markdown(frame: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(escape(name) for name in frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(escape(value) for value in row) + " |" for row in frame.itertuples(index=False)]
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
    rows = pd.Series({k: v for k, v in summary["rows"].items() if k not in {"total", "reused"}}, dtype="int64")
    frame = pd.DataFrame({"status": rows.index, "rows": rows.map("{:,}".format).to_numpy()})
    total = max(1, summary["rows"]["total"])
    frame["share"] = [f"{count / total:.1%}" for count in rows]
    return "## Rows\n\n" + _markdown(frame[rows.to_numpy() > 0])


def groups_tables(summary: dict[str, Any]) -> str:
    """Return a table for each `for_each` name: rows and cost by value."""
    tables = []
    for name, groups in summary["groups"].items():
        frame = pd.DataFrame(groups)
        frame["cost_usd"] = format_column([usd_to_nano(Decimal(usd)) for usd in frame["cost_usd"]])
        frame = frame.rename(columns={"value": name, "not_ok": "not ok", "cost_usd": "cost"})
        tables.append(f"## By {escape(name)}\n\n{_markdown(frame)}")
    return "\n\n".join(tables)


def draw(picture: str, about: str) -> str:
    """Return an SVG as an image in Markdown: Prefect's pages show that, but no inline SVG."""
    if not picture:
        return ""
    return f"![{about}](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"


def links(output: Path, named: str) -> str:
    """Return where the files are: links for a browser on the same machine, with the paths or URIs for everyone else."""
    places = {"Results": "results", "Summary": "summary.json", "Report": "report.html"}
    return "\n\n".join(
        f"[{name}](<{(output / file).as_uri()}>): {escape(join(named, file))}" for name, file in places.items()
    )


def money_table(summary: dict[str, Any]) -> str:
    """Return the table of cost against estimate, tokens and requests, with sentences about them."""
    pairs = summary_figures(summary)
    table = "## Cost\n\n" + _markdown(pd.DataFrame({"": list(pairs), "value": list(pairs.values())}))
    return "\n\n".join([table, *map(escape, summary_sentences(summary))])


def slowest_table(sums: ResultTotals) -> str:
    """Return the table of the slowest answers, in seconds."""
    if not sums.slowest:
        return ""
    rows = [[f"{seconds:.2f}", file, row, *each] for seconds, file, row, each in sorted(sums.slowest, reverse=True)]
    return "## Slowest\n\n" + _markdown(pd.DataFrame(rows, columns=["seconds", "file", "row", *sums.groups]))


def errors_table(sums: ResultTotals) -> str:
    """Return tables of error codes and of the first rows that are not ok."""
    if not sums.first_errors:
        return ""
    counts = pd.Series(sums.errors).sort_values(ascending=False)
    frame = pd.DataFrame({"code": counts.index, "rows": counts.to_numpy()})
    where, what = ["source_file", "row_number"], ["status", "error_code", "error_message"]
    rows = [[*(e[n] for n in where), *e["for_each"], *(e[n] for n in what)] for e in sums.first_errors]
    first = pd.DataFrame(rows, columns=[*where, *sums.groups, *what])
    return "## Not ok\n\n" + _markdown(frame) + "\n\n### The first\n\n" + _markdown(first)
