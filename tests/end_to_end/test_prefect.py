"""What an on-call colleague sees in Prefect: names, states, and artifacts that lead with the main figure."""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket
import time
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from prefect import flow_engine

from parquill.tasks.money.amounts import format_usd_text
from parquill.tasks.orchestration.events import deviation_percentages
from tests.tools.expected import billed_usd
from tests.tools.jobs import Jobs
from tests.tools.kills import wait_for_requests
from tests.tools.prefect_api import ask_prefect
from tests.tools.timing import within


class Api:
    """Queries Prefect's server about one job."""

    def __init__(self, address: str, name: str) -> None:
        self._address, self._name = address, name

    def _ask(self, path: str, **body: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask_prefect(self._address, "POST", path, **body)
        return found

    def flow_runs(self) -> list[dict[str, Any]]:
        return self._ask("/flow_runs/filter", flow_runs={"name": {"like_": self._name}}, sort="START_TIME_ASC")

    def task_runs(self, flow_run: str) -> list[dict[str, Any]]:
        return self._ask("/task_runs/filter", flow_runs={"id": {"any_": [flow_run]}})

    def soft_limits(self, flow_run: str) -> tuple[list[Any], list[Any], list[Any]]:
        """Return logged warnings, artifacts and events of a flow run; the server records them with a delay."""
        key = f"parquill-soft-limit-{self._name}"
        deadline = time.monotonic() + 120
        while True:
            logs = self._ask("/logs/filter", logs={"flow_run_id": {"any_": [flow_run]}, "level": {"ge_": 30}})
            made = self._ask("/artifacts/filter", artifacts={"key": {"any_": [key]}})
            wanted = {
                "event": {"name": ["parquill.budget.soft-limit"]},
                "any_resource": {"id": [f"parquill.job.{self._name}"]},
            }
            page: Any = self._ask("/events/filter", filter=wanted)
            found = ([log for log in logs if "is spent" in log["message"]], made, page["events"])
            if all(found) or time.monotonic() > deadline:
                return found
            time.sleep(0.3)

    def artifact(self, kind: str) -> dict[str, Any]:
        path = f"/artifacts/parquill-{kind}-{self._name}/latest"
        found: dict[str, Any] = ask_prefect(self._address, "GET", path)
        return found


def test_a_run_can_be_read_at_a_glance(jobs: Jobs, prefect_server: str) -> None:
    """Flow run and task runs have readable names; estimate, progress and summary are artifacts with headlines."""
    api = Api(prefect_server, "glance")
    jobs.service.configure(faults=[{"kind": "length", "match": "cut"}])
    texts = ["cut", *(f"text {n}" for n in range(1199))]
    done = jobs.run(jobs.job(texts, name="glance", budget={"run_usd": 1}, tolerate={"not_ok": 0.1}))
    assert done.exit_code == 0, done.stderr
    (run,) = api.flow_runs()
    assert run["name"] == "glance · 1,200 rows · gpt-4o-mini"
    assert run["tags"] == ["parquill"]  # what automations match
    assert run["state_type"] == "COMPLETED"
    estimate, summary, progress = (api.artifact(kind) for kind in ("estimate", "summary", "progress"))
    assert {each["flow_run_id"] for each in (estimate, summary, progress)} == {run["id"]}
    assert "fits into the budget of $1.00" in estimate["description"]
    assert "1,200 rows" in estimate["description"]
    assert "\n| cost, worst case | " in estimate["data"]
    assert "\n\n| cost" not in estimate["data"]  # a blank line would end the table
    assert "1,199 of 1,200 rows ok" in summary["description"]
    assert f", {format_usd_text(done.summary['cost_usd'])} (at most $" in summary["description"]
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service)
    assert "at most $" in estimate["data"]
    assert "expected cost run `parquill estimate JOB" in estimate["data"].replace("\\", "")
    assert "max_output" in summary["data"].replace("\\", "")
    assert (progress["type"], float(progress["data"])) == ("progress", 100.0)
    assert "1,200 of 1,200 rows, 1 not ok" in progress["description"]
    wanted = {"read", "estimate", "gate", "complete-0", "complete-1", "write", "summarize"}
    deadline = time.monotonic() + 120
    while True:  # task runs are recorded from events, a little later
        found = {re.sub(r"-[0-9a-f]{3,}$", "", task["name"]): task["state_type"] for task in api.task_runs(run["id"])}
        if (set(found) >= wanted and set(found.values()) == {"COMPLETED"}) or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    assert found == dict.fromkeys(wanted, "COMPLETED")
    assert run["tags"] == ["parquill"]
    # for each tag a task would need a slot from the server, which may be away
    assert [task["tags"] for task in api.task_runs(run["id"])] == [[]] * len(wanted)


