"""Scheduled, watched, stopped and approved: how a team uses Parquill on its Prefect server."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.job.load import parse_yaml
from tests.deployed.live_stack import ROOT, LiveStack
from tests.deployed.slow_jobs import check_settled, nightly, slow_job, summary_of
from tests.tools.jobs import Jobs, read_results

DEPLOYMENTS = {
    "translate/translate-nightly": ("30 2 * * *", "Europe/Paris"),
    "summarize/summarize-nightly": ("0 3 * * *", "Europe/Paris"),
    "estimate-cost/estimate": None,
    "complete-prompts/complete": None,
}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_what_is_deployed(stack: LiveStack, name: str) -> None:
    """Each deployment has its schedule with a time zone, a description, a collision strategy and help for every
    parameter. It holds no secret.
    """
    found = stack.ask("GET", f"/deployments/name/{name}")
    schedules = [(each["schedule"]["cron"], each["schedule"]["timezone"]) for each in found["schedules"]]
    assert schedules == ([DEPLOYMENTS[name]] if DEPLOYMENTS[name] else [])
    assert found["description"]
    assert "parquill" in found["tags"]
    assert found["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    for parameter in found["parameter_openapi_schema"]["properties"].values():
        assert parameter.get("description")
    for definition in found["parameter_openapi_schema"].get("definitions", {}).values():
        for setting in definition.get("properties", {}).values():
            assert setting.get("description") or "$ref" in str(setting)
    assert found["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    assert 'api_key"' not in orjson.dumps(found).decode()


@pytest.mark.nightly
def test_a_scheduled_translation(stack: LiveStack, made: Jobs) -> None:
    """A scheduled run uses its scheduled day in the job's time zone, and the glossary.
    The next day's run pays only for new rows.
    """
    made.service.configure(log=200, log_bodies=True)
    folder = made.folder
    texts = pa.table({"id": ["a", "b"], "text": ["good morning", "good night"]})
    made.write(texts, "in/dt=2026-03-29/x.parquet")
    more = pa.table({"id": ["a", "b", "c"], "text": ["good morning", "good night", "good luck"]})
    made.write(more, "in/dt=2026-03-30/x.parquet")
    parameters = {
        "name": "nights",
        "input": str(folder / "in" / "dt={date}"),
        "output": str(folder / "out" / "dt={date}"),
        "languages": ["fr", "de"],
        "text_column": "text",
        "glossary": {"fr": {"night": "nuit"}},
        "tone": "friendly",
        "run_usd": 1,
        "settings": {
            "timezone": "Europe/Paris",
            "state": str(folder / "state"),
            "id_column": "id",
            "endpoint": {"base_url": made.service.url},
        },
    }
    # 23:30 UTC is half past one of the next day in Paris, on the night when its clocks go forward
    first = stack.ended(stack.start_run("translate/translate-nightly", parameters, "2026-03-28T23:30:00Z"))
    assert (first["state_type"], first["state_name"]) == ("COMPLETED", "Completed"), first["state"]["message"]
    assert first["name"] == "nights · 4 rows · gpt-6-luna"
    table = read_results(folder / "out" / "dt=2026-03-29")
    assert table.column("language").to_pylist() == ["fr", "de"] * 2
    bodies = [entry["body"] for entry in made.service.log()]
    assert sum("nuit" in body for body in bodies) == 2
    assert all("friendly" in body for body in bodies)
    stack.ended(stack.start_run("translate/translate-nightly", parameters, "2026-03-29T22:30:00Z"))
    table = read_results(folder / "out" / "dt=2026-03-30")
    assert table.column("reused").to_pylist() == [True, True, True, True, False, False]
    assert made.service.stats()["billed"] == 6


@pytest.mark.nightly
def test_a_summary_of_articles(stack: LiveStack, made: Jobs) -> None:
    """The ready flow for summaries passes on length, style and language, and its message shows the cost."""
    made.service.configure(log=200, log_bodies=True)
    made.write(["a long article", "another"])
    parameters = {
        "name": "articles",
        "input": str(made.folder / "prompts.parquet"),
        "output": str(made.folder / "out"),
        "length": "one sentence",
        "style": "neutral",
        "language": "French",
        "settings": {"endpoint": {"base_url": made.service.url}},
    }
    run = stack.ended(stack.start_run("summarize/summarize-nightly", parameters))
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert run["state"]["message"].startswith("2 of 2 rows ok, $")
    body = made.service.log()[0]["body"]
    assert all(word in body for word in ("one sentence", "neutral", "French"))


@pytest.mark.nightly
def test_a_state_says_what_happened(stack: LiveStack, made: Jobs) -> None:
    """The state distinguishes failed rows within tolerance, too many failed rows, and a budget that is too small.
    The log holds its sentence without a traceback.
    """
    made.service.configure(faults=[{"kind": "length", "match": "cut"}])
    texts = ["cut", *(f"text {row}" for row in range(19))]
    states = {}
    for name, changes in (
        ("tolerated", {"tolerate": {"not_ok": 0.1}}),
        ("failing", {}),
        ("refused", {"budget": {"run_usd": 0.00001}}),
    ):
        settings = made.job(texts, name=name, output=str(made.folder / name), **changes)
        run = stack.ended(stack.start_run("complete-prompts/complete", {"job": settings}))
        states[name] = (run["state_type"], run["state_name"])
        _check_log(stack, run)
    assert states == {
        "tolerated": ("COMPLETED", "Completed with failed rows"),
        "failing": ("FAILED", "Too many failed rows"),
        "refused": ("FAILED", "Refused by budget"),
    }


def _check_log(stack: LiveStack, run: dict[str, Any]) -> None:
    sentence = run["state"]["message"]
    assert sentence
    stack.wait("the log", lambda: any(sentence in line for line in stack.logs(run["id"])))
    assert not [line for line in stack.logs(run["id"]) if "Traceback" in line or "unexpected" in line]


@pytest.mark.nightly
def test_a_bad_job_is_told_as_such(stack: LiveStack, made: Jobs) -> None:
    """A job that cannot run ends under its own name, refused in one sentence.
    Parameters that bypass the form's schema are refused too.
    """
    settings = made.job(["a"], name="bad", limits={"max_at_once": 8})
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("complete-prompts/complete", {"job": {**settings, "messages_column": "chat"}}, "set either `prompt` or"),
        ("complete-prompts/complete", {"job": {**settings, "run_usd": 3}}, "did you mean `budget.run_usd`?"),
        ("complete-prompts/complete", {"job": settings, "date": "yesterday"}, "`date`: input should be a valid date"),
        ("estimate-cost/estimate", {"job": {**settings, "name": "bad", "price": {}}}, "is missing"),
        ("translate/translate-nightly", {**nightly(settings), "languages": ["fr"], "run_usd": 1e-12}, "`run_usd`: "),
        ("summarize/summarize-nightly", {**nightly(settings), "settings": {"budget": {"run_usd": 5}}}, "`run_usd` of"),
    ]
    runs = [stack.start_run(name, parameters, enforced=False) for name, parameters, _ in cases]
    for run, (name, _, words) in zip(runs, cases, strict=True):
        ended = stack.ended(run)
        assert (ended["state_type"], ended["state_name"]) == ("FAILED", "Refused: bad job"), ended["state"]
        assert words in ended["state"]["message"]
        assert "\n" not in ended["state"]["message"]
        model = "gpt-6-luna" if name.endswith("-nightly") else "gpt-4o-mini"  # of the deployment, or of the job
        assert ended["name"] == f"bad · {'estimate · ' if 'estimate' in name else ''}{model}"
    assert made.service.stats()["requests"] == 0


def test_approved_after_the_process_is_gone(stack: LiveStack, made: Jobs) -> None:
    """A deployed run above approval_usd is suspended and its process ends.
    After `parquill approve` it starts again and completes.
    """
    settings = made.job([f"text {row}" for row in range(10)], name="suspended", budget={"approval_usd": 0.00001})
    run = stack.start_run("complete-prompts/complete", {"job": settings})
    assert stack.ended(run, ["PAUSED"])["state_name"] == "Suspended"
    assert made.service.stats()["requests"] == 0
    listed = stack.parquill("approve", "--json")
    assert run in listed.stdout
    answered = stack.parquill("approve", run)
    assert answered.returncode == 0, answered.stderr
    assert stack.ended(run)["state_type"] == "COMPLETED"
    assert made.service.stats()["billed"] == 10

    def emitted(event: str) -> int:
        wanted = {"event": {"name": [event]}, "related": {"id": [f"prefect.flow-run.{run}"]}}
        return len(stack.ask("POST", "/events/filter", filter=wanted)["events"])

    stack.wait("the event of the end", lambda: emitted("parquill.run.finished") == 1)
    assert emitted("parquill.approval.requested") == 1  # not emitted again after the answer


def test_cancelled_in_the_ui(stack: LiveStack, made: Jobs) -> None:
    """A cancelled run sends nothing more, journals what is in flight, is Cancelled, and the next one resumes it."""
    settings = slow_job(made, 2_000, name="cancelled")
    run = stack.start_run("complete-prompts/complete", {"job": settings})
    stack.wait("requests", lambda: made.service.stats()["requests"] > 30)
    process = Path(f"/proc/{stack.flow_process()}")
    cancelling = {"type": "CANCELLING", "name": "Cancelling"}
    stack.ask("POST", f"/flow_runs/{run}/set_state", state=cancelling, force=False)
    stack.wait("the summary to say so", lambda: summary_of(settings)["state"] == "stopped")
    sent = made.service.stats()["requests"]
    stack.wait("the end of its process", lambda: not process.exists())
    assert made.service.stats()["requests"] == sent < 2_000
    assert stack.ended(run)["state_type"] == "CANCELLED"
    made.service.configure(latency_ms=0)
    again = stack.ended(stack.start_run("complete-prompts/complete", {"job": settings}))
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    assert made.service.stats()["billed_twice"] == []
    check_settled(made, settings, 2_000)


@pytest.mark.nightly
def test_a_pilot_is_cancelled_too(stack: LiveStack, made: Jobs) -> None:
    """An estimate with a pilot also sends nothing more than a second after its cancellation, and becomes Cancelled."""
    settings = slow_job(made, 600, name="piloted")
    run = stack.start_run("estimate-cost/estimate", {"job": settings, "pilot": 500})
    stack.wait("requests", lambda: made.service.stats()["requests"] > 30)
    stack.ask("POST", f"/flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"}, force=False)
    time.sleep(1.0)  # a run may take one second
    sent = made.service.stats()["requests"]
    assert stack.ended(run)["state_type"] == "CANCELLED"
    assert made.service.stats()["requests"] == sent < 500


@pytest.mark.nightly
def test_a_killed_run_is_taken_over(stack: LiveStack, made: Jobs) -> None:
    """If the flow's process is killed, the run becomes Crashed, and the next one resumes its work."""
    settings = slow_job(made, 300, name="killed")
    run = stack.start_run("complete-prompts/complete", {"job": settings})
    stack.wait("requests", lambda: made.service.stats()["requests"] > 30)
    os.kill(stack.flow_process(), signal.SIGKILL)
    assert stack.ended(run)["state_type"] == "CRASHED"
    made.service.configure(latency_ms=0)
    again = stack.ended(stack.start_run("complete-prompts/complete", {"job": settings}))
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    check_settled(made, settings, 300)


