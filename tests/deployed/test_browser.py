"""What a person sees and does in Prefect's own pages, in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from playwright.sync_api import Dialog, Locator, Page, expect, sync_playwright

from tests.deployed.live_stack import ROOT, LiveStack
from tests.tools.jobs import Jobs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PICTURES = ROOT / "build" / "screenshots"
# `SCREENSHOTS=1 make e2e` updates the pictures of the README
OF_README = {"run", "summary", "approval"} if os.environ.get("SCREENSHOTS") else set()
HOSTILE = "<img src=x onerror=alert(1)>.parquet"
SLOW_MS = 30_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """Open a page of Debian's Chromium; tests check that no cell's script opens a dialog in it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = browser.new_page(viewport={"width": 1200, "height": 800})
        opened.set_default_timeout(SLOW_MS)
        yield opened
        browser.close()


def _shoot(page: Page, name: str) -> None:
    folder = ROOT / "data" / "screenshots" if name in OF_README else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1_000)  # the pages fade in
    page.screenshot(path=folder / f"{name}.png")


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


def test_a_run_is_understood_at_a_glance(stack: LiveStack, made: Jobs, page: Page) -> None:
    """A run's pages show its name, state and message, the estimate and the summary, with tables by status, error and
    language. The picture is drawn, no link is dead, and failed rows are in a table in which outside text is no markup.
    """
    made.service.configure(output_tokens="lognormal:12:0.3", faults=[{"kind": "status:400", "match": "bad"}])
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: _dismiss(dialog, dialogs))
    texts = ["bad", *(f"text {n} " + "word " * (n % 30) for n in range(60))]
    languages = {"language": ["fr", "de", "ja"]}
    changes: dict[str, Any] = {"for_each": languages, "prompt": {"user": "{{ language }}: {{ text }}"}}
    job = _job(made, texts, "shop-texts", HOSTILE, tolerate={"not_ok": 0.1}, **changes)
    run = stack.start_run("complete-prompts/complete", {"job": job})
    message = stack.ended(run)["state"]["message"]
    page.goto(f"{stack.ui}/runs/flow-run/{run}")
    for text in ("shop-texts · 183 rows · gpt-4o-mini", "Completed with failed rows"):
        _see(page, text)
    _shoot(page, "run")
    _open_tab(page, "Artifacts")
    _see(page, "parquill-progress-shop-texts")
    _see(page, re.compile(r"183 of 183 rows, 3 not ok, \$[\d.]+ of \$1.00 spent"))
    _open_tab(page, "Details")
    _see(page, message[:40])
    page.goto(f"{stack.ui}/artifacts/artifact/{stack.artifact('parquill-estimate-shop-texts')['id']}")
    _see(page, "Estimate of shop-texts")
    _see(page, "cost, worst case")
    page.goto(f"{stack.ui}/artifacts/artifact/{stack.artifact('parquill-summary-shop-texts')['id']}")
    for text in ("180 of 183 rows ok", "By language", "Not ok", "bad_request", HOSTILE, "summary.json"):
        _see(page, text)
    first = [[language, HOSTILE, "0", "failed", "bad_request"] for language in ("fr", "de", "ja")]
    for row in (["fr", "61", "1"], ["failed", "3", "1.6 %"], ["bad_request", "3"], *first):
        cells = "".join(rf"\s*{re.escape(cell)}\s*" for cell in row)
        expect(page.locator("tr", has_text=re.compile(cells)).first).to_be_attached()
    widths = page.evaluate("[...document.querySelectorAll('img[src^=\"data:image/svg\"]')].map(i => i.naturalWidth)")
    assert widths == [400], "the page does not draw the picture"
    assert page.locator("a[href^=file]").count() == 0, "a browser opens no file from a page of a server"
    _see(page, "What to do:")
    page.get_by_text("By language").first.scroll_into_view_if_needed()
    _shoot(page, "summary")
    assert not dialogs
    assert page.locator("img[src='x']").count() == 0


