"""A run that several processes complete: the same results, one budget, one set of limits, and one stop."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from tests.deployed.live_stack import LiveStack
from tests.tools.expected import check_books
from tests.tools.jobs import Jobs
from tests.tools.members import is_running, members

ROWS = 2_000  # four shards
AT_ONCE = 32
PROCESSES = {"kind": "processes", "workers": 2}


def _settings(jobs: Jobs, rows: int = ROWS, **changes: Any) -> dict[str, Any]:
    given = {"limits": {"max_at_once": AT_ONCE}, "budget": {"run_usd": 1}, "engine": PROCESSES, **changes}
    return jobs.job([f"text {row}" for row in range(rows)], **given)


def _both_send(jobs: Jobs, settings: dict[str, Any]) -> bool:
    return len(members(settings)) == 2 and jobs.service.stats()["billed"] > 2 * AT_ONCE


def test_processes_share_a_run(jobs: Jobs) -> None:
    """Two processes complete a run: every row once, in order, with exact money, at most `max_at_once` at once, and the
    progress of both in one line. No process is left.
    """
    jobs.service.configure(latency_ms=100)
    settings = _settings(jobs)
    spawned = jobs.spawn(settings)
    LiveStack.wait("both processes", lambda: _both_send(jobs, settings), 120)
    pids = members(settings)
    done = spawned.wait()
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok"] * ROWS
    assert done.column("row_number") == list(range(ROWS))
    check_books(done)
    stats = jobs.service.stats()
    assert (stats["billed"], stats["billed_twice"]) == (ROWS, [])
    assert AT_ONCE // 2 < stats["max_in_flight"] <= AT_ONCE
    assert re.search(r"\d of 2,000 rows, .*rows/\w+, \$0\.\d+ of \$1\.00 spent", done.stderr), done.stderr
    LiveStack.wait("the end of the processes", lambda: not any(map(is_running, pids)), 60)


@pytest.mark.nightly
def test_a_process_that_is_killed_is_replaced(jobs: Jobs) -> None:
    """C10: After `kill -9` of one process the run goes on and ends well. What was answered is kept, and at most what
    was under way is paid again.
    """
    jobs.service.configure(latency_ms=300)
    settings = _settings(jobs)
    spawned = jobs.spawn(settings)
    LiveStack.wait("both processes", lambda: _both_send(jobs, settings), 120)
    os.kill(members(settings)[0], signal.SIGKILL)
    jobs.service.configure(latency_ms=0)
    done = spawned.wait()
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok"] * ROWS
    assert len(jobs.service.stats()["billed_twice"]) <= AT_ONCE
    assert Decimal(done.summary["cost_usd"]) == sum(done.column("cost_usd"))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)], ids=str)
def test_a_stop_reaches_every_process(jobs: Jobs, number: signal.Signals) -> None:
    """C7: Ctrl-C, which reaches all processes of a terminal, or SIGTERM to the command stops all of them: requests under
    way are kept, the command exits with 130, and the next start pays for no answered row again.
    """
    jobs.service.configure(latency_ms=300)
    settings = _settings(jobs)
    spawned = jobs.spawn(settings)
    LiveStack.wait("both processes", lambda: _both_send(jobs, settings), 120)
    pids = members(settings)
    (os.killpg if number == signal.SIGINT else os.kill)(spawned.process.pid, number)
    stopped = spawned.wait()
    assert stopped.exit_code == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not any(map(is_running, pids))
    paid = jobs.service.stats()["billed"]
    assert paid < ROWS
    assert stopped.summary["rows"]["ok"] == paid
    jobs.service.configure(latency_ms=0)
    done = jobs.spawn(settings).wait()
    assert done.exit_code == 0, done.stderr
    assert (jobs.service.stats()["billed"], jobs.service.stats()["billed_twice"]) == (ROWS, [])
    check_books(done)


@pytest.mark.nightly
def test_processes_share_a_budget(jobs: Jobs) -> None:
    """M1: All processes together stay within the budget, use nearly all of it, and the run ends as stopped by it."""
    jobs.service.configure(latency_ms=50, output_tokens="fixed:40")
    budget = {"run_usd": 0.01, "when_short": "partial"}
    settings = _settings(jobs, budget=budget)
    done = jobs.spawn(settings).wait()
    assert done.exit_code == 4, done.stderr
    counts = Counter(done.column("status"))
    assert set(counts) == {"ok", "not_sent"}
    assert Decimal("0.0095") < Decimal(done.summary["cost_usd"]) <= Decimal("0.01")
    assert jobs.service.stats()["billed"] == counts["ok"]
    check_books(done)


@pytest.mark.nightly
def test_a_refused_key_stops_every_process(jobs: Jobs) -> None:
    """A service that rejects the key stops the run after few requests, with exit code 1 and the reason; no row fails."""
    jobs.service.configure(faults=[{"kind": "status:401"}])
    done = jobs.spawn(_settings(jobs)).wait()
    assert done.exit_code == 1, done.stderr
    assert "HTTP 401" in done.summary["message"]
    rows = done.summary["rows"]
    assert rows["not_sent"] + rows["failed"] == ROWS
    assert jobs.service.stats()["requests"] <= 2 * AT_ONCE


@pytest.mark.nightly
def test_processes_share_the_limits(jobs: Jobs) -> None:
    """All processes together keep the job's requests per minute, and use them: the service never answers 429."""
    jobs.service.configure(rpm=600)
    settings = _settings(jobs, limits={"max_at_once": AT_ONCE, "requests_per_minute": 600})
    spawned = jobs.spawn(settings)
    LiveStack.wait("two minutes' limit", lambda: jobs.service.stats()["billed"] > 1_100, 150)
    assert len(members(settings)) == 2
    assert jobs.service.stats()["refused"] == {"requests": 0, "tokens": 0}
    spawned.process.send_signal(signal.SIGINT)
    assert spawned.wait().exit_code == 130


@pytest.mark.nightly
def test_processes_end_when_their_leader_is_killed(jobs: Jobs) -> None:
    """C7: After `kill -9` of the command, its processes send nothing more and end. The next start resumes."""
    jobs.service.configure(latency_ms=300)
    settings = _settings(jobs)
    spawned = jobs.spawn(settings)
    LiveStack.wait("both processes", lambda: _both_send(jobs, settings), 120)
    pids = members(settings)
    spawned.process.kill()
    spawned.process.wait()
    sent = jobs.service.stats()["requests"]
    LiveStack.wait("the end of the processes", lambda: not any(map(is_running, pids)), 120)
    assert sent <= jobs.service.stats()["requests"] <= sent + AT_ONCE
    jobs.service.configure(latency_ms=0)
    done = jobs.spawn(settings).wait()
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["billed_twice"] == []