@pytest.mark.nightly
def test_a_key_from_a_block(stack: LiveStack, made: Jobs) -> None:
    """A job can name a Prefect Secret block for its key; the key is not in any parameter or state."""
    canary = "sk-canary-of-a-block-1234567890"
    code = f"from prefect.blocks.system import Secret; Secret(value={canary!r}).save('the-key', overwrite=True)"
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], env=stack.environment, check=True, capture_output=True)
    made.service.configure(require_key=canary)
    settings = made.job(["a", "b"], name="blocked", endpoint={"api_key_block": "the-key"})
    run = stack.ended(stack.start_run("complete-prompts/complete", {"job": settings}))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert canary not in orjson.dumps(run).decode()


@pytest.mark.nightly
def test_outputs_are_plain_files(stack: LiveStack, made: Jobs) -> None:
    """A deployed run writes the same files as the command: results, summary, history and report."""
    settings = made.job(["a"], name="plain")
    stack.ended(stack.start_run("complete-prompts/complete", {"job": settings}))
    output = Path(settings["output"])
    assert {path.name for path in output.iterdir()} == {
        "results",
        "summary.json",
        "history",
        "report.html",
        ".parquill",
    }
    assert pq.read_table(output / "results").num_rows == 1


@pytest.mark.nightly
def test_the_documented_job_deploys(stack: LiveStack, tmp_path: Path) -> None:
    """The deployment that docs/how-to/schedule.md shows for a user's own job deploys, its template unchanged."""
    text = (ROOT / "docs" / "how-to" / "schedule.md").read_text()
    shown = re.search(r"```yaml\n# part of prefect.yaml\n(  - <<: \*defaults\n.*?)```", text, re.DOTALL)
    assert shown is not None
    path = tmp_path / "prefect.yaml"
    path.write_text((ROOT / "prefect.yaml").read_text() + "\n" + shown[1])
    try:
        stack.command("--no-prompt", "deploy", "--prefect-file", str(path), "--name", "reviews-nightly")
        found = stack.ask("GET", "/deployments/name/complete-prompts/reviews-nightly")
        written = parse_yaml(path.read_text(), "prefect.yaml")["deployments"][-1]["parameters"]["job"]
        assert found["parameters"]["job"] == written
        assert '{{ row["text"] }}' in written["prompt"]["user"]
    finally:
        stack.command("deployment", "delete", "complete-prompts/reviews-nightly")


