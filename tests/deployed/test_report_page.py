"""report.html in a real browser: wide and narrow, light and dark, on paper. It needs no server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from parquill.tasks.results.overview import Overview
from parquill.tasks.results.report import render_report
from parquill.tasks.results.report_plan import ReportPlan
from tests.deployed.test_browser import CHROMIUM, QUIET, _dismiss
from tests.tasks.results.result_rows import RUN, failed_row, result_row, summary_of, table_of

HOSTILE = "</style><style>*{display:none}</style><script>alert(1)</script><img src=x onerror=alert(2)>"
LONG = "word" * 500

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of a run with hostile and very long cells."""
    rows = [failed_row(n, id=LONG) if n % 7 == 0 else result_row(n, text=HOSTILE, completion=LONG) for n in range(60)]
    plan = ReportPlan(settings=[("output", "/" + LONG), ("prompt.user", LONG)], for_each=["language"], id_column="id")
    table = table_of(rows)
    groups = {"language": [{"value": LONG, "rows": 60, "not_ok": 9, "cost_usd": "0.1", "mean_answer_tokens": 30.5}]}
    path = tmp_path_factory.mktemp("report") / "report.html"
    text = render_report(summary_of(table, groups=groups), Overview.of(RUN, plan, table.to_batches()))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_in_a_browser(browser: Browser, report: Path, width: int, scheme: str) -> None:
    """The page fits its window, is light or dark as the screen is, opens its parts, and fetches and runs nothing."""
    page = browser.new_page(
        viewport={"width": width, "height": 800}, color_scheme="dark" if scheme == "dark" else "light"
    )
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: seen.append(message.text))
    page.on("dialog", lambda dialog: _dismiss(dialog, seen))
    page.goto(report.as_uri())
    assert seen == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert color == ("rgb(17, 22, 28)" if scheme == "dark" else "rgb(245, 247, 249)")
    assert page.get_by_text("What to do:").is_visible()
    assert page.locator("svg.chart").count() == 6
    assert all(
        box is not None and box["width"] > 200 for box in (e.bounding_box() for e in page.locator("svg.chart").all())
    )
    page.get_by_text("Longest answers").click()
    page.get_by_text("all of it (2,000 characters)").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("navigation").get_by_text("Settings").click()
    assert seen == [report.as_uri()]
    page.close()


def test_the_report_on_paper(browser: Browser, report: Path) -> None:
    """The page can be printed, and a dark screen prints on a white page."""
    page = browser.new_page(color_scheme="dark")
    page.goto(report.as_uri())
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.get_by_role("navigation").is_visible()
    page.close()
