"""The charts of the report, as SVG: cost against the estimate, distributions, rows and money over time.

They have no colors of their own: the page's style sheet colors them for a light and for a dark page. Each comes with
the same figures as a table, for readers who do not see it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup

from parquill.data import FOLDER
from parquill.tasks.money.amounts import format_column, format_usd, nano_to_usd, usd_to_nano
from parquill.tasks.money.length_stats import OUTPUT_BINS_A_DOUBLING
from parquill.tasks.records import WORST_CASE
from parquill.tasks.results.distribution import Distribution, nice_steps
from parquill.tasks.results.timeline import Timeline

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 66, 388, 30, 172
MAX_TICKS = 5
# seconds between labels of a time axis
_TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
# the style of a chart that stands outside the report
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#3d4852}.end{text-anchor:end}.middle,.axis{text-anchor:middle}"
    ".paper{fill:#fff}.base,.grid{stroke:#c8d0d8}.bar{fill:#3b78b5}.plan{fill:#a9b4bf}.range{stroke:#1c2733}"
)


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, what it shows in a sentence, and its figures as a table: names of the columns, then rows."""

    title: str
    svg: Markup
    caption: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


@dataclass(slots=True)
class _Canvas:
    """Shapes, in the order in which they are drawn."""

    title: str
    x_title: str = ""
    y_title: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    lines: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    rects: list[tuple[float, float, float, float, str, str]] = field(default_factory=list)
    curves: list[tuple[str, str]] = field(default_factory=list)
    texts: list[tuple[float, float, str, str]] = field(default_factory=list)

    def draw(self, style: str = "") -> Markup:
        """Return the SVG; with a `style` it stands by itself."""
        shapes = {name: getattr(self, name) for name in self.__slots__}
        place = {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
        return Markup(_template().render(**shapes, **place, style=style))  # noqa: S704 - autoescaped

    def scale_y(self, most: float, label: Callable[[float], str], least_step: float = 1.0) -> Callable[[float], float]:
        """Draw the vertical axis from 0 to `most`, and return the place of a value on it."""
        step = max(least_step, _round_up(most / 4)) if most else 1.0
        top = step * max(1, math.ceil(most / step - 1e-9))

        def place(value: float) -> float:
            return round(BOTTOM - value / top * (BOTTOM - TOP), 1)

        for number in range(round(top / step) + 1):
            y = place(number * step)
            self.lines.append((LEFT, y, RIGHT, y, "grid" if number else "base"))
            self.texts.append((LEFT - 6, y + 4, label(number * step), "end"))
        return place

    def label_x(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Label the horizontal axis; a label at an edge does not leave the picture, and none is over another."""
        until = -math.inf
        for x, text in ticks:
            half = len(text) * 3.9
            shift = min(0.0, WIDTH - 4 - half - x)
            if x + shift - half < until + 6:
                continue
            until = x + shift + half
            self.lines.append((round(x, 1), BOTTOM, round(x, 1), BOTTOM + 4, "base"))
            self.texts.append((round(x + shift, 1), BOTTOM + 18, text, "middle"))


@functools.cache
def _template() -> Template:
    environment = Environment(autoescape=True, loader=FileSystemLoader(FOLDER / "report"))
    return environment.get_template("chart.svg")


def draw_cost(summary: Mapping[str, Any], *, stands_alone: bool = False) -> Chart | None:
    """Draw bars for what was paid, expected, possible and allowed, with the 90 % interval as a line if there is one.

    `summary` is that of a run; of a first run nothing was expected. None if neither the run nor its estimate cost
    anything.
    """
    estimate, budget = summary["estimate"], summary["budget"]["run_usd"]
    known = [("paid by this run", summary["paid_usd"], "bar")]
    if estimate.get("basis") != WORST_CASE:
        known.append(("expected", estimate["cost_usd_expected"], "plan"))
    known.append(("worst case", estimate["cost_usd_worst"], "plan"))
    if not any(Decimal(usd) for _, usd, _ in known):
        return None
    if budget is not None:
        known.append(("budget", budget, "plan"))
    amounts = [usd_to_nano(Decimal(usd)) for _, usd, _ in known]
    texts = format_column(amounts)
    low, high = (estimate.get(f"cost_usd_{side}") for side in ("low", "high"))
    interval = None if low is None or high is None else [usd_to_nano(Decimal(usd)) for usd in (low, high)]
    most = max(*amounts, *(interval or ()), 1)
    start, end, row = 112, WIDTH - 12 - 7 * max(map(len, texts)), 30
    title = "Cost against the estimate"
    canvas = _Canvas(title, "US dollars", height=len(known) * row + 30)

    def place(nano: int) -> float:
        return round(start + nano / most * (end - start), 1)

    for number, ((name, _, kind), nano, text) in enumerate(zip(known, amounts, texts, strict=True)):
        y = 4 + number * row
        canvas.texts += [(start - 8, y + 16, name, "end"), (WIDTH - 4, y + 16, text, "end")]
        # a cost that is not zero can be seen
        width = max(1.5, round(place(nano) - start, 1)) if nano else 0.0
        canvas.rects.append((start, y + 3, width, 18, kind, f"{name}: {text}"))
        if name == "expected" and interval is not None:
            first, last = map(place, interval)
            canvas.lines += [(first, y + 12, last, y + 12, "range")]
            canvas.lines += [(x, y + 6, x, y + 18, "range") for x in (first, last)]
    canvas.lines.append((start, 4, start, 4 + len(known) * row, "base"))
    caption = ""
    if interval is not None:
        caption = "The thin line is the interval that holds nine times in ten: {} to {}.".format(
            *format_column(interval)
        )
    rows = [[name, text] for (name, _, _), text in zip(known, texts, strict=True)]
    return Chart(title, canvas.draw(STYLE if stands_alone else ""), caption, ["", "US dollars"], rows)


def draw_lengths(lengths: Distribution, predicted: Sequence[Sequence[float]] = ()) -> Chart | None:
    """Draw how long the answers are; `predicted` is the share of answers by bin of length, as in `length_stats`.

    None without answers.
    """
    chart = _Spread("Answer length", "output tokens of an answer", "answers", lambda value: f"{round(value):,}")
    return chart.draw(lengths, predicted)


def draw_latencies(latencies_us: Distribution) -> Chart | None:
    """Draw how long the answers took; None without answers."""
    return _Spread("Latency", "seconds from request to answer", "answers", _seconds).draw(latencies_us)


def draw_costs(costs_nano: Distribution) -> Chart | None:
    """Draw what a row cost; None if no row cost anything."""
    return _Spread("Cost per row", "US dollars for a row", "rows", _dollars, ticks=4).draw(costs_nano)


@dataclass(frozen=True, slots=True)
class _Spread:
    """A chart of a distribution; `label` writes a value of it."""

    title: str
    x_title: str
    counted: str  # what is counted
    label: Callable[[float], str]
    ticks: int = MAX_TICKS

    def draw(self, found: Distribution, predicted: Sequence[Sequence[float]] = ()) -> Chart | None:
        bars = found.bars(OUTPUT_BINS_A_DOUBLING) if predicted else found.bars()
        if not bars:
            return None
        line = [
            (2 ** ((number + 0.5) / OUTPUT_BINS_A_DOUBLING), share * found.count)
            for number, share in predicted
            if share >= 0.0005
        ]
        low, high = bars[0].low, bars[-1].high
        if line:
            low, high = min(low, line[0][0]), max(high, line[-1][0])
        if high / low < 4:  # a bar or two do not fill the picture
            low, high = low / 2, high * 2
        canvas = _Canvas(
            f"{self.title} of {found.count:,} {self.counted}", f"{self.x_title} (logarithmic)", self.counted
        )
        y = canvas.scale_y(max([bar.count for bar in bars] + [count for _, count in line]), _compact)

        def x(value: float) -> float:
            return round(LEFT + math.log(value / low) / math.log(high / low) * (RIGHT - LEFT), 1)

        rows = []
        for bar in bars:
            name = f"{self.label(bar.low)} to {self.label(bar.high)}"
            if bar.count:
                rows.append([name, f"{bar.count:,}"])
            width = max(1.0, round(x(bar.high) - x(bar.low) - 1, 1))
            height = round(y(0) - y(bar.count), 1)
            canvas.rects.append((x(bar.low), y(bar.count), width, height, "bar", f"{name}: {bar.count:,}"))
        if line:
            canvas.curves.append((" ".join(f"{x(value)},{y(count)}" for value, count in line), "predicted"))
        ticks = nice_steps(low, high, self.ticks)
        canvas.label_x([(x(value), self.label(value)) for value in (ticks if len(ticks) > 1 else [low, high])])
        return Chart(
            self.title, canvas.draw(), self._caption(found, has_line=bool(line)), [self.x_title, self.counted], rows
        )

    def _caption(self, found: Distribution, *, has_line: bool) -> str:
        half, nine = self.label(found.quantile(0.5)), self.label(found.quantile(0.9))
        mean, most = self.label(found.mean), self.label(found.most)
        zeros = f" {found.zeros:,} more have 0." if found.zeros else ""
        line = " The line is what the estimate predicted." if has_line else ""
        return (
            f"Half are below about {half}, nine in ten below about {nine}; mean {mean}, greatest {most}.{zeros}{line}"
        )


def draw_rows_over_time(timeline: Timeline, zone: ZoneInfo) -> Chart | None:
    """Draw how many rows were finished when, those that are not ok apart; None if there are fewer than two buckets."""
    buckets = timeline.buckets
    if len(buckets) < 2:
        return None
    width = _width_text(timeline.width_s)
    canvas = _Canvas("Rows over time", f"time ({zone.key})", f"rows in {width}")
    y = canvas.scale_y(max(bucket.rows for bucket in buckets), _compact)
    x = _scale_time(canvas, timeline, zone)
    step = max(1.0, round(x(buckets[0].start_s + timeline.width_s) - x(buckets[0].start_s) - 0.5, 1))
    rows = []
    for bucket in buckets:
        at = _time(bucket.start_s, zone)
        rows.append([at, f"{bucket.ok:,}", f"{bucket.not_ok:,}"])
        about = f"{at}: {bucket.ok:,} ok, {bucket.not_ok:,} not ok"
        for low, high, kind in ((0, bucket.ok, "bar"), (bucket.ok, bucket.rows, "bad")):
            if high > low:
                canvas.rects.append((x(bucket.start_s), y(high), step, round(y(low) - y(high), 1), kind, about))
    busiest = max(buckets, key=lambda bucket: bucket.rows)
    caption = f"Each bar is {width}. The most: {busiest.rows:,} rows from {_time(busiest.start_s, zone)}."
    if any(bucket.not_ok for bucket in buckets):
        caption += " Rows that are not ok are on top, in another color."
    return Chart("Rows over time", canvas.draw(), caption, ["from", "ok", "not ok"], rows)


def draw_spend_over_time(timeline: Timeline, zone: ZoneInfo) -> Chart | None:
    """Draw what was spent until when; None if there are fewer than two buckets, or if nothing was spent."""
    buckets = timeline.buckets
    whole = sum(bucket.cost_nano for bucket in buckets)
    if len(buckets) < 2 or not whole:
        return None
    canvas = _Canvas("Spend over time", f"time ({zone.key})", "US dollars so far")
    y = canvas.scale_y(float(nano_to_usd(whole)), lambda usd: _dollars(usd * 1e9), 1e-9)
    x = _scale_time(canvas, timeline, zone)
    points, rows, spent = [f"{x(buckets[0].start_s)},{y(0)}"], [], 0
    for bucket in buckets:
        spent += bucket.cost_nano
        end_s = bucket.start_s + timeline.width_s
        points.append(f"{x(end_s)},{y(float(nano_to_usd(spent)))}")
        rows.append([_time(end_s, zone), format_usd(spent)])
    canvas.curves.append((" ".join([*points, f"{x(end_s)},{y(0)}"]), "area"))
    canvas.curves.append((" ".join(points), "spent"))
    caption = f"{format_usd(whole)} for the rows of this run, by the time when they were finished."
    return Chart("Spend over time", canvas.draw(), caption, ["until", "US dollars so far"], rows)


def _scale_time(canvas: _Canvas, timeline: Timeline, zone: ZoneInfo) -> Callable[[float], float]:
    buckets = timeline.buckets
    first, last = buckets[0].start_s, buckets[-1].start_s + timeline.width_s

    def place(time_s: float) -> float:
        return round(LEFT + (time_s - first) / (last - first) * (RIGHT - LEFT), 1)

    ticks = MAX_TICKS if last - first < 86_400 else 3
    days = math.ceil((last - first) / 86_400 / ticks)
    step = next((each for each in _TIME_STEPS_S if (last - first) / each <= ticks), 86_400 * days)
    offset = datetime.fromtimestamp(first, zone).utcoffset()
    shift = 0 if offset is None else int(offset.total_seconds())
    start = -(-(first + shift) // step) * step - shift  # round in local time
    form = "%H:%M:%S" if step < 60 else "%H:%M" if last - first < 86_400 else "%b %d, %H:%M"
    canvas.label_x([(place(at), _time(at, zone, form)) for at in range(start, last + 1, step)])
    return place


def _time(time_s: float, zone: ZoneInfo, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return datetime.fromtimestamp(time_s, zone).strftime(form)


def _width_text(seconds: int) -> str:
    for unit, name in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if seconds % unit == 0:
            return f"a {name}".replace("a hour", "an hour") if seconds == unit else f"{seconds // unit} {name}s"
    return f"{seconds} seconds"


def _round_up(value: float) -> float:
    """Return the next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= value * (1 - 1e-9))


def _compact(count: float) -> str:
    """Write a count in at most six characters."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= unit:
            return f"{count / (1e3 if name == 'k' else unit):g} {name}"
    return f"{count:,g}"


def _seconds(microseconds: float) -> str:
    seconds = microseconds / 1e6
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"


def _dollars(nano: float) -> str:
    """Write an amount of an axis with two significant digits."""
    amount = nano_to_usd(round(nano))
    places = 0 if amount >= 10 or amount == amount.to_integral() else min(9, max(0, 1 - amount.adjusted()))
    text = f"{amount:,.{places}f}"
    return f"${text.rstrip('0').rstrip('.') if '.' in text else text}"
