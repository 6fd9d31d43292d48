"""What a person sees and does in Prefect's own pages, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from playwright.sync_api import Dialog, Page, expect, sync_playwright

from tests.end_to_end.jobs import Jobs
from tests.production.house import ROOT, House

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# `SCREENSHOTS=1 make e2e` renews the pictures of the README
PICTURES = ROOT / "data" / "screenshots" if os.environ.get("SCREENSHOTS") else ROOT / "build" / "screenshots"
HOSTILE = "<img src=x onerror=alert(1)>.parquet"
SLOW_MS = 30_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of Debian's Chromium, in which no script of a cell may ever open a dialog."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = browser.new_page(viewport={"width": 1200, "height": 800})
        opened.set_default_timeout(SLOW_MS)
        yield opened
        browser.close()


def _shoot(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1_000)  # the pages fade in
    page.screenshot(path=PICTURES / f"{name}.png")


def _see(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.get_by_text(text).first).to_be_visible(timeout=SLOW_MS)


def _dismiss(dialog: Dialog, dialogs: list[str]) -> None:
    dialogs.append(dialog.message)
    dialog.dismiss()


def _open_tab(page: Page, name: str) -> None:
    page.locator("[role=tablist]").get_by_text(name, exact=True).first.click()


def _job(made: Jobs, texts: list[str], name: str, file: str = "prompts.parquet", **changes: Any) -> dict[str, Any]:
    source = made.write(pa.table({"text": texts}), f"{name}/{file}")
    settings = {"input": str(source), "name": name, "output": str(made.folder / name / "out"), "budget": {"run_usd": 1}}
    return made.job(**{**settings, **changes})


def test_a_run_is_understood_at_a_glance(house: House, made: Jobs, page: Page) -> None:
    """Name, state and its sentence, the estimate before and the summary after: tables by status, error and language, estimate against actual, pictures that are really drawn, links, and failed rows in a table in which nothing from outside is markup."""
    made.service.configure(output_tokens="lognormal:12:0.3", faults=[{"kind": "status:400", "match": "bad"}])
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: _dismiss(dialog, dialogs))
    texts = ["bad", *(f"text {n} " + "word " * (n % 30) for n in range(60))]
    languages = {"language": ["fr", "de", "ja"]}
    changes: dict[str, Any] = {"for_each": languages, "prompt": {"user": "{{ language }}: {{ text }}"}}
    job = _job(made, texts, "shop-texts", HOSTILE, tolerate={"not_ok": 0.1}, **changes)
    run = house.start_run("complete-prompts/complete", {"job": job})
    message = house.ended(run)["state"]["message"]
    page.goto(f"{house.ui}/runs/flow-run/{run}")
    for text in ("shop-texts · 183 rows · gpt-4o-mini", "Completed with failed rows"):
        _see(page, text)
    _shoot(page, "run")
    _open_tab(page, "Artifacts")
    _see(page, "parquill-progress-shop-texts")
    _see(page, re.compile(r"183 of 183 rows, 3 not ok, \$[\d.]+ of \$1.00 spent"))
    _open_tab(page, "Details")
    _see(page, message[:40])
    page.goto(f"{house.ui}/artifacts/artifact/{house.artifact('parquill-estimate-shop-texts')['id']}")
    _see(page, "Estimate of shop-texts")
    _see(page, "cost, worst case")
    page.goto(f"{house.ui}/artifacts/artifact/{house.artifact('parquill-summary-shop-texts')['id']}")
    for text in ("180 of 183 rows ok", "By language", "Not ok", "bad_request", HOSTILE, "summary.json"):
        _see(page, text)
    for row in (["fr", "61", "1"], ["failed", "3", "1.6%"], ["bad_request", "3"]):
        cells = "".join(rf"\s*{re.escape(cell)}\s*" for cell in row)
        expect(page.locator("tr", has_text=re.compile(cells)).first).to_be_attached()
    widths = page.evaluate("[...document.querySelectorAll('img[src^=\"data:image/svg\"]')].map(i => i.naturalWidth)")
    assert widths == [640, 640], "a picture that the page does not draw"
    assert (
        page.locator("a", has_text="Results").first.get_attribute("href") == (Path(job["output"]) / "results").as_uri()
    )
    page.get_by_text("By language").first.scroll_into_view_if_needed()
    _shoot(page, "summary")
    assert not dialogs
    assert page.locator("img[src='x']").count() == 0


def test_progress_while_it_runs(house: House, made: Jobs, page: Page) -> None:
    """While a run is under way its progress is told with rows, spend and time left, and cancel from the page ends it as Cancelled, with what was answered kept."""
    made.service.configure(latency_ms=300)
    job = _job(made, [f"slow {n}" for n in range(900)], "slow", limits={"max_at_once": 4})
    run = house.start_run("complete-prompts/complete", {"job": job})
    House.wait("the first answers", lambda: made.service.stats()["billed"] > 12, 60)
    House.wait("a time left", lambda: " left · " in house.artifact("parquill-progress-slow")["description"], 30)
    page.goto(f"{house.ui}/artifacts/key/parquill-progress-slow")
    _see(page, re.compile(r"of 900 rows, 0 not ok, \$[\d.]+ of \$1.00 spent, \d+ (s|min) left"))
    _shoot(page, "progress")
    page.goto(f"{house.ui}/runs/flow-run/{run}")
    page.get_by_role("button", name="Cancel").first.click()
    _shoot(page, "cancel")
    page.get_by_role("button", name="Confirm").click()
    ended = house.ended(run)
    assert (ended["state_type"], ended["state_name"]) == ("CANCELLED", "Cancelled")
    sent = made.service.stats()["requests"]
    page.reload()
    _see(page, "Cancelled")
    made.service.configure(latency_ms=1)
    again = house.ended(house.start_run("complete-prompts/complete", {"job": job}))
    assert again["state_name"] == "Completed"
    assert made.service.stats()["billed"] <= 900 + 4
    assert made.service.stats()["requests"] - sent <= 900 - sent + 4


@pytest.mark.parametrize("is_approved", [True, False])
def test_the_pages_own_button_approves_and_declines(house: House, made: Jobs, page: Page, is_approved: bool) -> None:  # noqa: FBT001 - parametrized
    """A run that waits shows its estimate in the page's own form: submitted it goes on, with the switch off it ends, and nothing is sent before."""
    name = "ask-me" if is_approved else "do-not"
    job = _job(made, [f"text {n}" for n in range(20)], name, budget={"run_usd": 1, "approval_usd": 0.00001})
    run = house.start_run("complete-prompts/complete", {"job": job})
    house.ended(run, ["PAUSED"])
    assert made.service.stats()["requests"] == 0
    page.goto(f"{house.ui}/runs/flow-run/{run}")
    page.get_by_role("button", name="Resume").first.click()
    _see(page, f"{name} waits for your approval")
    _see(page, "completion tokens, expected")
    if is_approved:
        _shoot(page, "approval")
    else:
        page.locator(
            "[role=dialog] [role=switch], [role=dialog] input[type=checkbox], [role=dialog] .p-toggle__control"
        ).first.click()
    page.get_by_role("button", name="Submit").click()
    ended = house.ended(run)
    assert ended["state_name"] == ("Completed" if is_approved else "Not approved"), ended["state"]
    assert made.service.stats()["billed"] == (20 if is_approved else 0)
