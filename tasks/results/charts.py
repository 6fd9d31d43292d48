"""Two small SVG charts for the report: the cost against the estimate, and the lengths of the answers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from jinja2 import Environment, Template
from markupsafe import Markup

from parquill.tasks.money.amounts import format_usd, usd_to_nano
from parquill.tasks.money.length_stats import OUTPUT_BINS_A_DOUBLING
from parquill.tasks.records import WORST_CASE

WIDTH, LEFT, RIGHT = 640.0, 12.0, 628.0
LINE = 52  # the height at which the line of dollars is drawn
BARS = 130.0  # height of the tallest bar
MAX_BAR_WIDTH = 77.0  # of a bar

_COST = """<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 640 112" width="640" font-size="12"
 font-family="system-ui, sans-serif"><title>{{ title }}</title>
<rect width="640" height="112" rx="4" fill="#fff"/>
<line x1="12" x2="628" y1="52" y2="52" stroke="#aab4be"/>
{% if band %}<rect x="{{ band[0] }}" width="{{ band[1] }}" y="40" height="24" fill="#bcd7f2"/>{% endif %}
{% for mark in marks %}<line x1="{{ mark.x }}" x2="{{ mark.x }}" y1="{{ mark.top }}" y2="{{ mark.bottom }}"
 stroke="{{ mark.color }}" stroke-width="{{ mark.width }}"/><text x="{{ mark.at }}" y="{{ mark.text_y }}"
 text-anchor="{{ mark.anchor }}" fill="{{ mark.color }}">{{ mark.name }}</text>
{% endfor %}</svg>"""
_LENGTHS = """<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 640 176" width="640" font-size="11"
 font-family="system-ui, sans-serif"><title>{{ title }}</title>
<rect width="640" height="176" rx="4" fill="#fff"/>
<text x="628" y="14" text-anchor="end" fill="#55616d">answers by their output tokens</text>
{% for bar in bars %}<rect x="{{ bar.x }}" width="{{ bar.width }}" y="{{ bar.y }}" height="{{ bar.height }}"
 fill="#8fb8de"/>{% if bar.label %}<text x="{{ bar.x }}" y="164" fill="#55616d">{{ bar.label }}</text>{% endif %}
{% endfor %}{% if line %}<polyline points="{{ line }}" fill="none" stroke="#b3541e" stroke-width="2"/>{% endif %}
<line x1="12" x2="628" y1="150" y2="150" stroke="#aab4be"/></svg>"""


@functools.cache  # compiling a chart takes longer than drawing it
def _chart(text: str) -> Template:
    return Environment(autoescape=True).from_string(text)


def draw_cost(estimate: Mapping[str, Any], cost_usd: str) -> Markup:
    """Draw a line of dollars: the 90 % interval shaded, if there is one, and marks at expected, worst case and cost."""
    amounts = {name: Decimal(estimate[f"cost_usd_{name}"]) for name in ("expected", "p90", "worst")}
    most = max(*amounts.values(), Decimal(cost_usd), Decimal("1e-9"))

    def place(amount: Decimal) -> float:
        return round(LEFT + float(amount / most) * (RIGHT - LEFT), 1)

    def mark(name: str, amount: Decimal, text_y: int, *, color: str, width: int) -> dict[str, Any]:
        x = place(amount)
        anchor = "start" if x < WIDTH / 3 else "end" if x > WIDTH * 2 / 3 else "middle"
        top, bottom = (24, 64) if text_y < LINE else (40, 74)
        return {"x": x, "at": x, "name": f"{name} {format_usd(usd_to_nano(amount))}", "top": top, "bottom": bottom} | {
            "text_y": text_y, "anchor": anchor, "color": color, "width": width
        }  # fmt: skip

    # each text has its own height: the marks may be close; in a first run nothing is expected
    is_worst_case = estimate.get("basis") == WORST_CASE
    marks = [
        mark("worst case", amounts["worst"], 88, color="#7a8691", width=2),
        *([] if is_worst_case else [mark("expected", amounts["expected"], 104, color="#2f6fab", width=2)]),
        mark("cost", Decimal(cost_usd), 18, color="#b3541e", width=3),
    ]
    band = None
    if estimate["cost_usd_low"] is not None:
        low, high = (place(Decimal(estimate[f"cost_usd_{side}"])) for side in ("low", "high"))
        band = (low, round(max(1.0, high - low), 1))
    title = "Cost against the estimate" + ("; shaded: its 90 % interval" if band else "")
    return Markup(_chart(_COST).render(title=title, marks=marks, band=band))  # noqa: S704 - autoescaped


def draw_lengths(outputs: Mapping[int, int], predicted: Sequence[Sequence[float]]) -> Markup:
    """Draw bars, the share of answers by output tokens (`outputs`: bin -> answers), and a line of what was predicted.

    There are `OUTPUT_BINS_A_DOUBLING` bins per doubling, as in `length_stats`. Empty if there are no answers.
    """
    answers = sum(outputs.values())
    shares = {number: count / answers for number, count in outputs.items()}
    expected = {int(number): share for number, share in predicted if share >= 0.0005}
    if not shares:
        return Markup("")
    first, last = min([*shares, *expected]), max([*shares, *expected])
    step = min(MAX_BAR_WIDTH, (RIGHT - LEFT) / (last - first + 1))
    is_narrow = last - first < OUTPUT_BINS_A_DOUBLING  # then at most one bin begins at a power of two
    tallest = max([*shares.values(), *expected.values()])

    def height(share: float) -> float:
        return round(share / tallest * BARS, 1)

    bars = [
        {
            "x": round(LEFT + (number - first) * step + 1, 1),
            "width": round(max(1.0, step - 2), 1),
            "y": round(150 - height(shares.get(number, 0.0)), 1),
            "height": height(shares.get(number, 0.0)),
            "label": f"{round(2 ** (number / OUTPUT_BINS_A_DOUBLING)):,}"
            if number % OUTPUT_BINS_A_DOUBLING == 0 or is_narrow
            else "",
        }
        for number in range(first, last + 1)
    ]
    line = ""
    if expected:
        line = " ".join(
            f"{LEFT + (number - first + 0.5) * step:.1f},{150 - height(expected.get(number, 0.0)):.1f}"
            for number in range(first, last + 1)
        )
    title = "Output tokens of the answers" + ("; line: as predicted" if line else "")
    return Markup(_chart(_LENGTHS).render(title=title, bars=bars, line=line))  # noqa: S704 - autoescaped
