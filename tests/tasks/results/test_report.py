"""report.html: one file that needs nothing else, in which every value from outside stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from parquill.tasks.results.overview import Overview
from parquill.tasks.results.report import SHORT, render_report
from parquill.tasks.results.report_plan import ReportPlan
from tests.tasks.results.result_rows import RUN, failed_row, result_row, summary_of, table_of

HOSTILE = "</style><script>alert(1)</script></details>\x1b[31m\u202e<img src=x onerror=alert(2)> ${{ 7*7 }} 'a\" `<b>`"
SETTINGS = [("output", "/srv/out"), ("prompt.user", "{{ text }}")]
PLAN = ReportPlan(settings=SETTINGS, columns=["text"], for_each=["language"], id_column="id", timezone="Europe/Paris")
VOID = {"meta", "br", "hr", "wbr", "rect", "line", "polyline"}


class _Page(HTMLParser):
    """The elements and the text of a page; a closing tag must close the element that is open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _render(rows: list[dict[str, Any]], plan: ReportPlan = PLAN, **changes: Any) -> str:
    table = table_of(rows)
    return render_report(summary_of(table, **changes), Overview.of(RUN, plan, table.to_batches()))


def _mixed() -> list[dict[str, Any]]:
    return [failed_row(n) if n % 4 == 0 else result_row(n) for n in range(40)]


@pytest.mark.parametrize(
    "rows",
    [[], [result_row(0)], [failed_row(0)], [failed_row(n, "timeout") for n in range(30)], _mixed()],
    ids=["no rows", "one row", "one failed row", "all failed", "some failed"],
)
def test_the_page_needs_nothing_else(rows: list[dict[str, Any]]) -> None:
    """Nothing on the page is fetched, run or sent, and each link leads to a place on it."""
    page = _Page(_render(rows))
    assert not {tag for tag, _ in page.tags} & set("script link img iframe object embed form base audio video".split())
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in {"src", "style", "action"}], tag
        assert attributes.get("href", "#rows").removeprefix("#") in places
        assert "url(" not in str(attributes)
    style = _render(rows).partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"url\(|@import|https?:", style)


def test_the_policy_allows_the_own_style_sheet_only() -> None:
    """The page's policy names the hash of its style sheet, so a style or script in a cell has no effect."""
    text = _render(_mixed())
    policy = next(each["content"] for each in _Page(text).all("meta") if each.get("http-equiv"))
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_hostile_cells_stay_text() -> None:
    """Tags, the end of the style sheet, escapes and bidi overrides in any value are shown as text."""
    row = result_row(0, id=HOSTILE, text=HOSTILE, language=HOSTILE, completion=HOSTILE, source_file=HOSTILE)
    bad = failed_row(1, error_message=HOSTILE, text=HOSTILE)
    groups = {HOSTILE: [{"value": HOSTILE, "rows": 1, "not_ok": 0, "cost_usd": "0.1", "mean_answer_tokens": 2.0}]}
    plan = ReportPlan(settings=[(HOSTILE, HOSTILE), ("output", HOSTILE)], for_each=["language"], id_column="id")
    text = _render([row, bad], plan, job=HOSTILE, model=HOSTILE, message=HOSTILE, groups=groups)
    page, plain = _Page(text), _Page(_render([result_row(0), failed_row(1)], message="x"))
    known = {tag for tag, _ in plain.tags}
    assert {tag for tag, _ in page.tags} <= known | {"code"}
    assert page.text.count("<script>alert(1)</script>") > 10
    assert "<script" not in text
    assert "<img" not in text
    assert not set(text) & {"\x1b", "\u202e"}


@pytest.mark.parametrize("text", ["a `b", "`<script>`", "x", "``"])
def test_code_in_a_sentence_stays_text(text: str) -> None:
    """What stands between backticks in a message is code, and markup in it is text."""
    page = _render([failed_row(0)], message=text)
    assert "<script" not in page
    assert text.replace("`", "" if text.count("`") == 2 else "`") in _Page(page).text