def test_progress_while_it_runs(stack: LiveStack, made: Jobs, page: Page) -> None:
    """While a run is under way, its page shows rows, spend and time left.
    Cancel on the page ends it as Cancelled, and its answers are kept.
    """
    made.service.configure(latency_ms=300)
    job = _job(made, [f"slow {n}" for n in range(900)], "slow", limits={"max_at_once": 4})
    run = stack.start_run("complete-prompts/complete", {"job": job})
    LiveStack.wait("the first answers", lambda: made.service.stats()["billed"] > 12, 60)
    LiveStack.wait("a time left", lambda: " left · " in stack.artifact("parquill-progress-slow")["description"], 30)
    page.goto(f"{stack.ui}/artifacts/key/parquill-progress-slow")
    _see(page, re.compile(r"of 900 rows, 0 not ok, \$[\d.]+ of \$1.00 spent, \d+ (s|min) left"))
    _shoot(page, "progress")
    page.goto(f"{stack.ui}/runs/flow-run/{run}")
    page.get_by_role("button", name="Cancel").first.click()
    _shoot(page, "cancel")
    page.get_by_role("button", name="Confirm").click()
    ended = stack.ended(run)
    assert (ended["state_type"], ended["state_name"]) == ("CANCELLED", "Cancelled")
    sent = made.service.stats()["requests"]
    page.reload()
    _see(page, "Cancelled")
    made.service.configure(latency_ms=1)
    again = stack.ended(stack.start_run("complete-prompts/complete", {"job": job}))
    assert again["state_name"] == "Completed"
    assert made.service.stats()["billed"] <= 900 + 4
    assert made.service.stats()["requests"] - sent <= 900 - sent + 4


@pytest.mark.nightly
def test_names_read_as_they_were_written(stack: LiveStack, made: Jobs, page: Page) -> None:
    """If names of a job and a model look like Markdown or HTML, both of Prefect's UIs show them unchanged, descriptions
    included. Nothing is fetched from outside, no link is created, and no name becomes an element.
    """
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())  # requests of the UIs themselves
    name = "![i](http://127.0.0.1:9/pixel.png) <h1>x</h1> [l](http://evil)"
    model = "gpt-<b>4o</b>|_mini_*x*(http://127.0.0.1:9/m.png) www.evil.example me@evil.example"
    price = {"usd_per_mtok_input": 1, "usd_per_mtok_output": 1}
    budget = {"run_usd": 0.0004, "soft_fraction": 0.01}
    odd: dict[str, Any] = {"price": price, "model": model, "tokenizer": "o200k_base", "budget": budget}
    job = _job(made, ["a", "b"], "odd", **odd) | {"name": name}
    run = stack.start_run("complete-prompts/complete", {"job": job})
    assert stack.ended(run)["state_type"] == "COMPLETED"
    found = stack.ask("POST", "/artifacts/filter", flow_runs={"id": {"any_": [run]}})
    kinds = {artifact["key"].split("-i-http")[0]: artifact for artifact in found}
    assert set(kinds) == {f"parquill-{kind}" for kind in ("estimate", "progress", "soft-limit", "summary")}
    for kind, artifact in kinds.items():
        read = {"parquill-estimate": [name, model], "parquill-progress": [model], "parquill-summary": [name]}
        for pages in (stack.ui, f"{stack.ui}/v2"):
            page.goto(f"{pages}/artifacts/artifact/{artifact['id']}")
            for text in read.get(kind, [name, model]):
                _see(page, text)
            addresses = page.evaluate("[...document.querySelectorAll('a')].map(a => a.getAttribute('href') || '')")
            outside = [each for each in addresses if not each.startswith("/") and re.search(":9/|evil", each)]
            assert not outside, (kind, pages)
            assert page.locator("h1", has_text=re.compile("^x$")).count() == 0
            assert page.locator("b, em", has_text=re.compile("^(4o|x|mini)$")).count() == 0
    page.goto(f"{stack.ui}/runs/flow-run/{run}")
    _open_tab(page, "Artifacts")
    _see(page, model)
    assert not [url for url in fetched if ":9/" in url or "evil" in url]
    assert not [
        url for url in fetched if not re.match(r"(data|blob):|http://127\.0\.0\.1|https://\S+amplitude\.com/", url)
    ]


