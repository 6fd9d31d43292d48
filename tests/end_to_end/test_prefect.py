"""What an on-call colleague sees in Prefect: names, states, artifacts with the headline figure."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.end_to_end.jobs import Jobs
from tests.end_to_end.truth import billed_usd


class Api:
    """Asks Prefect's server about one job."""

    def __init__(self, address: str, name: str) -> None:
        self._address, self._name = address, name

    def _ask(self, path: str, **body: Any) -> list[dict[str, Any]]:
        reply = httpx.post(self._address + path, json=body, timeout=30, trust_env=False)
        assert reply.status_code == 200, reply.text
        found: list[dict[str, Any]] = reply.json()
        return found

    def flow_runs(self) -> list[dict[str, Any]]:
        return self._ask("/flow_runs/filter", flow_runs={"name": {"like_": self._name}}, sort="START_TIME_ASC")

    def task_runs(self, flow_run: str) -> list[dict[str, Any]]:
        return self._ask("/task_runs/filter", flow_runs={"id": {"any_": [flow_run]}})

    def soft_limits(self, flow_run: str) -> tuple[list[Any], list[Any], list[Any]]:
        """Warnings in the log, artifacts and events of a flow run; they are recorded a little after they are made."""
        key = f"parquill-soft-limit-{self._name}"
        deadline = time.monotonic() + 15
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
        path = f"{self._address}/artifacts/parquill-{kind}-{self._name}/latest"
        reply = httpx.get(path, timeout=30, trust_env=False)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
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
    assert run["state_type"] == "COMPLETED"
    estimate, summary, progress = (api.artifact(kind) for kind in ("estimate", "summary", "progress"))
    assert {each["flow_run_id"] for each in (estimate, summary, progress)} == {run["id"]}
    assert "fits into the budget of $1.00" in estimate["description"]
    assert "1,200 rows" in estimate["description"]
    assert "\n| cost, expected | " in estimate["data"]
    assert "\n\n| cost" not in estimate["data"]  # a blank line would end the table
    assert "1,199 of 1,200 rows ok" in summary["description"]
    assert f"${done.summary['cost_usd']}" in summary["description"]
    assert f"{billed_usd(jobs.service):f}" in summary["description"]
    assert "max_output" in summary["data"].replace("\\", "")
    assert (progress["type"], float(progress["data"])) == ("progress", 100.0)
    assert "1,200 of 1,200 rows, 1 not ok" in progress["description"]
    wanted = {"read", "estimate", "gate", "complete-0", "complete-1", "write", "summarize"}
    deadline = time.monotonic() + 15
    while True:  # task runs are recorded from events, a little later
        found = {re.sub(r"-[0-9a-f]{3,}$", "", task["name"]): task["state_type"] for task in api.task_runs(run["id"])}
        if (set(found) >= wanted and set(found.values()) == {"COMPLETED"}) or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    assert found == dict.fromkeys(wanted, "COMPLETED")


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
    """A run that stops, is refused or has too many rows not ok is Failed in Prefect, with the sentence of its error."""
    from parquill.flows.complete_prompts import complete_prompts
    from parquill.tasks.errors import ParquillError

    jobs.service.configure(faults=[{"kind": "length", "match": "cut"}])
    settings: Any = jobs.job(["cut", *(f"text {n}" for n in range(19))], name=name, **changes)
    with pytest.raises(ParquillError) as raised:
        complete_prompts(job=settings)  # as a deployment calls it: with the mapping
    assert raised.value.exit_code == exit_code
    (run,) = Api(prefect_server, name).flow_runs()
    assert run["state_type"] == "FAILED"
    assert words in run["state"]["message"]


