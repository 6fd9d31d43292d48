"""A deployed run waits for its batches without a process, on a real worker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from parquill.tasks.storage.folders import Folders, lock_folders
from tests.deployed.live_stack import LiveStack
from tests.deployed.slow_jobs import summary_of
from tests.tools.jobs import Jobs, read_results

ROWS = 40


def test_a_run_that_waits_holds_no_worker(stack: LiveStack, made: Jobs) -> None:
    """M8: While its batch is under way, a run is Scheduled as "Waiting for batch", and no process holds its folders.
    The same flow run is started again, collects the batch, and ends. Every row is billed once.
    """
    made.service.configure(batch={"rows_per_s": 0.001})
    settings = made.job([f"row {row}" for row in range(ROWS)], name="waits", model="gpt-6-luna", lane="batch")
    run = stack.start_run("complete-prompts/complete", {"job": settings})

    def found() -> dict[str, Any]:
        seen: dict[str, Any] = stack.ask("GET", f"/flow_runs/{run}")
        return seen

    LiveStack.wait("the run to wait", lambda: found()["state_name"] == "Waiting for batch")
    state = found()["state"]
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
