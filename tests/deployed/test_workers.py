"""Runs whose worker alone is killed, and runs that are cancelled before their process has started."""

from __future__ import annotations

import time

import pytest

from tests.deployed.live_stack import LiveStack
from tests.deployed.slow_jobs import check_settled, nightly, slow_job, summary_of
from tests.tools.jobs import Jobs
from tests.tools.members import is_running, members

pytestmark = pytest.mark.nightly

CANCELLING = {"type": "CANCELLING", "name": "Cancelling"}


def test_a_run_whose_worker_is_killed_is_taken_over(stack: LiveStack, made: Jobs) -> None:
    """If only the worker is killed, its run stops within seconds as Crashed, gives the reason, and keeps the answers
    under way. The next run resumes its work.
    """
    settings = slow_job(made, 1_000, name="orphaned")
    run = stack.start_run("complete-prompts/complete", {"job": settings})
    stack.wait("requests", lambda: made.service.stats()["requests"] > 30)
    stack.kill_worker(alone=True)
    try:
        ended = stack.ended(run)
        sent = made.service.stats()["requests"]
        assert (ended["state_type"], ended["state_name"]) == ("CRASHED", "Crashed")
        assert ended["state"]["message"].startswith("its worker is gone: interrupted with ")
        assert summary_of(settings)["state"] == "stopped"
        assert summary_of(settings)["rows"]["ok"] == made.service.stats()["billed"] < 1_000
    finally:
        stack.start_worker()
    made.service.configure(latency_ms=0)
    again = stack.ended(stack.start_run("complete-prompts/complete", {"job": settings}))
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    assert made.service.stats()["requests"] == 1_000 > sent
    check_settled(made, settings, 1_000)


def test_a_run_is_cancelled_while_its_process_starts(stack: LiveStack, made: Jobs) -> None:
    """A run that is cancelled early becomes Cancelled when its process starts, and the deployment's next run starts."""
    settings = slow_job(made, 20, name="hardly-there")
    run = stack.start_run("summarize/summarize-nightly", nightly(settings))
    stack.wait("its process", lambda: stack.run(run)["state_type"] == "PENDING")
    stack.ask("POST", f"/flow_runs/{run}/set_state", state=CANCELLING, force=False)
    asked = time.monotonic()
    ended = stack.ended(run)
    # the worker reports it, if it notices the cancellation before the process does
    messages = {"cancelled before it began; nothing was sent", "Flow run was cancelled successfully."}
    assert ended["state_type"] == "CANCELLED"
    assert ended["state"]["message"] in messages
    assert made.service.stats()["requests"] == 0
    again = stack.ended(stack.start_run("summarize/summarize-nightly", nightly(settings)))
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    assert time.monotonic() - asked < 150  # Prefect itself gives up after five minutes
    check_settled(made, settings, 20)


def test_a_run_of_several_processes_is_cancelled(stack: LiveStack, made: Jobs) -> None:
    """A deployed run that several processes complete stops all of them when it is cancelled; the next run resumes."""
    made.service.configure(latency_ms=300)
    engine = {"kind": "processes", "workers": 2}
    settings = made.job([f"text {row}" for row in range(1_500)], limits={"max_at_once": 16}, engine=engine)
    run = stack.start_run("complete-prompts/complete", {"job": settings})
    stack.wait("both processes", lambda: len(members(settings)) == 2 and made.service.stats()["billed"] > 40)
    pids = members(settings)
    stack.ask("POST", f"/flow_runs/{run}/set_state", state=CANCELLING, force=False)
    assert stack.ended(run)["state_type"] == "CANCELLED"
    stack.wait("the end of the processes", lambda: not any(map(is_running, pids)), 60)
    paid = made.service.stats()["billed"]
    assert summary_of(settings)["rows"]["ok"] == paid < 1_500
    made.service.configure(latency_ms=0)
    again = stack.ended(stack.start_run("complete-prompts/complete", {"job": settings}))
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    check_settled(made, settings, 1_500)
