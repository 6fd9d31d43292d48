"""A deployed run waits for its batches without a process, on a real worker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from parquill.tasks.orchestration.batch_cancellation import AUTOMATION, CANCELLING
from parquill.tasks.storage.folders import Folders, lock_folders
from tests.deployed.live_stack import LiveStack
from tests.deployed.slow_jobs import summary_of
from tests.tools.jobs import Jobs, read_results

ROWS = 40


def _start(stack: LiveStack, made: Jobs, **batch: Any) -> tuple[str, dict[str, Any]]:
    """Start a run in a batch, and return its id and its settings once it waits without a process."""
    made.service.configure(batch={"rows_per_s": 0.001, **batch})
    settings = made.job([f"row {row}" for row in range(ROWS)], name="waits", model="gpt-6-luna", lane="batch")
    run = stack.start_run("complete-prompts/complete", {"job": settings})
    LiveStack.wait("the run to wait", lambda: str(stack.run(run)["state_name"]) == "Waiting for batch")
    return run, settings


def _names(stack: LiveStack, run: str) -> list[str]:
    """Return the names of a run's states, in their order."""
    states = stack.ask("GET", f"/flow_run_states/?flow_run_id={run}")
    return [state["name"] for state in sorted(states, key=lambda state: str(state["timestamp"]))]


def _batches(made: Jobs) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{made.service.url}/batches").json()["data"]
    return found


def test_a_run_that_waits_holds_no_worker(stack: LiveStack, made: Jobs) -> None:
    """M8: While its batch is under way, a run is Scheduled as "Waiting for batch", and no process holds its folders.
    The same flow run is started again, collects the batch, and ends. Every row is billed once.
    """
    run, settings = _start(stack, made)
    state = stack.run(run)["state"]
    assert state["type"] == "SCHEDULED"
    assert f"waiting for 1 batch with {ROWS} rows (1 validating), since 20" in state["message"]
    folders = Folders.of(str(settings["output"]), None)
    with lock_folders(folders, "a test"):
        assert summary_of(settings)["state"] == "running"
        assert summary_of(settings)["requests"]["submitted"] == ROWS
    made.service.configure(batch={"rows_per_s": 1_000})
    made.service.advance(600)
    ended = stack.ended(run)
    assert ended["state_name"] == "Completed", ended["state"]["message"]
    assert ended["run_count"] > 1
    assert Counter(read_results(Path(settings["output"])).column("status").to_pylist()) == {"ok": ROWS}
    assert set(Counter(row["content"] for row in made.service.bills()["rows"]).values()) == {1}


def test_a_waiting_run_that_is_cancelled(stack: LiveStack, made: Jobs) -> None:
    """M8: A run that is cancelled while it waits is started once more: it cancels its batches, collects what they have
    completed, and ends as Cancelled. The next run of the job sends the rest, and no row is paid twice.
    """
    run, settings = _start(stack, made, cancelling_s=0)
    made.service.configure(batch={"rows_per_s": 0.5})
    made.service.advance(90)
    paid = len(made.service.bills()["rows"])
    made.service.configure(batch={"rows_per_s": 0.0001})
    stack.command("flow-run", "cancel", run)

    def is_over() -> bool:
        names = _names(stack, run)
        return CANCELLING in names and stack.run(run)["state_type"] == "CANCELLED"

    LiveStack.wait("the run to be cancelled twice", is_over)
    ended = stack.run(run)
    left = ROWS - paid
    assert 0 < left < ROWS
    assert ended["state"]["message"] == (
        f"its batch was cancelled, and what was completed is collected; {left} rows are left; run again to resume"
    )
    assert [batch["status"] for batch in _batches(made)] == ["cancelled"]
    assert summary_of(settings)["state"] == "stopped"
    assert summary_of(settings)["rows"]["ok"] == paid
    assert [each["name"] for each in stack.ask("POST", "/automations/filter", limit=50)].count(AUTOMATION.name) == 1
    made.service.configure(batch={"rows_per_s": 1_000})
    again = stack.start_run("complete-prompts/complete", {"job": settings})
    LiveStack.wait("the second batch", lambda: len(_batches(made)) == 2)
    made.service.advance(600)
    assert stack.ended(again)["state_name"] == "Completed"
    assert set(Counter(row["content"] for row in made.service.bills()["rows"]).values()) == {1}
    assert _names(stack, run)[-1] == "Cancelled"
