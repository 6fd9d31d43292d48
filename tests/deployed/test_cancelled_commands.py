"""`parquill run` on a server, cancelled from its UI: no worker is involved, so the run itself checks for it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import orjson
import pytest

from tests.deployed.live_stack import LiveStack
from tests.end_to_end.test_prefect import Api
from tests.tools.jobs import Jobs
from tests.tools.prefect_api import ask_prefect


def _cancel(address: str, run: str) -> None:
    """Cancel a run as the UI's button does."""
    state = {"type": "CANCELLING", "name": "Cancelling"}
    ask_prefect(address, "POST", f"/flow_runs/{run}/set_state", state=state)


ROWS = 2_000


@pytest.mark.parametrize("is_timed", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["ends", "at once"])
@pytest.mark.parametrize("by", ["the UI", pytest.param("SIGTERM", marks=pytest.mark.nightly)])
def test_a_command_is_cancelled(jobs: Jobs, prefect_server: str, by: str, is_timed: bool) -> None:  # noqa: FBT001 - parametrized
    """A cancelled run sends nothing after one second and journals what is in flight.
    Its state is Cancelled, its exit code 130, and the next run resumes it.
    """
    jobs.service.configure(latency_ms=100)
    name = f"by-{by.replace(' ', '-')}-{is_timed}"
    settings = jobs.job([f"text {row}" for row in range(ROWS)], name=name, limits={"max_at_once": 8})
    spawned = jobs.spawn(settings)
    LiveStack.wait("requests", lambda: jobs.service.stats()["requests"] > 30)
    api = Api(prefect_server, name)
    (run,) = api.flow_runs()
    if by == "the UI":
        _cancel(prefect_server, run["id"])
    else:
        spawned.process.send_signal(signal.SIGTERM)
    if is_timed:
        time.sleep(1.0)  # a run may take one second
    at_most = jobs.service.stats()["requests"] if is_timed else ROWS - 1
    done = spawned.wait()
    assert done.exit_code == 130, done.stderr
    assert jobs.service.stats()["requests"] <= at_most
    (run,) = api.flow_runs()
    assert (run["state_type"], run["state_name"]) == ("CANCELLED", "Cancelled")
    assert orjson.loads((Path(settings["output"]) / "summary.json").read_bytes())["state"] == "stopped"
    jobs.service.configure(latency_ms=0)
    again = jobs.run(settings)
    assert again.exit_code == 0, again.stderr
    assert again.summary["rows"]["ok"] == ROWS
    assert jobs.service.stats()["billed"] == ROWS


@pytest.mark.parametrize(
    "by", ["the UI", *(pytest.param(by, marks=pytest.mark.nightly) for by in ("Ctrl-C", "SIGTERM"))]
)
def test_a_waiting_command_is_cancelled(jobs: Jobs, prefect_server: str, by: str) -> None:
    """A run that waits for approval ends at a cancellation, or at the first Ctrl-C or SIGTERM, and sends nothing."""
    name = "waiting-" + by.replace(" ", "-")
    settings = jobs.job(["a", "b"], name=name, budget={"approval_usd": 0.00001})
    spawned = jobs.spawn(settings)
    api = Api(prefect_server, name)
    LiveStack.wait("a pause", lambda: [run["state_type"] for run in api.flow_runs()] == ["PAUSED"])
    if by == "the UI":
        _cancel(prefect_server, api.flow_runs()[0]["id"])
    else:
        spawned.process.send_signal(signal.SIGINT if by == "Ctrl-C" else signal.SIGTERM)
    done = spawned.wait()
    assert done.exit_code == 130, done.stderr
    assert jobs.service.stats()["requests"] == 0
    (run,) = api.flow_runs()
    assert run["state_type"] == "CANCELLED"
