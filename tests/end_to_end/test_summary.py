"""summary.json, history and report: what ran, what it cost and what failed, equal to the rows to the last digit."""

from __future__ import annotations

import shlex
from datetime import datetime
from decimal import Decimal
from html.parser import HTMLParser

import orjson
import pytest

from parquill.flows.cli.commands import main
from parquill.tasks.results.figures import headline
from parquill.tasks.results.next_step import next_step
from tests.tools.expected import SUMMARY_KEYS, SUMMARY_NAMES, billed_usd, check_books
from tests.tools.jobs import Jobs
from tests.tools.prefect_api import ask_prefect

FAULTS = [
    {"kind": "content_filter", "match": "filter"},
    {"kind": "refusal", "match": "refuse"},
    {"kind": "length", "match": "long"},
    {"kind": "null_content", "match": "nothing"},
    {"kind": "status:400", "match": "wrong"},
    {"kind": "gateway:500", "match": "broken", "times": 1},
]
TEXTS = [
    "filter 0",
    "refuse 1",
    "long 2",
    "nothing 3",
    "wrong 4",
    "broken 5",
    None,
    *(f"fine {n}" for n in range(7, 19)),
]
STATUSES = ["refused", "refused", "truncated", "failed", "failed", "ok", "rejected", *["ok"] * 12]


def test_the_summary_is_the_sum_of_its_rows(jobs: Jobs) -> None:
    """summary.json has the keys of the contract.
    Its counts, tokens and money are the sums of the rows and equal what was billed.
    """
    jobs.service.configure(faults=FAULTS, output_tokens="lognormal:20:0.5", cached_ratio=0.3)
    settings = jobs.job(
        TEXTS, labels={"team": "search"}, budget={"run_usd": 5}, tolerate={"rejected": 0.1, "not_ok": 1.0}
    )
    done = jobs.run(settings)
    summary = done.summary
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == STATUSES
    assert set(summary) >= SUMMARY_NAMES
    for name, keys in SUMMARY_KEYS.items():
        assert set(summary[name]) == keys, name
    check_books(done)
    stats = jobs.service.stats()
    assert Decimal(summary["cost_usd"]) == billed_usd(jobs.service)
    assert summary["tokens"] == stats["billed_tokens"]
    assert summary["requests"] == {
        "sent": stats["requests"],
        "retried": 1,
        "throttled": 0,
        "in_doubt": 1,
        "submitted": 0,
    }
    assert Decimal(summary["in_doubt_usd"]) == sum(done.column("in_doubt_usd")) > 0
    assert (summary["state"], summary["exit_code"], summary["job"]) == ("finished", 0, "e2e")
    assert (summary["model"], summary["labels"]) == ("gpt-4o-mini", {"team": "search"})
    assert Decimal(summary["budget"]["run_usd"]) == 5
    began, ended = (datetime.fromisoformat(summary[name]) for name in ("started_at", "finished_at"))
    assert began.tzinfo is not None
    assert abs((ended - began).total_seconds() - summary["duration_s"]) <= 1
    estimate = summary["estimate"]
    assert estimate["prompt_tokens"] == sum(n or 0 for n in done.column("estimated_prompt_tokens"))
    assert Decimal(estimate["cost_usd_expected"]) <= Decimal(estimate["cost_usd_worst"])
    assert summary["prices"]["source"]
    assert summary["saved_usd"] == "0.000000000"


def test_history_keeps_every_run(jobs: Jobs) -> None:
    """history/RUN_ID.json holds the summary of each finished run; the latest equals summary.json."""
    first = jobs.run(jobs.job(["a"]))
    second = jobs.run(jobs.job(["a", "b"]))
    history = jobs.folder / "out" / "history"
    assert {path.stem for path in history.iterdir()} == {first.summary["run_id"], second.summary["run_id"]}
    for done in (first, second):
        assert orjson.loads((history / f"{done.summary['run_id']}.json").read_bytes()) == done.summary
    assert second.summary["started_at"] >= first.summary["started_at"]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") or name in {"src", "style"} for name, _ in attrs)
        assert all((value or "").startswith("#") for name, value in attrs if name == "href")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_escaped(jobs: Jobs) -> None:
    """report.html shows names of files and jobs as text, so nothing in them becomes an element."""
    jobs.service.configure(faults=[{"kind": "ansi", "match": "wrong"}])
    jobs.write(["fine", "wrong"], "in/<img src=x onerror=alert(1)>.parquet")
    settings = jobs.job(
        input=str(jobs.folder / "in"),
        name='<script>alert("x")</script>',
        labels={"<b>": "&amp;"},
        tolerate={"not_ok": 1},
    )
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    page = (jobs.folder / "out" / "report.html").read_text()
    parser = _Tags()
    parser.feed(page)
    assert not parser.tags & set("script img iframe link object embed form base".split())
    assert '<script>alert("x")</script>' in parser.text
    assert "<img src=x onerror=alert(1)>.parquet" in parser.text
    assert done.summary["run_id"] in parser.text
    assert headline(done.summary) in parser.text
    assert next_step(done.summary).replace("`", "") in parser.text
    assert "\x1b" not in page