@pytest.mark.parametrize(
    ("name", "changes", "exit_code", "words"),
    [
        ("not-ok", {}, 5, "tolerate.not_ok"),
        (
            "short",
            {"budget": {"run_usd": 0.0002, "when_short": "partial"}},
            4,
            "the budget is used up (run_usd = $0.0002)",
        ),
        ("refused", {"budget": {"run_usd": 0.00001}}, 3, "exceeds the budget of $0.00001"),
        ("bad", {"limits": {"tokens_per_minute": 40}}, 2, "tokens_per_minute"),
    ],
)
def test_a_run_that_ends_badly_says_why(
    jobs: Jobs, prefect_server: str, name: str, changes: dict[str, Any], exit_code: int, words: str
) -> None:
    """A run that stops, is refused or has too many rows not ok is Failed in Prefect, with its error's sentence."""
    from parquill.flows.complete_prompts import complete_prompts
    from parquill.tasks.errors import ParquillError

    jobs.service.configure(faults=[{"kind": "length", "match": "cut"}])
    settings: Any = jobs.job(["cut", *(f"text {n}" for n in range(19))], name=f"ends-badly-{name}", **changes)
    with pytest.raises(ParquillError) as raised:
        complete_prompts(job=settings)  # a deployment passes the mapping too
    assert raised.value.exit_code == exit_code
    (run,) = Api(prefect_server, f"ends-badly-{name}").flow_runs()
    assert run["state_type"] == "FAILED"
    assert run["tags"] == ["parquill"]
    assert words in run["state"]["message"]


@pytest.mark.parametrize(
    ("name", "tolerate", "state", "exit_code", "words"),
    [
        (
            "idle-well",
            0.5,
            ("COMPLETED", "Completed"),
            0,
            "all 20 rows have their outcome already (ok 20); nothing was",
        ),
        (
            "idle-cut",
            0.5,
            ("COMPLETED", "Completed with failed rows"),
            0,
            "already (ok 19, truncated 1); nothing was sent",
        ),
        (
            "idle-bad",
            0.0,
            ("FAILED", "Too many failed rows"),
            5,
            "nothing was sent: 1 of 20 rows are not ok (trunc",
        ),
    ],
)
def test_a_second_start_is_as_good_as_the_first(
    jobs: Jobs, prefect_server: str, name: str, tolerate: float, state: tuple[str, str], exit_code: int, words: str
) -> None:
    """If a start has nothing to do, its state and exit code follow from the existing results, for the flow and the
    command. Its message says that nothing was sent, names no cost, and its run has the usual name.
    """
    from parquill.flows.complete_prompts import complete_prompts
    from parquill.tasks.errors import TooManyNotOk

    faults = [] if name == "idle-well" else [{"kind": "length", "match": "cut"}]
    jobs.service.configure(faults=faults)
    texts = ["cut", *(f"text {n}" for n in range(19))]
    settings: Any = jobs.job(texts, name=name, tolerate={"not_ok": tolerate})
    first = jobs.run(settings)
    assert first.exit_code == exit_code
    sent = jobs.service.stats()["requests"]
    second = jobs.run(settings)
    assert second.exit_code == exit_code
    assert "nothing to do" in second.stdout
    if exit_code:
        with pytest.raises(TooManyNotOk, match="nothing to do"):
            complete_prompts(job=settings)
    else:
        assert complete_prompts(job=settings).summary == first.summary
    assert jobs.service.stats()["requests"] == sent
    run = Api(prefect_server, name).flow_runs()[-1]
    assert run["name"] == f"{name} · 20 rows · gpt-4o-mini"
    assert (run["state_type"], run["state_name"]) == state
    assert words in run["state"]["message"]
    assert first.summary["cost_usd"] not in run["state"]["message"]
    # the tolerance of this start counts, not that of the first one
    assert jobs.run({**settings, "tolerate": {"not_ok": 0.5}}).exit_code == 0


