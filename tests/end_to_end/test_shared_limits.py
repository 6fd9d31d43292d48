"""Limits that real processes share through a real ledger."""

from __future__ import annotations

import pytest

from tests.tools.jobs import Jobs
from tests.tools.sharing import allowed, run_together

PER_MINUTE = 3_000


@pytest.mark.nightly  # what arrives in a second depends on the machine
def test_two_processes_share_a_limit(jobs: Jobs) -> None:
    """Two processes that name one shared limit keep it together from the start, and report that it is shared."""
    jobs.service.configure(latency_ms=50)
    shared = run_together(jobs, 220, {"requests_per_minute": PER_MINUTE, "shared": "together"})
    for run in shared.runs:
        assert run.exit_code == 0, run.stderr
        assert "limits.shared, requests: 3,000 a minute are shared by all runs that name it" in run.stderr
    assert len(shared.arrivals) == 440
    for window_s in (1.0, 5.0, 10.0):
        assert shared.busiest(window_s) <= allowed(PER_MINUTE, window_s, 2)
    # a test that 95 % of it is used needs a whole minute: tests/deployed, and tests/tasks/limits in simulated time
