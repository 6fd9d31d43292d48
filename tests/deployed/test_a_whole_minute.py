"""Rate limits over real minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.limits.test_limiter_llmock import hold_limits
from tests.tools.jobs import Jobs
from tests.tools.sharing import run_together

pytestmark = pytest.mark.nightly


def test_a_bucket_that_holds_a_minute(tmp_path: Path) -> None:
    """At a service's limits no request gets a 429 after the first second, over more than a minute. llmock's bucket
    holds one minute, so only a longer run can empty it.
    """
    hold_limits(tmp_path, 1_200, 400_000, 70)


def test_two_processes_over_a_whole_minute(jobs: Jobs) -> None:
    """Two processes that share a limit never exceed it together in any minute, and use 95 % of it."""
    per_minute = 1_200
    jobs.service.configure(latency_ms=50)
    shared = run_together(jobs, 760, {"requests_per_minute": per_minute, "shared": "a-whole-minute"}, timeout_s=180)
    assert [run.exit_code for run in shared.runs] == [0, 0]
    assert shared.seconds > 60
    assert shared.busiest(60.0) <= per_minute
    assert shared.used(per_minute) >= 0.95