def _field(page: Page, name: str) -> Locator:
    """Return the part of a form for one setting, the first of that name."""
    label = f"div[contains(@class, 'p-label__header')]//span[starts-with(normalize-space(text()), '{name}')]"
    whole = "contains(concat(' ', @class, ' '), ' schema-form-property ')"
    return page.locator(f"xpath=//div[{whole}][./{label}]").first


@pytest.mark.nightly
def test_a_job_is_started_from_the_form(stack: LiveStack, made: Jobs, page: Page) -> None:
    """In the form of `complete` each setting has its help.
    Six filled-in settings are a complete job; all others may stay unchanged.
    """
    path = made.write(["a", "b", "c"])
    deployment = stack.ask("GET", "/deployments/name/complete-prompts/complete")["id"]
    page.goto(f"{stack.ui}/deployments/deployment/{deployment}/run")
    for help_text in ("The settings; the mapping of a job file.", "The longest answer in tokens; it bounds what"):
        _see(page, help_text)
    given = {"Name": "by-form", "Input": str(path), "Output": str(made.folder / "out"), "Model": "gpt-4o-mini"}
    for name, value in {**given, "Max Output Tokens": "50", "Base Url": made.service.url}.items():
        _field(page, name).locator("textarea, input").first.fill(value)
    _field(page, "Prompt").get_by_text("Prompt", exact=True).last.click()
    _field(page, "User").locator("textarea").first.fill("Say {{ text }}")
    _shoot(page, "form")
    page.get_by_role("button", name="Submit").click()
    wanted = {"deployment_id": {"any_": [deployment]}, "name": {"like_": "by-form"}}
    LiveStack.wait("its run", lambda: bool(stack.ask("POST", "/flow_runs/filter", flow_runs=wanted)), 60)
    (run,) = stack.ask("POST", "/flow_runs/filter", flow_runs=wanted)
    assert stack.ended(run["id"])["state_name"] == "Completed"
    assert made.service.stats()["billed"] == 3


@pytest.mark.parametrize("is_approved", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_the_pages_own_button_approves_and_declines(
    stack: LiveStack,
    made: Jobs,
    page: Page,
    is_approved: bool,  # noqa: FBT001 - parametrized
) -> None:
    """A waiting run shows its estimate in Prefect's own form. With the switch on, the run continues; submitted
    unchanged, it ends. Before that, nothing is sent.
    """
    name = "ask-me" if is_approved else "do-not"
    job = _job(made, [f"text {n}" for n in range(20)], name, budget={"run_usd": 1, "approval_usd": 0.00001})
    run = stack.start_run("complete-prompts/complete", {"job": job})
    stack.ended(run, ["PAUSED"])
    assert made.service.stats()["requests"] == 0
    page.goto(f"{stack.ui}/runs/flow-run/{run}")
    page.get_by_role("button", name="Resume").first.click()
    _see(page, f"{name} waits for your approval")
    _see(page, "completion tokens, at most")
    if is_approved:
        _shoot(page, "approval")
        page.locator(
            "[role=dialog] [role=switch], [role=dialog] input[type=checkbox], [role=dialog] .p-toggle__control"
        ).first.click()
    page.get_by_role("button", name="Submit").click()
    ended = stack.ended(run)
    assert ended["state_name"] == ("Completed" if is_approved else "Not approved"), ended["state"]
    assert made.service.stats()["billed"] == (20 if is_approved else 0)