def test_a_flow_is_a_function_of_its_job(jobs: Jobs, prefect_server: str) -> None:
    """Deployments call the flow with the mapping of a job file: it gives the summary, and again it gives the same."""
    from parquill.flows.complete_prompts import complete_prompts

    settings: Any = jobs.job(["a", "b"], name="called")
    summary = complete_prompts(job=settings)
    assert (summary["exit_code"], summary["rows"]["ok"]) == (0, 2)
    assert complete_prompts(job=settings) == summary
    assert jobs.service.stats()["requests"] == 2
    assert len(Api(prefect_server, "called").flow_runs()) == 2


def test_the_estimate_is_a_flow_too(jobs: Jobs, prefect_server: str) -> None:
    """The estimate flow gives the figures, shows them as an artifact, and sends and writes nothing."""
    from parquill.flows.estimate_cost import estimate_cost

    settings: Any = jobs.job([f"text {n}" for n in range(10)], name="guess", budget={"run_usd": 1})
    figures = estimate_cost(job=settings)
    assert (figures["rows"], figures["fits_budget"]) == (10, True)
    assert "fits into the budget" in Api(prefect_server, "guess").artifact("estimate")["description"]
    assert jobs.service.stats()["requests"] == 0
    assert not (jobs.folder / "out").exists()


def test_a_scheduled_run_is_of_its_day(jobs: Jobs) -> None:
    """{date-1} in paths is the day before the one given by --date, in the file that is read and the folder written."""
    jobs.write(["a", "b"], "in/dt=2026-11-22/x.parquet")
    settings = jobs.job(input=str(jobs.folder / "in" / "dt={date-1}"), output=str(jobs.folder / "out" / "{date-1}"))
    placed = {**settings, "output": str(jobs.folder / "out" / "2026-11-22")}
    code = jobs.run(settings, "--date", "2026-11-23").exit_code
    done = jobs.done(placed, code, "", "")
    assert (done.exit_code, done.column("dt")) == (0, ["2026-11-22"] * 2)


def test_the_soft_limit_is_told_at_its_moment(jobs: Jobs, prefect_server: str) -> None:
    """When `soft_fraction` is passed one warning, one artifact and one event come, of this run, while it goes on."""
    from parquill.flows.complete_prompts import complete_prompts

    api = Api(prefect_server, "soft")
    jobs.service.configure(latency_ms=50)
    budget = {"run_usd": 0.0065, "soft_fraction": 0.1}
    settings: Any = jobs.job([f"text {n}" for n in range(200)], name="soft", budget=budget, limits={"max_at_once": 4})
    assert complete_prompts(job=settings)["exit_code"] == 0
    (run,) = api.flow_runs()
    warnings, artifacts, events = api.soft_limits(run["id"])
    assert [len(found) for found in (warnings, artifacts, events)] == [1, 1, 1]
    told = warnings[0]["message"]
    assert re.fullmatch(r"more than 10% of the budget is spent: \$0\.000\d+ of \$0\.0065", told)
    assert artifacts[0]["flow_run_id"] == run["id"]
    assert artifacts[0]["description"] == f"soft: {told}"
    assert "of 200 rows" in artifacts[0]["data"]
    assert events[0]["payload"]["message"] == told
    assert f"prefect.flow-run.{run['id']}" in {one["prefect.resource.id"] for one in events[0]["related"]}
    ended = datetime.fromisoformat(run["end_time"])
    for moment in (warnings[0]["timestamp"], artifacts[0]["created"], events[0]["occurred"]):
        assert (ended - datetime.fromisoformat(moment)).total_seconds() > 1


def test_a_months_budget_is_no_budget_of_the_run(jobs: Jobs, prefect_server: str) -> None:
    """With a month's budget alone no run is shown as spending `of $0.00`, and no soft limit is told before its time."""
    api = Api(prefect_server, "month")
    done = jobs.run(jobs.job(["a", "b"], name="month", budget={"monthly_usd": 10}))
    assert done.exit_code == 0, done.stderr
    assert re.search(r"not ok, \$0\.0000\d+ spent", api.artifact("progress")["description"])
    assert "is spent" not in done.stderr
