"""report.html: one page that needs no network, runs no script and can be printed; every value in it is escaped.

It is made of a summary and an overview of the results. The same two give the same page, to the byte.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup, escape

from parquill.data import FOLDER
from parquill.tasks.money.amounts import format_usd
from parquill.tasks.records import STATUSES
from parquill.tasks.results.charts import (
    Chart,
    draw_cost,
    draw_costs,
    draw_latencies,
    draw_lengths,
    draw_rows_over_time,
    draw_spend_over_time,
)
from parquill.tasks.results.escaping import strip_hidden
from parquill.tasks.results.figures import (
    GROUP_HEAD,
    error_figures,
    group_figures,
    headline,
    status_figures,
    summary_figures,
    summary_sentences,
    time_figures,
)
from parquill.tasks.results.next_step import ending, next_step, severity
from parquill.tasks.results.overview import Overview
from parquill.tasks.results.result_batch import ShownRow
from parquill.tasks.storage.disk import DISK, Disk

SHORT = 300  # characters of a cell that are shown at once
MAX_GROUPS = 100  # values of a `for_each` name
MIN_STRIP = 4  # thousandths of the strip's width, so that a single row of a million can be seen


def _shown(value: Any) -> Any:
    # promise: S4 control characters are removed from values in the HTML report
    return strip_hidden(value) if type(value) is str else value  # charts are Markup: already safe


def _code(text: str) -> Markup:
    """Return a sentence in which what stands between two backticks is code."""
    parts = _shown(text).split("`")
    if len(parts) % 2 == 0:
        return escape(_shown(text))
    # promise: S4 parts of a sentence that are shown as code in the report are escaped
    marked = [
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    ]
    return Markup().join(marked)


@functools.cache
def _page() -> tuple[Template, Markup]:
    # promise: S4 values in the HTML report are escaped
    environment = Environment(autoescape=True, finalize=_shown, loader=FileSystemLoader(FOLDER / "report"))
    environment.filters["code"] = _code
    style = (FOLDER / "report" / "style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html"), Markup(style)  # noqa: S704 - shipped with the code


def render_report(summary: Mapping[str, Any], overview: Overview) -> str:
    """Return the page."""
    template, style = _page()
    plan = overview.plan
    zone = ZoneInfo(plan.timezone)
    settings = {name: value for name, value in plan.settings}  # noqa: C416 - JSON gives lists
    over_time = [draw(overview.timeline, zone) for draw in (draw_rows_over_time, draw_spend_over_time)]
    spread = [
        draw_lengths(overview.lengths, plan.output_shares),
        draw_latencies(overview.latencies_us),
        draw_costs(overview.costs_nano),
    ]
    parts: dict[str, Any] = {
        "errors": error_figures(summary),
        "times_charts": _drawn(over_time),
        "groups": group_figures(summary, MAX_GROUPS),
        "samples": list(_samples(overview)),
    }
    return template.render(
        **parts,
        s=summary,
        style=style,
        # promise: S4 the report's policy allows its own style sheet and nothing else
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        headline=headline(summary),
        severity=severity(summary),
        ending=ending(summary),
        step=next_step(summary),
        times=time_figures(summary, zone),
        contents=list(_contents(parts)),
        statuses=status_figures(summary),
        strip=list(_strip(summary["rows"])),
        cost=draw_cost(summary),
        figures=summary_figures(summary),
        sentences=summary_sentences(summary),
        spread=_drawn(spread),
        slowest=overview.slowest.rows,
        id_column=plan.id_column,
        for_each=plan.for_each,
        group_head=GROUP_HEAD,
        settings=plan.settings,
        output=shlex.quote(settings.get("output", "OUTPUT")),
        short=SHORT,
        usd=format_usd,
    )


def _drawn(charts: Sequence[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _contents(parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "rows", "Rows and cost"
    if parts["errors"]:
        yield "errors", "Not ok"
    if parts["times_charts"]:
        yield "time", "Over time"
    yield "spread", "Distributions"
    if parts["groups"]:
        yield "groups", "Groups"
    if parts["samples"]:
        yield "samples", "Samples"
    yield "settings", "Settings"


def _strip(rows: Mapping[str, int]) -> Iterator[tuple[float, float, str]]:
    """Yield place, width and status of each part of the strip, in thousandths."""
    known = {name: rows[name] for name in STATUSES if rows.get(name)}
    wanted = {name: max(MIN_STRIP, 1000 * count / rows["total"]) for name, count in known.items()}
    x, whole = 0.0, sum(wanted.values())
    for name, share in wanted.items():
        width = 1000 * share / whole
        yield round(x, 2), round(width, 2), name
        x += width


def _samples(overview: Overview) -> Iterator[tuple[str, list[ShownRow], bool]]:
    """Yield title, rows and whether they are shown at first."""
    if overview.random:
        yield "Random rows", overview.random, True
    if overview.longest.rows:
        yield "Longest answers", overview.longest.rows, False
    for code, rows in overview.failures.items():
        yield f"Not ok: {code}", rows, False


def write_report(path: Path, summary: Mapping[str, Any], overview: Overview, disk: Disk = DISK) -> None:
    """Write the page. Raises DiskFailed."""
    disk.write_whole(path, render_report(summary, overview).encode())
