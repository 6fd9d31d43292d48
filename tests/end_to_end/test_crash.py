"""Kills, signals and locks: what was answered is kept, what was under way may be paid twice, nothing else."""

from __future__ import annotations

import os
import random
import signal
import time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from tests.end_to_end.jobs import Jobs, Spawned
from tests.end_to_end.truth import billed_usd, check_books, reserved_usd, total

AT_ONCE = 16
KILLS = 6
# What a kill may change in a row; `in_doubt_usd` is held against the attempts below.
MAY_DIFFER = ["request_id", "attempts", "latency_s", "finished_at", "run_id", "in_doubt_usd"]


def _wait_for(jobs: Jobs, spawned: Spawned, requests: int, timeout_s: float = 60) -> None:
    """Wait until the service has seen so many requests."""
    deadline = time.monotonic() + timeout_s
    while jobs.service.stats()["requests"] < requests:
        assert time.monotonic() < deadline, spawned.read("err")
        if spawned.process.poll() is not None:
            return
        time.sleep(0.004)


def _paid_twice(jobs: Jobs) -> int:
    return sum(bill[0] - 1 for bill in jobs.service.stats(full=True)["billed_map"].values())


def test_kill_nine_again_and_again(jobs: Jobs) -> None:
    """Killed six times at random moments, a job ends with the rows of an undisturbed one; only what was in flight is
    paid twice, and that stands in doubt in its row.
    """
    chance = random.Random(20261123)
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", output_tokens="lognormal:15:0.3", latency_ms=50, latency_sigma=0.4
    )
    table = pa.table({"text": [f"row {n} of many" for n in range(600)], "n": list(range(600))})
    settings = jobs.job(table, limits={"max_at_once": AT_ONCE}, retry={"attempts": 20})
    twice = seen = kills = 0
    for _ in range(KILLS):
        spawned = jobs.spawn(settings)
        _wait_for(jobs, spawned, seen + chance.randint(1, 120))
        time.sleep(chance.uniform(0, 0.03))
        kills += spawned.process.poll() is None
        os.kill(spawned.process.pid, signal.SIGKILL)
        spawned.process.wait()
        time.sleep(0.05)  # the service notices that its client is gone
        seen = jobs.service.stats()["requests"]
        now = _paid_twice(jobs)
        assert now - twice <= AT_ONCE, "more was paid twice after one kill than was in flight"
        twice = now
    assert kills == KILLS
    assert seen < 900
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    stats = jobs.service.stats()
    assert stats["billed"] == 600
    assert 0 < stats["billed_requests"] - 600 <= AT_ONCE * KILLS
    assert set(done.column("run_id")) == {done.summary["run_id"]}
    for row in done.rows:
        assert row["in_doubt_usd"] == (row["attempts"] - 1) * reserved_usd(row["estimated_prompt_tokens"])
    check_books(done)
    spent, doubt = Decimal(done.summary["cost_usd"]), Decimal(done.summary["in_doubt_usd"])
    assert doubt == total(done.column("in_doubt_usd"))
    assert spent < billed_usd(jobs.service) <= spent + doubt
    requests = done.summary["requests"]
    assert requests["sent"] == sum(done.column("attempts"))
    assert stats["requests"] <= requests["sent"] <= stats["requests"] + AT_ONCE * KILLS
    jobs.service.configure(latency_ms=0)
    calm = jobs.run({**settings, "output": str(jobs.folder / "calm")})
    assert calm.exit_code == 0, calm.stderr
    assert done.table.drop_columns(MAY_DIFFER).equals(calm.table.drop_columns(MAY_DIFFER))


