"""The report's charts are drawn to scale and can be read."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element, fromstring
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from parquill.tasks.records import WORST_CASE
from parquill.tasks.results.charts import (
    LEFT,
    RIGHT,
    WIDTH,
    Chart,
    draw_cost,
    draw_costs,
    draw_latencies,
    draw_lengths,
    draw_rows_over_time,
    draw_spend_over_time,
)
from parquill.tasks.results.distribution import Distribution
from parquill.tasks.results.timeline import Timeline

SVG = "{http://www.w3.org/2000/svg}"
PARIS = ZoneInfo("Europe/Paris")


def _summary(paid: str = "8.00", budget: str | None = "20", **changes: Any) -> dict[str, Any]:
    plain = {"expected": "4.00", "p90": "4.50", "worst": "16.00", "low": "3.20", "high": "4.80", **changes}
    estimate = {f"cost_usd_{name}": amount for name, amount in plain.items() if name != "basis"}
    return {
        "paid_usd": paid,
        "estimate": {"basis": changes.get("basis", "history"), **estimate},
        "budget": {"run_usd": budget},
    }


def _parsed(chart: Chart | None) -> Element:
    assert chart is not None
    return fromstring(chart.svg)


def _widths(picture: Element) -> list[float]:
    return [float(bar.attrib["width"]) for bar in picture.iter(f"{SVG}rect")]


def _texts(picture: Element, kind: str = "") -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text") if not kind or text.attrib["class"] == kind]


def _of(*values: int) -> Distribution:
    made = Distribution()
    made.add(np.array(values, np.int64))
    return made


def _line(*rows: tuple[int, int, int]) -> Timeline:
    made = Timeline()
    times, ok, costs = np.array(rows, np.int64).T
    made.add(times * 1_000_000, ok, costs)
    return made


def test_cost_is_drawn_to_scale() -> None:
    """What was paid, expected, possible and allowed are bars of one scale, each with its dollars."""
    chart = draw_cost(_summary())
    paid, expected, worst, budget = _widths(_parsed(chart))
    assert (paid / budget, expected / budget, worst / budget) == pytest.approx((0.4, 0.2, 0.8), abs=0.01)
    assert chart is not None
    assert [row[1] for row in chart.rows] == ["$8.00", "$4.00", "$16.00", "$20.00"]
    assert "$3.20 to $4.80" in chart.caption


def test_a_cost_above_everything_is_still_inside() -> None:
    """If a service bills more than the worst case, no bar leaves the picture, and no label is over a bar."""
    picture = _parsed(draw_cost(_summary("32000000.00")))
    ends = [float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in picture.iter(f"{SVG}rect")]
    assert max(ends) < WIDTH - 6 * len("$32,000,000.00")


def test_without_history_nothing_was_expected() -> None:
    """A first run has no bar of an expected cost, and no interval."""
    chart = draw_cost(_summary(basis=WORST_CASE, low=None, high=None, budget=None))
    assert chart is not None
    assert [row[0] for row in chart.rows] == ["paid by this run", "worst case"]
    assert not chart.caption


def test_what_costs_nothing_has_no_picture() -> None:
    """A job that is free has no chart of its cost, also if it has a budget."""
    free = dict.fromkeys(("expected", "p90", "worst", "low", "high"), "0.000000000")
    assert draw_cost(_summary("0.000000000", **free)) is None


def test_lengths_are_drawn_to_scale() -> None:
    """A bin's bar is as high as its share of the tallest, and the line passes through the predicted shares."""
    lengths = _of(*[32] * 50, *[40] * 100)
    picture = _parsed(draw_lengths(lengths, [(20, 0.5), (21, 0.5), (22, 0.0)]))
    heights = [float(bar.attrib["height"]) for bar in picture.iter(f"{SVG}rect")]
    assert heights[1] / heights[0] == pytest.approx(2, abs=0.01)
    line = next(picture.iter(f"{SVG}polyline")).attrib["points"].split()
    places = [float(point.split(",")[1]) for point in line]
    assert places[0] == places[1]
    bottom = max(float(bar.attrib["y"]) + float(bar.attrib["height"]) for bar in picture.iter(f"{SVG}rect"))
    assert (bottom - places[0]) / heights[1] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("values", [(1,), (50, 51), (1, 10**6), tuple(range(1, 3_000)), (120_000, 95_000_000)], ids=str)
