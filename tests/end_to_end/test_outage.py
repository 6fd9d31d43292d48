"""Whole runs through an outage of the service, and through a refusal of every row."""

from __future__ import annotations

import re
import threading
import time
from decimal import Decimal

import pytest

from tests.tools.expected import billed_usd, check_books, total
from tests.tools.jobs import Jobs

OUTAGE_S = 4


@pytest.mark.parametrize(
    "kind", ["status:503", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("status:500", "status:529"))]
)
def test_an_outage_costs_time_and_no_row(jobs: Jobs, kind: str) -> None:
    """While every request fails, the run waits: it then completes every row, leaves nothing in doubt, and exits 0."""
    jobs.service.configure(latency_ms=20, faults=[{"kind": kind, "after": 100}])

    def recover() -> None:
        while not jobs.service.stats()["statuses"].get(kind[-3:]):
            time.sleep(0.05)
        time.sleep(OUTAGE_S)
        jobs.service.configure(latency_ms=20, faults=[])

    recovery = threading.Thread(target=recover)
    recovery.start()
    texts = [f"text {n}" for n in range(1_208)]
    done = jobs.run(jobs.job(texts, retry={"attempts": 2}, budget={"run_usd": 0.05}))
    recovery.join()
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok"] * len(texts)
    assert total(done.column("in_doubt_usd")) == 0
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service)
    stats = jobs.service.stats()
    assert stats["billed_twice"] == []
    # requests under way when the outage began, then one request at a time
    assert stats["statuses"][kind[-3:]] <= 64 + 12 + OUTAGE_S + 4
    assert "every request to the service fails" in done.stderr
    assert "the service answers again" in done.stderr
    check_books(done)


def test_a_run_that_is_stopped_in_an_outage_resumes(jobs: Jobs) -> None:
    """A run gives up after retry.patience_s with exit 1 and one sentence.
    The same command resumes it, and no row is lost.
    """
    jobs.service.configure(latency_ms=5, faults=[{"kind": "status:500", "after": 50}])
    settings = jobs.job([f"text {n}" for n in range(300)], retry={"attempts": 1, "patience_s": 3})
    done = jobs.run(settings)
    assert (done.exit_code, done.summary["state"]) == (1, "stopped"), done.stderr
    assert "every request to the service has failed for" in done.summary["message"]
    assert "Run again to resume" in done.summary["message"]
    assert set(done.column("status")) == {"ok", "failed", "not_sent"}
    jobs.service.configure(faults=[])
    resumed = jobs.run(settings)
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.summary["run_id"] == done.summary["run_id"]
    assert resumed.column("status") == ["ok"] * 300
    assert jobs.service.stats()["billed_twice"] == []
    check_books(resumed)


def test_a_refusal_of_every_row_stops_early_and_says_why(jobs: Jobs) -> None:
    """If the service refuses every request for one reason, the run sends few, exits 1, and quotes that reason."""
    jobs.service.configure(faults=[{"kind": "status:400"}])
    settings = jobs.job([f"text {n}" for n in range(180)])
    done = jobs.run(settings)
    assert (done.exit_code, done.summary["state"]) == (1, "stopped"), done.stderr
    # the exact count depends on how many requests were under way: test_breaker has it, in simulated time
    refused = re.search(r"(\d+) requests in a row were refused for the same reason", done.summary["message"])
    assert refused is not None, done.summary["message"]
    assert 30 <= int(refused[1]) <= jobs.service.stats()["requests"] < 100
    assert "The request is not valid" in done.summary["message"]
    jobs.service.configure(faults=[])
    resumed = jobs.run(settings)
    assert resumed.column("status") == ["ok"] * 180
    check_books(resumed)
