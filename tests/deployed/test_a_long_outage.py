"""The Prefect server is away for two minutes during a deployed run with Prefect's default patience."""

from __future__ import annotations

import time

import pytest

from tests.deployed.live_stack import LiveStack
from tests.deployed.slow_jobs import check_settled, nightly, slow_job
from tests.tools.jobs import Jobs

pytestmark = pytest.mark.nightly

AWAY_S = 120.0


def test_two_minutes_without_a_server(stack: LiveStack, made: Jobs) -> None:
    """If the server is away for two minutes, no row is lost, nothing is billed twice, and the run completes."""
    settings = slow_job(made, 1_500, name="two-minutes")
    made.service.configure(latency_ms=900)
    run = stack.start_run("summarize/summarize-nightly", nightly(settings))
    stack.wait("requests", lambda: made.service.stats()["requests"] > 6)
    stack.stop_server()
    away, sent = time.monotonic(), made.service.stats()["requests"]
    while time.monotonic() - away < AWAY_S:
        time.sleep(10)  # real time: Prefect's patience cannot be configured
        before, sent = sent, made.service.stats()["requests"]
        assert sent > before, "the run does not continue while the server is away"
    stack.start_server()
    ended = stack.ended(run)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    assert made.service.stats()["billed_twice"] == []
    check_settled(made, settings, 1_500)
    assert "1,500 of 1,500 rows ok" in stack.artifact("parquill-summary-two-minutes")["description"]