def test_any_writing_can_be_read() -> None:
    """Joined emoji, Persian joiners and the blanks of other languages are shown as they are."""
    family, persian = "\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e\u0648"
    text = _Page(_render([result_row(0, completion=f"{family} {persian} \u9774\u3000\u30a6\tend")])).text
    assert f"{family} {persian} \u9774 \u30a6 end" in text


def test_the_first_thing_is_what_to_do() -> None:
    """The page begins with the headline and what to do, before any table."""
    text = _Page(_render(_mixed())).text
    head = text[: text.index("by status")]
    assert "30 of 40 rows ok" in head
    assert "the 10 rows that are not ok have the reason bad_request: correct the setting" in head
    assert "exit" not in head
    calm = _Page(_render([result_row(0)])).text
    assert "What to do: nothing: every row has its answer." in calm


def test_long_cells_are_cut_and_can_be_opened() -> None:
    """A cell shows its beginning at once and more on demand; of a very long one the page says that the rest is cut."""
    text = _render([result_row(0, completion="a" * SHORT + "b" * 10, text="c" * 10_000)])
    assert f'{"a" * SHORT}<details><summary>… all of it (310 characters)</summary><span class="rest">bbb' in text
    assert "all of it (10,000 characters)" in text
    assert "(cut here; the results have the rest)" in text
    assert "c" * 3_001 not in text


def test_every_chart_has_titles_and_a_table() -> None:
    """Each chart names both axes and has a label, and the same figures stand beside it as a table."""
    page = _Page(_render(_mixed()))
    charts = [each for each in page.all("svg") if each.get("class") == "chart"]
    assert len(charts) == 6
    assert all(chart["aria-label"] and chart["role"] == "img" for chart in charts)
    assert page.text.count("As a table") == 6
    for title in (
        "output tokens of an answer",
        "seconds from request to answer",
        "US dollars for a row",
        "US dollars so far",
    ):
        assert title in page.text
    assert page.text.count("time (Europe/Paris)") == 2


def test_what_is_empty_is_left_out() -> None:
    """A run that answered nothing, or everything at once, has no empty charts and no empty sections."""
    failed = _Page(_render([failed_row(0)]))
    assert [each["href"] for each in failed.all("a")] == ["#rows", "#errors", "#spread", "#samples", "#settings"]
    assert "This run paid for no answer." in failed.text
    nothing = _Page(_render([]))
    assert [each["href"] for each in nothing.all("a")] == ["#rows", "#spread", "#settings"]
    assert "check input: it has no rows" in nothing.text


def test_the_same_results_give_the_same_page() -> None:
    """Made again from the results and from what the manifest keeps, the page is the same to the byte."""
    table = table_of(_mixed())
    kept = ReportPlan.from_json(PLAN.to_json())
    first, again = (
        render_report(summary_of(table), Overview.of(RUN, plan, table.to_batches(max_chunksize=size)))
        for plan, size in ((PLAN, 1_000), (kept, 3))
    )
    assert first == again


def test_an_output_of_an_earlier_version_has_a_report() -> None:
    """Without what newer manifests keep, the page lacks its settings only."""
    table = table_of(_mixed())
    page = _Page(render_report(summary_of(table), Overview.of(RUN, ReportPlan.from_json(None), table.to_batches())))
    assert "This output does not keep its settings." in page.text
    assert "Random rows" in page.text


def test_a_few_rows_of_a_million_can_be_seen() -> None:
    """In the strip of statuses, one row of a million has a visible part, and the parts fill it."""
    rows = {"total": 1_000_000, "ok": 999_999, "failed": 1, "reused": 0}
    table = table_of([failed_row(0)])
    text = render_report(summary_of(table, rows=rows), Overview.of(RUN, PLAN, table.to_batches()))
    strip = text.partition('<div class="strip">')[2].partition("</div>")[0]
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="10"', strip)]
    assert len(widths) == 2
    assert min(widths) > 3
    assert sum(widths) == pytest.approx(1000, abs=0.1)
    assert ">99.9 %" in _Page(text).text
