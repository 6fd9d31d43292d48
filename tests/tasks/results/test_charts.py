"""The report's charts are drawn to scale and can be read."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element, fromstring

from parquill.tasks.results.charts import draw_cost, draw_lengths

SVG = "{http://www.w3.org/2000/svg}"


def _estimate(**changes: Any) -> dict[str, Any]:
    plain = {"expected": "4.00", "p90": "4.50", "worst": "16.00", "low": "3.20", "high": "4.80"}
    return {f"cost_usd_{name}": changes.get(name, amount) for name, amount in plain.items()}


def _x(picture: Element) -> dict[str, float]:
    """Return the x position of each mark by its name, without its dollars."""
    return {str(text.text).rpartition(" ")[0]: float(text.attrib["x"]) for text in picture.iter(f"{SVG}text")}


def test_cost_is_drawn_to_scale() -> None:
    """Expected cost, worst case and cost are drawn to scale, and the interval is shaded between its bounds."""
    picture = fromstring(draw_cost(_estimate(), "8.00"))
    positions = _x(picture)
    assert positions["worst case"] == 628
    assert positions["cost"] == 12 + 616 / 2
    assert positions["expected"] == 12 + 616 / 4
    _, band = picture.iter(f"{SVG}rect")  # the first is the background
    assert float(band.attrib["x"]) == 12 + 616 / 5
    assert float(band.attrib["width"]) == round(616 / 10, 1)


def test_a_cost_above_the_worst_case_is_still_inside() -> None:
    """If a service bills more than was reserved, nothing is drawn outside the picture."""
    positions = _x(fromstring(draw_cost(_estimate(low=None, high=None), "32.00")))
    assert (positions["cost"], positions["worst case"]) == (628, 12 + 616 / 2)


def test_no_label_is_over_another() -> None:
    """On a first night the expected cost is the worst case: both labels can be read, each with its dollars."""
    picture = fromstring(draw_cost(_estimate(expected="16.00", p90="16.00", low=None, high=None), "15.990000001"))
    texts = list(picture.iter(f"{SVG}text"))
    assert [text.text for text in texts] == ["worst case $16.00", "expected $16.00", "cost $15.99"]
    heights = sorted(float(text.attrib["y"]) for text in texts)
    assert all(lower - upper >= 12 for upper, lower in pairwise(heights))  # the size of the letters
    assert heights[-1] < float(picture.attrib["viewBox"].split()[3]) - 4


def test_nothing_costs_nothing() -> None:
    """A job that is free is drawn without dividing by zero."""
    free = dict.fromkeys(("expected", "p90", "worst", "low", "high"), "0.000000000")
    assert set(_x(fromstring(draw_cost(_estimate(**free), "0.000000000"))).values()) == {12}


def test_lengths_are_drawn_to_scale() -> None:
    """A bin's bar is as high as its share of the tallest, and the line passes through the predicted shares."""
    picture = fromstring(draw_lengths({20: 50, 21: 100}, [(20, 0.5), (21, 0.5), (22, 0.0)]))
    _, *drawn = picture.iter(f"{SVG}rect")  # the first is the background
    bars = [float(bar.attrib["height"]) for bar in drawn]
    assert bars == [65.0, 130.0]
    line = next(picture.iter(f"{SVG}polyline")).attrib["points"].split()
    assert [point.split(",")[1] for point in line] == ["52.5", "52.5"]
    assert "32" in {text.text for text in picture.iter(f"{SVG}text")}  # bin 20 begins at 2 ** 5 tokens


def test_a_single_bar_says_its_tokens() -> None:
    """If all answers are about equally long, the bars show how long, and do not fill the picture."""
    for outputs, labels in ({21: 9}, ["38"]), ({21: 9, 23: 1}, ["38", "45", "54"]):
        picture = fromstring(draw_lengths(outputs, []))
        about, *shown = [text.text for text in picture.iter(f"{SVG}text")]
        assert (about, shown) == ("answers by their output tokens", labels)
        assert all(float(bar.attrib["width"]) < 80 for bar in list(picture.iter(f"{SVG}rect"))[1:])


def test_no_answers_no_picture() -> None:
    """A run without an answer has no picture of lengths."""
    assert not draw_lengths({}, [])