def test_labels_are_apart_and_inside(values: tuple[int, ...]) -> None:
    """Whatever the values are, labels of an axis do not collide and do not leave the picture, nor do bars."""
    for chart in (draw_lengths(_of(*values)), draw_latencies(_of(*values)), draw_costs(_of(*values))):
        picture = _parsed(chart)
        labels = sorted(
            (float(text.attrib["x"]), len(text.text or ""))
            for text in picture.iter(f"{SVG}text")
            if text.attrib["class"] == "middle"
        )
        assert labels
        for (x, size), (next_x, next_size) in pairwise(labels):
            assert next_x - x > 3.3 * (size + next_size)
        assert labels[-1][0] + 3.3 * labels[-1][1] <= WIDTH
        for bar in picture.iter(f"{SVG}rect"):
            assert LEFT <= float(bar.attrib["x"]) <= float(bar.attrib["x"]) + float(bar.attrib["width"]) <= RIGHT + 1
        assert all(len(text) * 6.5 <= LEFT for text in _texts(picture, "end"))


def test_one_length_does_not_fill_the_picture() -> None:
    """If all answers are equally long, their bar is narrow, and the axis shows how long they are."""
    picture = _parsed(draw_lengths(_of(*[42] * 9)))
    assert max(_widths(picture)) < 60
    assert len(_texts(picture, "middle")) > 1


def test_a_chart_has_its_figures_as_a_table() -> None:
    """The rows of the table add up to the values, and the caption has median, mean and greatest value."""
    chart = draw_latencies(_of(*[500_000] * 30, 2_000_000, 0))
    assert chart is not None
    assert sum(int(row[1]) for row in chart.rows) == 31
    assert "greatest 2 s. 1 more have 0." in chart.caption
    assert draw_latencies(_of()) is None


def test_time_is_shown_in_the_zone_of_the_job() -> None:
    """Times are those of the job's time zone, and labels are at round times there."""
    line = _line((1_795_831_200, 1, 5), (1_795_831_200 + 8 * 3_600, 0, 7))  # 03:00 in Paris
    rows, spend = draw_rows_over_time(line, PARIS), draw_spend_over_time(line, PARIS)
    assert rows is not None
    assert spend is not None
    assert rows.rows[0] == ["2026-11-28 03:00:00", "1", "0"]
    assert rows.rows[-1] == ["2026-11-28 11:00:00", "0", "1"]
    assert "Rows that are not ok are on top" in rows.caption
    assert _texts(_parsed(rows), "middle") == ["04:00", "06:00", "08:00", "10:00"]
    assert spend.rows[-1][1] == "$0.00000001"
    assert spend.caption.startswith("$0.00000001 for")


def test_what_took_a_second_has_no_timeline() -> None:
    """If everything was finished at once, or nothing was, there is nothing to see over time; nor if it was free."""
    assert draw_rows_over_time(Timeline(), PARIS) is None
    assert draw_rows_over_time(_line((100, 1, 5)), PARIS) is None
    assert draw_spend_over_time(_line((100, 1, 0), (200, 1, 0)), PARIS) is None


@pytest.mark.parametrize("seconds", [2, 59, 600, 86_399, 86_400, 40 * 86_400, 3_000 * 86_400])
def test_times_of_any_length_are_labeled(seconds: int) -> None:
    """A run of two seconds or of years has a few labels that do not collide."""
    picture = _parsed(draw_rows_over_time(_line((1_795_831_207, 1, 1), (1_795_831_207 + seconds, 1, 1)), PARIS))
    labels = [
        (float(text.attrib["x"]), len(text.text or ""))
        for text in picture.iter(f"{SVG}text")
        if text.attrib["class"] == "middle"
    ]
    assert 1 <= len(labels) <= 6
    assert all(next_x - x > 3.3 * (size + next_size) for (x, size), (next_x, next_size) in pairwise(labels))