def test_a_run_that_cannot_begin_has_its_name(jobs: Jobs, prefect_server: str) -> None:
    """If a flow is refused for its input, its state says so, and its run is named after the job and the model."""
    from parquill.flows.complete_prompts import complete_prompts
    from parquill.flows.estimate_cost import estimate_cost
    from parquill.flows.summarize import summarize
    from parquill.flows.translate import translate
    from parquill.tasks.errors import BadInput

    settings: Any = jobs.job(name="without-input")
    settings.pop("input")
    missing, output = str(jobs.folder / "none.parquet"), str(jobs.folder / "out")
    api = Api(prefect_server, "without-input")
    calls: list[tuple[Any, dict[str, Any], str]] = [
        (complete_prompts, {"job": {**settings, "input": missing}}, "without-input · gpt-4o-mini"),
        (estimate_cost, {"job": {**settings, "input": missing}}, "without-input · estimate · gpt-4o-mini"),
        (summarize, {"input": missing, "output": output, "name": "without-input"}, "without-input · gpt-6-luna"),
        (
            translate,
            {"input": missing, "output": output, "name": "without-input", "languages": ["fr"]},
            "without-input · gpt-6-luna",
        ),
    ]
    for flow, parameters, name in calls:
        with pytest.raises(BadInput):
            flow(**parameters)
        run = api.flow_runs()[-1]
        assert run["name"] == name
        assert (run["state_type"], run["state_name"]) == ("FAILED", "Refused: bad input")
        assert "none.parquet" in run["state"]["message"]


def test_a_flow_is_a_function_of_its_job(jobs: Jobs, prefect_server: str) -> None:
    """A flow that is called with a job file's mapping returns its run; a second call returns the same one."""
    from parquill.flows.complete_prompts import complete_prompts

    settings: Any = jobs.job(["a", "b"], name="called")
    run = complete_prompts(job=settings)
    assert (run.summary["exit_code"], run.summary["rows"]["ok"]) == (0, 2)
    assert complete_prompts(job=settings) == run
    assert jobs.service.stats()["requests"] == 2
    assert len(Api(prefect_server, "called").flow_runs()) == 2


@pytest.mark.usefixtures("prefect_server")
def test_a_schema_may_refer_to_its_parts(jobs: Jobs) -> None:
    """A `$ref` in a job's mapping belongs to its JSON schema and is not read as a Prefect block."""
    from parquill.flows.complete_prompts import complete_prompts

    part = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False, "required": ["a"]}
    schema = {**part, "properties": {"a": {"$ref": "#/$defs/part"}}, "$defs": {"part": {"type": "string"}}}
    settings: Any = jobs.job(["a"], name="refers", response_format=schema, tolerate={"not_ok": 1})
    assert complete_prompts(job=settings).summary["rows"]["total"] == 1
    assert jobs.service.stats()["requests"] == 1


def test_a_dead_run_is_crashed_by_the_next(jobs: Jobs, prefect_server: str) -> None:
    """A command that is killed leaves its flow run Running.
    The next start resumes its work and sets that flow run to Crashed.
    """
    jobs.service.configure(latency_ms=100)
    settings = jobs.job([f"text {n}" for n in range(200)], name="kill-me", limits={"max_at_once": 4})
    spawned = jobs.spawn(settings)
    while jobs.service.stats()["requests"] < 20:
        time.sleep(0.05)  # the command runs in another process
    spawned.process.kill()
    spawned.process.wait()
    api = Api(prefect_server, "kill-me")
    assert [run["state_type"] for run in api.flow_runs()] == ["RUNNING"]
    jobs.service.configure(latency_ms=0)
    assert jobs.run(settings).exit_code == 0
    dead, alive = api.flow_runs()
    assert (dead["state_type"], alive["state_type"]) == ("CRASHED", "COMPLETED")
    assert "has taken over its work" in dead["state"]["message"]
    # a flow run that ended normally keeps its final state
    assert jobs.run(settings, "--redo", "ok").exit_code == 0
    assert [run["state_type"] for run in api.flow_runs()] == ["CRASHED", "COMPLETED", "COMPLETED"]