def _infrastructure_checks(stack: LiveStack) -> int:
    return (stack.folder / "worker.log").read_text().count("prefect.flow_runs.worker - Check whether the flow run")


@pytest.mark.nightly
def test_a_retry_keeps_its_day(stack: LiveStack, made: Jobs) -> None:
    """If a scheduled run was killed, Retry on the next morning resumes it, with the input and output of its own day."""
    settings = slow_job(made, 200, name="yesterday")
    settings["output"] = str(made.folder / "out-{date}")
    run = stack.start_run("complete-prompts/complete", {"job": settings}, "2026-03-28T23:30:00Z")
    stack.wait("requests", lambda: made.service.stats()["requests"] > 30)
    checks = _infrastructure_checks(stack)
    os.kill(stack.flow_process(), signal.SIGKILL)
    assert stack.ended(run)["state_type"] == "CRASHED"
    resolved = {**settings, "output": str(made.folder / "out-2026-03-28")}
    before = summary_of(resolved)["run_id"]
    # the worker logs it again for the infrastructure, seconds after it did for the run's process
    stack.wait("its second log entry", lambda: _infrastructure_checks(stack) > checks)
    retry = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    stack.ask("POST", f"/flow_runs/{run}/set_state", state=retry, force=False)
    stack.wait("its second end", lambda: stack.run(run)["state_type"] == "COMPLETED", 90)
    assert summary_of(resolved)["run_id"] == before
    check_settled(made, resolved, 200)
    assert [path.name for path in made.folder.glob("out-*")] == ["out-2026-03-28"]
