"""A machine dies during a run: no process is left to report it, and the next run resumes its work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from parquill.tasks.orchestration.slot_lease import LEASE_EXPIRY_S
from tests.deployed.live_stack import LEASES, ROOT, LiveStack, open_stack
from tests.deployed.slow_jobs import check_settled, nightly, slow_job
from tests.tools.jobs import Jobs

pytestmark = pytest.mark.nightly

MISSED_S = 45  # a heartbeat is sent every 30 seconds
LOOKS_S = 15 + 30 + 15  # Prefect's interval for ended leases, a run's wait before it retries, a margin
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
NIGHTLY = "summarize/summarize-nightly"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """Start a stack whose server stores its leases on disk, as docs/production.md recommends."""
    assert LEASES in (ROOT / "docs" / "production.md").read_text()
    leases = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES}
    with open_stack(tmp_path_factory.mktemp("stack"), leases) as opened:
        yield opened


@pytest.fixture
def watched(stack: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """Return the stack with data/silent-runs.yaml, whose ten minutes are shortened."""
    text = (ROOT / "data" / "silent-runs.yaml").read_text()
    assert text.count("within: 600") == 1
    path = tmp_path_factory.mktemp("automation") / "silent-runs.yaml"
    path.write_text(text.replace("within: 600", f"within: {MISSED_S}"))
    stack.command("automation", "create", "--from-file", str(path))
    yield stack
    for each in stack.ask("POST", "/automations/filter", limit=50):
        stack.ask("DELETE", f"/automations/{each['id']}")


def _start_and_kill(stack: LiveStack, made: Jobs, settings: dict[str, Any], *, with_server: bool = False) -> str:
    """Kill worker and run, and the server if it is on that machine; restart them and return the flow run."""
    run = stack.start_run(NIGHTLY, nightly(settings))
    stack.wait("requests", lambda: made.service.stats()["requests"] > 30)
    stack.kill_worker()
    if with_server:
        stack.stop_server()
        stack.start_server()
    stack.start_worker()
    assert stack.run(run)["state_type"] == "RUNNING"
    return run


def test_a_dead_machine_is_taken_over(stack: LiveStack, made: Jobs) -> None:
    """After a reboot of a machine with server and worker, the next run waits about three minutes for the slot of the
    dead run. It then resumes its work and sets the dead run to Crashed.
    """
    settings = slow_job(made, 400, name="unwatched")
    run, died = _start_and_kill(stack, made, settings, with_server=True), time.monotonic()
    again = stack.start_run(NIGHTLY, nightly(settings))
    stack.wait("the next run", lambda: stack.run(again)["state_type"] == "RUNNING", LEASE_EXPIRY_S + LOOKS_S)
    assert time.monotonic() - died > LEASE_EXPIRY_S / 2, "the slot was not waited for"
    stack.wait("its end", lambda: stack.run(again)["state_type"] in FINAL)
    assert stack.run(again)["state_type"] == "COMPLETED", stack.run(again)["state"]
    assert stack.run(run)["state_type"] == "CRASHED"
    assert "taken over its work" in stack.run(run)["state"]["message"]
    check_settled(made, settings, 400)


def test_a_dead_machine_is_missed(watched: LiveStack, made: Jobs) -> None:
    """A run whose heartbeat is missed becomes Crashed, which frees its slot.
    A run that is alive, or that ended with its own state name, is not changed.
    """
    poor = made.job(["a"], name="refused", output=str(made.folder / "refused"), budget={"run_usd": 0.0000001})
    assert watched.ended(watched.start_run("complete-prompts/complete", {"job": poor}))["state_type"] == "FAILED"
    settings = slow_job(made, 800, name="dead")
    run = _start_and_kill(watched, made, settings)
    sent = made.service.stats()["requests"]
    watched.wait("the missed heartbeat", lambda: watched.run(run)["state_type"] == "CRASHED", MISSED_S + 60)
    assert "no heartbeat" in watched.run(run)["state"]["message"]
    assert made.service.stats()["requests"] == sent
    # slow enough to outlive the time that a run may be silent
    made.service.configure(latency_ms=600)
    again = watched.start_run(NIGHTLY, nightly(settings))
    watched.wait("the next run", lambda: watched.run(again)["state_type"] in FINAL, 200)
    assert watched.run(again)["state_type"] == "COMPLETED", watched.run(again)["state"]
    check_settled(made, settings, 800)
    failed = {"event": {"name": ["prefect.automation.action.failed"]}}
    assert watched.ask("POST", "/events/filter", filter=failed)["events"] == []