@pytest.mark.parametrize(
    "next_start",
    [
        "nothing to do",
        pytest.param("another run", marks=pytest.mark.nightly),
        pytest.param("the same run", marks=pytest.mark.nightly),
    ],
)
def test_an_end_that_the_server_did_not_take(jobs: Jobs, prefect_server: str, next_start: str) -> None:
    """If a run ended while its server was away, its flow run still shows Running.
    The next start sets the final state that the run had, whether or not it has work to do.
    """
    name = "unheard-" + next_start.replace(" ", "-")
    texts = [f"text {n}" for n in range(200)]
    settings = jobs.job(texts, name=name, limits={"max_at_once": 4})
    if next_start == "the same run":
        jobs.service.configure(latency_ms=100)
        spawned = jobs.spawn(settings)
        wait_for_requests(jobs.service, spawned, 12)
        spawned.process.send_signal(signal.SIGINT)
        first = spawned.wait()
        jobs.service.configure(latency_ms=0)
    else:
        first = jobs.run(settings)
    api = Api(prefect_server, name)
    (run,) = api.flow_runs()
    ended = (run["state_type"], run["state_name"], run["state"]["message"])
    assert ended[0] == ("CANCELLED" if next_start == "the same run" else "COMPLETED")
    back = {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
    assert ask_prefect(prefect_server, "POST", f"/flow_runs/{run['id']}/set_state", **back)["status"] == "ACCEPT"
    if next_start == "another run":
        settings = jobs.job([*texts, "more"], name=name)
    second = jobs.run(settings)
    assert second.exit_code == 0, second.stderr
    assert (second.summary["run_id"] == first.summary["run_id"]) == (next_start != "another run")
    run = api.flow_runs()[0]
    assert (run["state_type"], run["state_name"], run["state"]["message"]) == ended


@pytest.mark.parametrize(("budget", "exit_code"), [(0.000001, 3), (1, 0)], ids=["refused", "completed"])
def test_a_final_state_whose_answer_was_lost(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, budget: float, exit_code: int
) -> None:
    """If the server rejects a final state that it already has and returns its copy, the run keeps its exit code."""
    propose: Any = vars(flow_engine)["propose_state_sync"]

    def lost(*arguments: Any, **named: Any) -> Any:
        state = propose(*arguments, **named)
        return state.model_copy(update={"data": None}) if state.is_final() else state

    monkeypatch.setattr(flow_engine, "propose_state_sync", lost)
    done = jobs.run(jobs.job(["a"], budget={"run_usd": budget}))
    assert done.exit_code == exit_code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_is_done_is_not_cancelled(jobs: Jobs, prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a run is cancelled while it writes results, after all rows are sent and paid, it ends at once as Completed."""
    main = importlib.import_module("parquill.flows.complete_prompts")
    api, write = Api(prefect_server, "too-late"), vars(main)["write_results"]

    def cancel_and_write(*arguments: Any, **named: Any) -> Any:
        (run,) = api.flow_runs()
        state = {"type": "CANCELLING", "name": "Cancelling"}
        set_state = f"/flow_runs/{run['id']}/set_state"
        assert ask_prefect(prefect_server, "POST", set_state, state=state)["status"] == "ACCEPT"
        return write(*arguments, **named)

    monkeypatch.setitem(vars(main), "write_results", cancel_and_write)
    settings: Any = jobs.job(["a", "b"], name="too-late")
    assert main.complete_prompts(job=settings).summary["rows"]["ok"] == 2
    (run,) = api.flow_runs()
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Completed")


@pytest.mark.usefixtures("prefect_server")
def test_a_run_cut_off_while_it_writes_says_so(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing fails, summary.json does not stay at `running`.
    It says that the run stopped, what was paid for how many tokens, and how many rows have each status.
    """
    from parquill.tasks.errors import DiskFailed

    main = importlib.import_module("parquill.flows.complete_prompts")

    def fail(*_: Any, **__: Any) -> Any:
        raise DiskFailed("no room")

    rows = ["a", "b", "b", None, *["a"] * 5]  # of equal rows only one is sent
    settings: Any = jobs.job(rows, name="cut-off", tolerate={"rejected": 1, "not_ok": 1})
    with monkeypatch.context() as patch:
        patch.setitem(vars(main), "write_results", fail)
        with pytest.raises(DiskFailed):
            main.complete_prompts(job=settings)
    summary = jobs.done(settings, 1, "", "").summary
    assert (summary["state"], summary["exit_code"], summary["message"]) == ("stopped", 1, "no room")
    assert Decimal(summary["cost_usd"]) == billed_usd(jobs.service)
    assert summary["tokens"] == jobs.service.stats()["billed_tokens"]
    counts = {status: count for status, count in summary["rows"].items() if count}
    assert counts == {"total": 9, "ok": 2, "rejected": 1, "not_sent": 6}
    again = jobs.run(settings)
    assert again.exit_code == 0, again.stderr
    assert again.summary["rows"]["ok"] == 8
    assert jobs.service.stats()["billed"] == 2


def test_the_estimate_is_a_flow_too(jobs: Jobs, prefect_server: str) -> None:
    """The estimate flow returns the figures, shows them as an artifact, and sends and writes nothing."""
    from parquill.flows.estimate_cost import estimate_cost

    settings: Any = jobs.job([f"text {n}" for n in range(10)], name="guess", budget={"run_usd": 1})
    estimate = estimate_cost(job=settings)
    assert (estimate.rows, estimate.fits_budget) == (10, True)
    api = Api(prefect_server, "guess")
    assert "fits into the budget" in api.artifact("estimate")["description"]
    (run,) = api.flow_runs()
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Completed")
    assert "fits into the budget of $1.00 (10 rows to send" in run["state"]["message"]
    settings["budget"] = {"run_usd": 0.00001}
    assert not estimate_cost(job=settings).fits_budget
    run = api.flow_runs()[-1]
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Does not fit the budget")
    assert "exceeds the budget of $0.00001" in run["state"]["message"]
    assert jobs.service.stats()["requests"] == 0
    assert not (jobs.folder / "out").exists()


def test_a_scheduled_run_is_of_its_day(jobs: Jobs) -> None:
    """{date-1} in a path is the day before --date, for the input and for the output folder."""
    jobs.write(["a", "b"], "in/dt=2026-11-22/x.parquet")
    settings = jobs.job(input=str(jobs.folder / "in" / "dt={date-1}"), output=str(jobs.folder / "out" / "{date-1}"))
    resolved = {**settings, "output": str(jobs.folder / "out" / "2026-11-22")}
    code = jobs.run(settings, "--date", "2026-11-23").exit_code
    done = jobs.done(resolved, code, "", "")
    assert (done.exit_code, done.column("dt")) == (0, ["2026-11-22"] * 2)


def test_the_soft_limit_is_told_at_its_moment(jobs: Jobs, prefect_server: str) -> None:
    """When spending passes `soft_fraction`, the run emits one warning, one artifact and one event, and continues."""
    from parquill.flows.complete_prompts import complete_prompts

    api = Api(prefect_server, "soft")
    jobs.service.configure(latency_ms=50)
    budget = {"run_usd": 0.0065, "soft_fraction": 0.1}
    settings: Any = jobs.job([f"text {n}" for n in range(200)], name="soft", budget=budget, limits={"max_at_once": 4})
    assert complete_prompts(job=settings).summary["exit_code"] == 0
    (run,) = api.flow_runs()
    warnings, artifacts, events = api.soft_limits(run["id"])
    assert [len(found) for found in (warnings, artifacts, events)] == [1, 1, 1]
    message = warnings[0]["message"]
    assert re.fullmatch(r"more than 10% of the budget is spent: \$0\.000\d+ of \$0\.0065", message)
    assert artifacts[0]["flow_run_id"] == run["id"]
    assert artifacts[0]["description"] == f"soft: {message}"
    assert "of 200 rows" in artifacts[0]["data"]
    assert events[0]["payload"]["message"] == message
    assert f"prefect.flow-run.{run['id']}" in {one["prefect.resource.id"] for one in events[0]["related"]}
    ended = datetime.fromisoformat(run["end_time"])
    for moment in (warnings[0]["timestamp"], artifacts[0]["created"], events[0]["occurred"]):
        assert (ended - datetime.fromisoformat(moment)).total_seconds() > 1


def test_a_months_budget_is_no_budget_of_the_run(jobs: Jobs, prefect_server: str) -> None:
    """With only a monthly budget, no run is shown as spending `of $0.00`, and no soft limit is reported too early."""
    api = Api(prefect_server, "month")
    done = jobs.run(jobs.job(["a", "b"], name="month", budget={"monthly_usd": 10}))
    assert done.exit_code == 0, done.stderr
    assert re.search(r"not ok, \$0\.0000\d+ spent", api.artifact("progress")["description"])
    assert "is spent" not in done.stderr


@pytest.mark.nightly
@pytest.mark.timed
def test_ctrl_c_at_a_terminal(jobs: Jobs) -> None:
    """Ctrl-C reaches every process of a terminal, but the run still reports its end to its embedded server, whatever
    the environment sets for other servers. It exits 130 without an error message, and its summary counts every row.
    """
    jobs.service.configure(latency_ms=200)
    with socket.socket() as dead:  # a port without a listener
        dead.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{dead.getsockname()[1]}"
    folder = jobs.folder / "elsewhere"
    folder.mkdir()
    (folder / "calendar.py").write_text("holidays = [1]\n", encoding="utf-8")  # the server must not import this file
    spawned = jobs.spawn(
        jobs.job([f"text {n}" for n in range(400)], limits={"max_at_once": 4}),
        folder=folder,
        environment={
            "UVICORN_UDS": "/nowhere",
            "PREFECT_API_URL": "",
            "HTTP_PROXY": proxy,
            "NO_PROXY": "elsewhere.example",
            "PREFECT_SERVER_API_AUTH_STRING": "admin:word",
            "PREFECT_SERVER_API_BASE_PATH": "/elsewhere/api",
        },
    )
    until = time.monotonic() + 180
    while jobs.service.stats()["requests"] < 8:
        assert time.monotonic() < until
        assert spawned.process.poll() is None, spawned.read("err")
        time.sleep(0.1)  # the server runs in another process
    os.killpg(spawned.process.pid, signal.SIGINT)
    with within(15):
        done = spawned.wait()
    assert done.exit_code == 130, done.stderr
    assert "Error" not in done.stderr
    assert "did not record" not in done.stderr
    assert done.summary["state"] == "stopped"
    rows, tokens = done.summary["rows"], done.summary["tokens"]
    assert (rows["total"], rows["ok"] + rows["not_sent"]) == (400, 400)
    assert 0 < rows["ok"] < 400
    assert min(tokens["prompt"], tokens["completion"]) > 0


@pytest.mark.nightly
def test_retries_of_flows_are_off(jobs: Jobs, prefect_server: str) -> None:
    """If the environment sets Prefect's retries for other flows, a refusal is still not repeated.
    Its exit code and state do not change.
    """
    settings = jobs.job(["a", "b"], name="no-retries", budget={"run_usd": 0.000001})
    done = jobs.spawn(settings, environment={"PREFECT_FLOWS_DEFAULT_RETRIES": "2"}).wait()
    assert done.exit_code == 3, done.stderr
    (run,) = Api(prefect_server, "no-retries").flow_runs()
    assert (run["state_name"], run["run_count"]) == ("Refused by budget", 1)


@pytest.mark.nightly
def test_more_at_once_than_files(jobs: Jobs) -> None:
    """If a process may open only a few files, it sends fewer requests at once, so that Prefect can open its own files.
    The run finishes and says so.
    """
    jobs.service.configure(latency_ms=700)
    settings = jobs.job([f"text {n}" for n in range(300)], name="few-files", limits={"max_at_once": 256})
    done = jobs.spawn(settings, before=["bash", "-c", 'ulimit -n 256; exec "$@"', "-"]).wait()
    assert done.exit_code == 0, done.stderr
    assert re.search(
        r"not open enough files \(`ulimit -n`\) for limits.max_at_once = 256; it sends at most \d+", done.stderr
    )
    assert 64 < jobs.service.stats()["max_in_flight"] < 192


@pytest.mark.nightly
def test_a_redo_is_not_dearer_than_expected(jobs: Jobs, prefect_server: str) -> None:
    """Rows that are redone include their earlier cost.
    Automations, the UI and the terminal compare only what this run paid with what was expected of it.
    """
    jobs.service.configure(output_tokens="fixed:30")
    settings = jobs.job([f"text {n}" for n in range(40)], name="anew")
    jobs.run(settings)
    done = jobs.run(settings, "--redo", "ok")
    assert Decimal(done.summary["cost_usd"]) > Decimal(done.summary["paid_usd"]) > 0
    assert abs(deviation_percentages(done.summary)["over_expected_percent"]) < 5
    api, paid = Api(prefect_server, "anew"), done.summary["paid_usd"]
    shown = format_usd_text(paid)
    assert f"40 of 40 rows ok, {shown} (expected" in api.artifact("summary")["description"]
    messages = [run["state"]["message"] for run in api.flow_runs()]
    assert f"40 of 40 rows ok, {shown}" in messages
    assert f"{shown} (expected" in done.stdout
