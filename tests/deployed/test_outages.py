"""A Prefect server that goes away during a run or at its end, for a while or for good."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from tests.deployed.live_stack import LiveStack
from tests.deployed.slow_jobs import check_settled, nightly, slow_job, summary_of
from tests.tools.jobs import Jobs

pytestmark = pytest.mark.nightly

IMPATIENT = {"PREFECT_CLIENT_MAX_RETRIES": "0"}  # no retries: the outage shows in seconds, not minutes


def _asked(stack: LiveStack) -> str:
    """Return the questions of the waiting runs, as a person reads them."""
    done = stack.parquill("approve")
    return done.stdout + done.stderr


@contextlib.contextmanager
def _command_without_server(stack: LiveStack, made: Jobs, settings: dict[str, Any]) -> Iterator[Future[Any]]:
    """Run `parquill run` on the stack's server, which stops during the run and comes back after it."""
    with ThreadPoolExecutor(1) as thread:
        command = thread.submit(stack.parquill, "run", str(made.job_file(settings)))
        stack.wait("requests", lambda: made.service.stats()["requests"] > 30)
        stack.stop_server()
        try:
            yield command
        finally:
            stack.start_server()


def test_the_server_goes_away_for_a_while(stack: LiveStack, made: Jobs) -> None:
    """If the server is away during a run, the run completes and no row is lost."""
    settings = slow_job(made, 700, name="without-a-while")
    with _command_without_server(stack, made, settings) as command:
        time.sleep(4)
    ended = command.result(90)
    assert ended.returncode == 0, ended.stderr
    check_settled(made, settings, 700)
    assert made.service.stats()["billed_twice"] == []
    runs = stack.ask("POST", "/flow_runs/filter", flow_runs={"name": {"like_": "without-a-while"}})
    assert [run["state_type"] for run in runs] == ["COMPLETED"]


def test_the_server_is_away_at_the_end(stack: LiveStack, made: Jobs) -> None:
    """If the server stays away, only the report to it is lost.
    Files are whole, the exit code is right, and the next run has nothing to do.
    """
    settings = slow_job(made, 200, name="gone")
    with _command_without_server(stack, made, settings) as command:
        ended = command.result(110)
        assert ended.returncode == 0, ended.stderr
        assert "Prefect" in ended.stderr
        check_settled(made, settings, 200)
    sent = made.service.stats()["requests"]
    assert stack.parquill("run", str(made.job_file(settings))).returncode == 0
    assert made.service.stats()["requests"] == sent
    assert Decimal(summary_of(settings)["cost_usd"]) > 0


def test_a_deployed_run_ends_while_the_server_is_away(stack: LiveStack, made: Jobs) -> None:
    """A deployed run that ends while the server is away writes its files and waits.
    Then it becomes Completed with its summary shown.
    """
    settings = slow_job(made, 100, name="late")
    run = stack.start_run("complete-prompts/complete", {"job": settings}, env=IMPATIENT)
    stack.wait("requests", lambda: made.service.stats()["requests"] > 30)
    stack.stop_server()
    try:
        stack.wait("whole files", lambda: summary_of(settings)["state"] == "finished")
        time.sleep(6)  # its first call to the server has failed
    finally:
        stack.start_server()
    ended = stack.ended(run)
    assert (ended["state_type"], ended["state_name"]) == ("COMPLETED", "Completed"), ended["state"]["message"]
    assert "100 of 100 rows ok" in stack.artifact("parquill-summary-late")["description"]
    check_settled(made, settings, 100)


def test_a_run_outlives_its_slot(stack: LiveStack, made: Jobs) -> None:
    """If a restarted server does not know a run's slot, the run logs a warning and completes all its rows.
    The deployment runs again after it.
    """
    settings = slow_job(made, 350, name="slotless")
    run = stack.start_run("summarize/summarize-nightly", nightly(settings))
    stack.wait("requests", lambda: made.service.stats()["requests"] > 6)
    made.service.configure(latency_ms=900)
    stack.stop_server()
    stack.start_server()

    def warned() -> list[str]:
        return [line for line in stack.logs(run, logging.WARNING) if "no longer knows the concurrency slot" in line]

    stack.wait("a warning", lambda: bool(warned()), 60)
    assert stack.run(run)["state_type"] == "RUNNING"
    made.service.configure(latency_ms=100)
    assert stack.ended(run)["state_type"] == "COMPLETED"
    assert len(warned()) == 1
    check_settled(made, settings, 350)
    again = stack.ended(stack.start_run("summarize/summarize-nightly", nightly(settings)))
    assert again["state_type"] == "COMPLETED"


def test_cancelled_after_the_server_was_away(stack: LiveStack, made: Jobs) -> None:
    """Prefect's watch for a cancellation ends when the server goes away; the UI can still cancel the run later."""
    settings = slow_job(made, 8_000, name="away-and-cancelled")  # not done before a slow server is back
    run = stack.start_run("complete-prompts/complete", {"job": settings})
    stack.wait("requests", lambda: made.service.stats()["requests"] > 30)
    stack.stop_server()
    time.sleep(6)
    stack.start_server()
    stack.ask("POST", f"/flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"}, force=False)
    time.sleep(1.0)  # a run may take one second
    sent = made.service.stats()["requests"]
    time.sleep(1.0)  # long enough to notice further requests
    assert made.service.stats()["requests"] == sent < 8_000
    assert stack.ended(run)["state_type"] == "CANCELLED"
    assert summary_of(settings)["state"] == "stopped"


def test_the_server_goes_away_while_a_command_waits(stack: LiveStack, made: Jobs) -> None:
    """A run that waits for approval continues to wait after the server was away, and accepts a later answer."""
    settings = made.job(["a", "b"], name="patient", budget={"approval_usd": 0.00001})
    with ThreadPoolExecutor(1) as thread:
        command = thread.submit(stack.parquill, "run", str(made.job_file(settings)), **IMPATIENT)
        stack.wait("a question", lambda: "budget.approval_usd" in _asked(stack), 60)
        stack.stop_server()
        time.sleep(6)  # Prefect's own retries have ended
        assert not command.done()
        stack.start_server()
        answered = stack.parquill("approve", "patient")
        assert answered.returncode == 0, answered.stderr
        ended = command.result(60)
    assert ended.returncode == 0, ended.stderr
    assert made.service.stats()["billed"] == 2