def test_a_kill_while_results_are_written(jobs: Jobs) -> None:
    """Killed while it writes, a run leaves the old results whole, and goes on without sending what is answered."""
    first = jobs.run(jobs.job([f"old {n}" for n in range(3)]))
    texts = [f"new {n} " + "x" * 2000 for n in range(3000)]
    settings = jobs.job(texts, limits={"max_at_once": 64})
    spawned = jobs.spawn(settings)
    staging = jobs.folder / "out" / ".parquill" / "staging"
    deadline = time.monotonic() + 60
    while not staging.exists() and time.monotonic() < deadline and spawned.process.poll() is None:
        time.sleep(0.002)
    os.kill(spawned.process.pid, signal.SIGKILL)
    spawned.process.wait()
    killed = jobs.done(settings, -9, "", "")
    assert killed.table.equals(first.table) or killed.table.num_rows == 3000
    assert jobs.service.stats()["requests"] == 3003
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["requests"] == 3003
    assert done.column("text") == texts
    check_books(done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_stops_gently(jobs: Jobs, number: signal.Signals) -> None:
    """SIGINT and SIGTERM: nothing new is sent, what is under way is kept, exit 130 soon, and the same run goes on."""
    jobs.service.configure(latency_ms=150)
    texts = [f"text {n}" for n in range(300)]
    settings = jobs.job(texts, limits={"max_at_once": AT_ONCE})
    spawned = jobs.spawn(settings)
    _wait_for(jobs, spawned, 40)
    at_signal = jobs.service.stats()["requests"]
    began = time.monotonic()
    spawned.process.send_signal(number)
    stopped = spawned.wait()
    assert stopped.exit_code == 130, stopped.stderr
    assert time.monotonic() - began < 15
    sent = jobs.service.stats()["requests"]
    assert sent <= at_signal + 2 * AT_ONCE
    assert "run again" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert (stopped.summary["state"], stopped.summary["exit_code"]) == ("stopped", 130)
    assert Decimal(stopped.summary["cost_usd"]) == billed_usd(jobs.service)
    rows = stopped.summary["rows"]
    assert (rows["ok"], rows["total"], rows["not_sent"]) == (sent, 300, 300 - sent)
    time.sleep(0.3)
    assert jobs.service.stats()["requests"] == sent
    jobs.service.configure(latency_ms=0)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.summary["run_id"] == stopped.summary["run_id"]
    stats = jobs.service.stats()
    assert (stats["billed_requests"], stats["billed_twice"]) == (300, [])
    assert done.summary["requests"]["sent"] == stats["requests"]
    assert total(done.column("in_doubt_usd")) == 0
    check_books(done)


def test_a_signal_ends_what_hangs(jobs: Jobs) -> None:
    """Requests that hang do not hold up a SIGTERM: after the grace they are cut off, in doubt, and exit is 130."""
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", faults=[{"kind": "hang", "match": "hangs", "times": 1}], latency_ms=5
    )
    texts = [f"text {n}" + (" hangs" if n in {3, 7} else "") for n in range(20)]
    settings = jobs.job(texts, limits={"max_at_once": AT_ONCE})
    spawned = jobs.spawn(settings)
    _wait_for(jobs, spawned, 20)
    began = time.monotonic()
    spawned.process.send_signal(signal.SIGTERM)
    stopped = spawned.wait()
    assert stopped.exit_code == 130, stopped.stderr
    assert time.monotonic() - began < 15
    assert Decimal(stopped.summary["in_doubt_usd"]) > 0
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok"] * 20
    doubt = [row["row_number"] for row in done.rows if row["in_doubt_usd"]]
    assert doubt == [3, 7]
    check_books(done)


def test_an_output_belongs_to_one_run_at_a_time(jobs: Jobs) -> None:
    """A second run on an output or state in use exits 2, names the first and sends nothing; a dead one blocks nobody."""
    jobs.service.configure(latency_ms=200)
    state = str(jobs.folder / "state")
    settings = jobs.job([f"text {n}" for n in range(200)], name="night", state=state, limits={"max_at_once": 4})
    first = jobs.spawn(settings)
    _wait_for(jobs, first, 4)
    others: list[dict[str, Any]] = [settings, {**settings, "output": str(jobs.folder / "elsewhere")}]
    for second in others:
        refused = jobs.run(second)
        assert refused.exit_code == 2
        assert "night" in refused.stderr
        assert str(first.process.pid) in refused.stderr
    assert first.process.poll() is None
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    sent = jobs.service.stats()["requests"]
    assert sent < 60
    jobs.service.configure(latency_ms=0)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["billed"] == 200
    assert _paid_twice(jobs) <= 4
    check_books(done)


def test_hold_keeps_its_word_after_a_kill(jobs: Jobs) -> None:
    """With `in_doubt: hold` requests that were in flight at a kill are not sent again: their rows fail, in doubt."""
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", latency_ms=300)
    settings = jobs.job(
        [f"text {n}" for n in range(40)], limits={"max_at_once": 8}, retry={"in_doubt": "hold"}, tolerate={"not_ok": 1}
    )
    spawned = jobs.spawn(settings)
    _wait_for(jobs, spawned, 12)
    os.kill(spawned.process.pid, signal.SIGKILL)
    spawned.process.wait()
    jobs.service.configure(latency_ms=0)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["billed_twice"] == []
    held = [row for row in done.rows if row["status"] != "ok"]
    assert 0 < len(held) <= 8
    for row in held:
        assert (row["status"], row["error_code"], row["cost_usd"]) == ("failed", "connection_lost", 0)
        assert row["in_doubt_usd"] == reserved_usd(row["estimated_prompt_tokens"])
    check_books(done)
