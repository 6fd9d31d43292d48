"""report.html: one page without scripts or links; every value in it is escaped."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, Template

from parquill.tasks.results.charts import draw_cost, draw_lengths
from parquill.tasks.results.escaping import strip_control
from parquill.tasks.results.figures import headline, row_figures, summary_figures, summary_sentences
from parquill.tasks.storage.disk import DISK, Disk

if TYPE_CHECKING:
    from parquill.tasks.results.totals import ResultTotals

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ s.job }} {{ s.run_id }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #d8dee4 }
th { text-align: left } td.n { text-align: right; font-variant-numeric: tabular-nums } .big { font-size: 1.6rem }
</style>
<h1>{{ s.job }}</h1>
<p>{{ s.run_id }} · {{ s.model }} · {{ s.state }}, exit {{ s.exit_code }}
{%- if s.message %} · {{ s.message }}{% endif %}</p>
<p class="big">{{ headline }}</p>
<h2>Rows</h2><table>{% for name, count in rows.items() %}
<tr><th>{{ name }}<td class="n">{{ count }}{% endfor %}
</table>
<h2>Money and tokens</h2>
{{ cost }}
<table>
{% for name, value in figures.items() %}<tr><th>{{ name }}<td class="n">{{ value }}{% endfor %}
</table>
{% for sentence in sentences %}<p>{{ sentence }}</p>
{% endfor %}
{% if lengths %}<h2>Length of the answers</h2>
<p>Output tokens; the bars are the answers, the line is what was predicted.</p>
{{ lengths }}{% endif %}
{% if errors %}<h2>First rows that are not ok</h2><table><tr><th>file<th>row
{%- for name in for_each %}<th>{{ name }}{% endfor %}<th>status<th>code<th>what happened
{% for e in errors %}<tr><td>{{ e.source_file }}<td class="n">{{ e.row_number }}
{%- for value in e.for_each %}<td>{{ value }}{% endfor %}<td>{{ e.status }}<td>{{ e.error_code }}
<td>{{ e.error_message }}{% endfor %}</table>{% endif %}
{% if slowest %}<h2>Slowest answers</h2><table><tr><th>seconds<th>file<th>row
{%- for name in for_each %}<th>{{ name }}{% endfor %}
{% for seconds, file, row, each in slowest %}
<tr><td class="n">{{ "%.2f"|format(seconds) }}<td>{{ file }}<td class="n">{{ row }}
{%- for value in each %}<td>{{ value }}{% endfor %}{% endfor %}
</table>{% endif %}
</html>
"""


def _shown(value: Any) -> Any:
    # promise: S4 control characters are removed from values in the HTML report
    return strip_control(value) if type(value) is str else value  # charts are Markup: already safe


@functools.cache
def _page() -> Template:
    # promise: S4 values in the HTML report are escaped
    return Environment(autoescape=True, finalize=_shown).from_string(_PAGE)


def write_report(
    path: Path,
    summary: dict[str, Any],
    sums: ResultTotals,
    predicted: Sequence[Sequence[float]] = (),
    disk: Disk = DISK,
) -> None:
    """Write the page; `predicted` is the predicted share of answers by bin of output length. Raises DiskFailed."""
    text = _page().render(
        s=summary,
        headline=headline(summary),
        rows=row_figures(summary),
        figures=summary_figures(summary),
        sentences=summary_sentences(summary),
        for_each=list(sums.groups),
        errors=sums.first_errors,
        slowest=sorted(sums.slowest, reverse=True),
        cost=draw_cost(summary["estimate"], summary["paid_usd"]),
        lengths=draw_lengths(sums.outputs, predicted),
    )
    disk.write_whole(path, text.encode())