def test_rows_are_told_apart_by_their_values(jobs: Jobs, prefect_server: str) -> None:
    """With `for_each` the tables of failed and slow rows show each row's values, in Prefect and in the report.
    This holds for values that look like markup and for names of other columns.
    """
    jobs.service.configure(faults=[{"kind": "status:400", "match": "wrong"}])
    values = {"file": ["fr", "<b>de</b>"], "row": [1]}
    settings = jobs.job(["a", "wrong"], name="by-value", for_each=values, tolerate={"not_ok": 1})
    settings["prompt"] = {"user": "{{ file }}: {{ text }}"}
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    summary = ask_prefect(prefect_server, "GET", "/artifacts/parquill-summary-by-value/latest")
    failed, slow = summary["data"].partition("## Not ok")[2].split("## Slowest")
    for value in ("fr", "&lt;b&gt;de&lt;/b&gt;"):
        assert f"| {value} | 1 | prompts.parquet | 1 | failed |" in failed
        assert f"| {value} | 1 | prompts.parquet | 0 |" in slow
    page = (jobs.folder / "out" / "report.html").read_text()
    slow, samples = page.partition("<h3>Slowest answers</h3>")[2].split('<section id="samples"')
    for value in ("fr", "&lt;b&gt;de&lt;/b&gt;"):
        assert f'<td>{value}</td><td>1</td><td>prompts.parquet</td><td class="n">0</td>' in slow
        assert f"<b>{value} · 1 · failed (bad_request)</b>" in samples


def test_the_report_can_be_made_again(jobs: Jobs) -> None:
    """`report --html` makes the page of the run again from the results, to the byte.
    This also holds after a later run was interrupted, and it shows the settings, samples and failures of the run.
    """
    jobs.service.configure(faults=FAULTS, output_tokens="lognormal:20:0.5")
    labeled = {"for_each": {"language": ["fr", "de"]}, "labels": {"team": "search"}}
    settings = jobs.job(TEXTS, tolerate={"rejected": 0.1, "not_ok": 1.0}, timezone="Asia/Tokyo", **labeled)
    done = jobs.run(settings)
    written = (jobs.folder / "out" / "report.html").read_text()
    for text in (
        "Not ok: content_filter",
        "Random rows",
        "By language",
        "Asia/Tokyo",
        "{&#34;team&#34;:",
        "{{ text }}",
    ):
        assert text in written, text
    again = jobs.run(settings, "--html", str(jobs.folder / "again.html"), command="report")
    assert (again.exit_code, again.stderr) == (0, f"wrote {jobs.folder / 'again.html'}\n")
    assert (jobs.folder / "again.html").read_text() == written
    running = {**done.summary, "run_id": "later", "state": "stopped"}
    (jobs.folder / "out" / "summary.json").write_bytes(orjson.dumps(running))
    jobs.run(settings, "--html", str(jobs.folder / "later.html"), command="report")
    assert (jobs.folder / "later.html").read_text() == written
    assert jobs.run(settings, "--html", "x", "--failed", command="report").exit_code == 2


def test_one_json_object_on_stdout(jobs: Jobs) -> None:
    """`run --json` prints only the summary, as JSON, on stdout, even if the run ends badly; messages go to stderr."""
    settings = jobs.job(["a", "b"])
    done = jobs.run(settings, "--json")
    assert orjson.loads(done.stdout) == done.summary
    again = jobs.run(settings, "--json")
    assert orjson.loads(again.stdout) == done.summary
    jobs.service.configure(faults=[{"kind": "status:400", "match": "wrong"}])
    bad = jobs.run(jobs.job(["a", "wrong"]), "--json")
    assert bad.exit_code == 5
    assert orjson.loads(bad.stdout) == bad.summary


def test_what_a_bad_end_advises_is_a_command(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """If a run has failed rows, its message names a command that lists them, even if the output's name needs quotes."""
    jobs.service.configure(faults=[{"kind": "status:400", "match": "wrong"}])
    done = jobs.run(jobs.job(["a", "wrong"], output=str(jobs.folder / "my results")))
    command = shlex.split(done.summary["message"].split("`")[1])
    assert command[0] == "parquill"
    with pytest.raises(SystemExit) as ended:
        main([*command[1:], "--json"])
    assert not ended.value.code
    assert [row["status"] for row in orjson.loads(capsys.readouterr().out)["failed"]] == ["failed"]


def test_report_shows_the_latest_run_again(jobs: Jobs) -> None:
    """`report --failed --json` returns the summary and every row that is not ok, with its position."""
    jobs.service.configure(faults=FAULTS)
    settings = jobs.job(TEXTS, tolerate={"rejected": 0.1, "not_ok": 1.0})
    done = jobs.run(settings)
    report = jobs.run(settings, "--failed", "--json", command="report")
    document = orjson.loads(report.stdout)
    assert {name: document[name] for name in done.summary} == done.summary
    bad = [(row["row_number"], row["status"]) for row in document["failed"]]
    assert bad == [(index, status) for index, status in enumerate(STATUSES) if status != "ok"]


@pytest.mark.parametrize("commands", [("estimate", "run")])
def test_the_estimate_is_kept(jobs: Jobs, commands: tuple[str, str]) -> None:
    """`estimate --json` is one flat object with the same figures as the run's summary, and it sends nothing."""
    settings = jobs.job([f"some text {n}" for n in range(30)], budget={"run_usd": 1})
    estimated = jobs.run(settings, "--json", command=commands[0])
    assert estimated.exit_code == 0
    assert jobs.service.stats()["requests"] == 0
    estimate = orjson.loads(estimated.stdout)
    done = jobs.run(settings)
    assert {name: estimate[name] for name in SUMMARY_KEYS["estimate"]} == done.summary["estimate"]
    assert (estimate["rows"], estimate["model"], estimate["fits_budget"]) == (30, "gpt-4o-mini", True)
