"""Crash, with the real command as a process: kills, signals and locks.

Answers are kept, requests under way may be paid twice, and nothing else is lost or paid twice.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest

from parquill.flows.complete_prompts import complete_prompts
from tests.tools.expected import billed_usd, check_books, reserved_usd, total
from tests.tools.jobs import Done, Jobs
from tests.tools.kills import Kills, wait_for_requests
from tests.tools.timing import within

AT_ONCE = 16
SAME = 20  # rows with the prompt of an earlier row
LONG = int(os.environ.get("LONG_CRASH", "0"))  # `make crash` sets it: how many kills
ONLY_LONG = pytest.mark.nightly  # tests of the other signal, or of the whole grace period
# What a kill may change in a row; `in_doubt_usd` is compared with the attempts below.
MAY_DIFFER = ["request_id", "attempts", "latency_s", "finished_at", "run_id", "in_doubt_usd"]


def test_kill_nine_again_and_again(jobs: Jobs) -> None:
    """C1, C4: A job that is killed again and again at seeded moments ends with the rows of an undisturbed job.
    Only requests in flight at a kill are paid twice, and their rows show them in doubt; a finished job sends nothing.
    """
    kills, rows = (LONG, 40 * LONG) if LONG else (2, 200)
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", output_tokens="lognormal:15:0.3", latency_ms=50, latency_sigma=0.4
    )
    requests = rows - SAME
    table = pa.table({"text": [f"row {n % requests} of many" for n in range(rows)], "n": list(range(rows))})
    settings = jobs.job(table, limits={"max_at_once": AT_ONCE}, retry={"attempts": 20}, budget={"run_usd": 5})
    killer = Kills(jobs, settings, seed=20261123, each=rows // kills * 3 // 2)
    killer.kill(kills)
    jobs.service.configure(latency_ms=2, latency_sigma=0)
    if LONG:  # otherwise a test of its own, below, does this
        killer.kill_writing()
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    killer.count()
    stats = jobs.service.stats()
    lost = rows - sum(status == "ok" for status in done.column("status"))
    sys.stdout.write(
        f"\nkills {killer.times} {killer.by_moment}, rows {rows}, requests {stats['requests']}, billed "
        f"{stats['billed_requests']}, billed twice {killer.twice} of {sum(killer.in_flight)} in flight at a kill (at most "
        f"{max(killer.in_flight)} of {AT_ONCE}), answers cut {killer.cut}, lost {lost}\n"
    )
    assert killer.times >= kills
    assert lost == 0
    assert (stats["billed"], stats["billed_requests"]) == (requests, requests + killer.twice)
    assert max(killer.in_flight) <= AT_ONCE
    assert 0 < killer.twice <= sum(killer.in_flight), "more was paid twice than was in flight"
    _check_money(jobs, done)
    again = jobs.run(settings)
    assert (again.exit_code, jobs.service.stats()["requests"]) == (0, stats["requests"])
    calm = jobs.run({**settings, "output": str(jobs.folder / "calm")})
    assert calm.exit_code == 0, calm.stderr
    assert done.table.drop_columns(MAY_DIFFER).equals(calm.table.drop_columns(MAY_DIFFER))


def _check_money(jobs: Jobs, done: Done) -> None:
    """Check that the billed amount lies between spent and spent plus in doubt, and that each row has its own doubt."""
    assert set(done.column("run_id")) == {done.summary["run_id"]}
    for row in done.rows:
        assert row["in_doubt_usd"] == (row["attempts"] - (not row["reused"])) * reserved_usd(
            row["estimated_prompt_tokens"]
        )
    check_books(done)
    spent, doubt = Decimal(done.summary["cost_usd"]), Decimal(done.summary["in_doubt_usd"])
    assert doubt == total(done.column("in_doubt_usd"))
    assert spent < billed_usd(jobs.service) <= spent + doubt
    requests = done.summary["requests"]
    assert requests["sent"] == sum(done.column("attempts")) >= jobs.service.stats()["requests"]


@pytest.mark.nightly
def test_a_kill_while_results_are_written(jobs: Jobs) -> None:
    """C3: A run that is killed while it writes leaves the old results whole.
    The next start sends no answered row again.
    """
    first = jobs.run(jobs.job([f"old {n}" for n in range(3)]))
    texts = [f"new {n} " + "x" * 2000 for n in range(1000)]
    settings = jobs.job(texts, limits={"max_at_once": 64})
    killer = Kills(jobs, settings, seed=1, each=1)
    killer.kill_writing()
    assert killer.by_moment == {"writing": 1}
    killed = jobs.done(settings, -9, "", "")
    assert killed.table.equals(first.table) or killed.table.num_rows == 1000
    assert jobs.service.stats()["requests"] == 1003
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["requests"] == 1003
    assert done.column("text") == texts
    check_books(done)


@pytest.mark.timed
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=ONLY_LONG)],
    ids=["ctrl-c", "sigterm"],
)
def test_a_signal_stops_gently(jobs: Jobs, number: signal.Signals) -> None:
    """After SIGINT or SIGTERM, a run sends nothing new, keeps what is under way, exits 130, and can be resumed."""
    jobs.service.configure(latency_ms=2_000)
    texts = [f"text {n}" for n in range(300)]
    settings = jobs.job(texts, limits={"max_at_once": AT_ONCE})
    spawned = jobs.spawn(settings)
    wait_for_requests(jobs.service, spawned, 20)
    at_signal = jobs.service.stats()["requests"]
    spawned.process.send_signal(number)
    with within(15):
        stopped = spawned.wait()
    assert stopped.exit_code == 130, stopped.stderr
    sent = jobs.service.stats()["requests"]
    assert sent <= at_signal + 2 * AT_ONCE
    assert "run again" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert (stopped.summary["state"], stopped.summary["exit_code"]) == ("stopped", 130)
    assert Decimal(stopped.summary["cost_usd"]) == billed_usd(jobs.service)
    rows = stopped.summary["rows"]
    assert (rows["ok"], rows["total"], rows["not_sent"]) == (sent, 300, 300 - sent)
    jobs.service.configure(latency_ms=0)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.summary["run_id"] == stopped.summary["run_id"]
    stats = jobs.service.stats()
    assert (stats["billed_requests"], stats["billed_twice"]) == (300, [])
    assert done.summary["requests"]["sent"] == stats["requests"]
    assert total(done.column("in_doubt_usd")) == 0
    check_books(done)


@pytest.mark.nightly
def test_a_signal_at_any_moment(jobs: Jobs) -> None:
    """C7: A run that is signaled while it imports, reads, plans or begins to send exits 130.
    It sends only what was under way, and the next start ends like an undisturbed one.
    """
    times = 100 if LONG else 4
    jobs.service.configure(latency_ms=2_000)  # so that even the last start has something to stop
    settings = jobs.job([f"text {n}" for n in range(60 * times)], limits={"max_at_once": AT_ONCE})
    draw = random.Random(20261123)
    for _ in range(times):
        spawned = jobs.spawn(settings)
        time.sleep(draw.uniform(0.05, 3.0))  # the moment is random
        at_signal = jobs.service.stats()["requests"]
        spawned.process.send_signal(draw.choice([signal.SIGINT, signal.SIGTERM]))
        stopped = spawned.wait()
        assert stopped.exit_code == 130, stopped.stderr
        assert jobs.service.stats()["requests"] <= at_signal + 2 * AT_ONCE
        assert "Traceback" not in stopped.stderr
    jobs.service.configure(latency_ms=0)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["billed_twice"] == []
    check_books(done)


@ONLY_LONG
def test_a_signal_ends_what_hangs(jobs: Jobs) -> None:
    """Requests that hang do not delay a SIGTERM.
    After the grace period the run cuts them off, in doubt, and exits 130.
    """
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", faults=[{"kind": "hang", "match": "hangs", "times": 1}], latency_ms=5
    )
    texts = [f"text {n}" + (" hangs" if n in {3, 7} else "") for n in range(20)]
    settings = jobs.job(texts, limits={"max_at_once": AT_ONCE})
    spawned = jobs.spawn(settings)
    wait_for_requests(jobs.service, spawned, 20)
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


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_a_second_signal_stops_at_once(jobs: Jobs, number: signal.Signals) -> None:
    """C7: A second signal ends the grace period: the run exits 130 within seconds.
    Hanging requests are in doubt.
    """
    jobs.service.configure(faults=[{"kind": "hang"}])
    settings = jobs.job([f"text {n}" for n in range(20)], limits={"max_at_once": 4})
    spawned = jobs.spawn(settings)
    wait_for_requests(jobs.service, spawned, 4)
    spawned.process.send_signal(number)
    time.sleep(0.5)
    began = time.monotonic()
    spawned.process.send_signal(number)
    stopped = spawned.wait()
    assert stopped.exit_code == 130, stopped.stderr
    assert time.monotonic() - began < 5  # the grace period is 10 s; the test bounds time, so it runs nightly
    assert (stopped.summary["state"], stopped.summary["exit_code"]) == ("stopped", 130)
    assert stopped.summary["requests"]["in_doubt"] == 4
    assert "Traceback" not in stopped.stderr


@pytest.mark.nightly
def test_an_output_belongs_to_one_run_at_a_time(jobs: Jobs) -> None:
    """A second run on an output or state in use exits 2, names the first run and sends nothing.
    A dead run blocks no other.
    """
    jobs.service.configure(latency_ms=1_000)
    state = str(jobs.folder / "state")
    settings = jobs.job([f"text {n}" for n in range(200)], name="night", state=state, limits={"max_at_once": 4})
    first = jobs.spawn(settings)
    wait_for_requests(jobs.service, first, 4)
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
    assert sent < 200
    jobs.service.configure(latency_ms=0)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["billed"] == 200
    assert len(jobs.service.stats()["billed_twice"]) <= 4
    check_books(done)


@ONLY_LONG
def test_a_killed_run_is_given_up_for_another(jobs: Jobs) -> None:
    """If a run was killed and its input has changed by the next start, the next start settles it from its journals.
    Rows and ledger agree to the last digit, and what was under way stays in doubt.
    """
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", latency_ms=1_000)
    texts = [f"text {n}" for n in range(60)]
    settings = jobs.job(texts, limits={"max_at_once": 8})
    # it reports to another ledger: a ledger may not know a killed run yet
    elsewhere = {"PARQUILL_LEDGER_URL": f"sqlite:///{jobs.folder / 'elsewhere.sqlite'}"}
    spawned = jobs.spawn(settings, environment=elsewhere)
    wait_for_requests(jobs.service, spawned, 24)
    os.kill(spawned.process.pid, signal.SIGKILL)
    spawned.process.wait()
    jobs.service.configure(latency_ms=0)
    done = jobs.run(jobs.job([*texts, "one more"], limits={"max_at_once": 8}))
    assert done.exit_code == 0, done.stderr
    assert len(set(done.column("run_id"))) == 2
    spend = orjson.loads(jobs.run(settings, "--json", command="spend").stdout)
    assert Decimal(spend["cost_usd"]) == total(done.column("cost_usd"))
    assert (
        Decimal(spend["cost_usd"])
        < billed_usd(jobs.service)
        <= Decimal(spend["cost_usd"]) + Decimal(spend["in_doubt_usd"])
    )


@ONLY_LONG
@pytest.mark.parametrize("shared", ["output", "state"])
def test_a_folder_belongs_to_one_flow_of_a_process(jobs: Jobs, shared: str) -> None:
    """If one process calls two flows on one folder at once, one holds it and the other is refused, as with processes.
    No row is paid twice.
    """
    jobs.service.configure(latency_ms=1_000)
    settings = jobs.job([f"text {n}" for n in range(60)], state=str(jobs.folder / "state"), limits={"max_at_once": 8})
    other = {**settings, "output": str(jobs.folder / "elsewhere")} if shared == "state" else settings
    with ThreadPoolExecutor(2) as threads:
        called = [threads.submit(complete_prompts, job=each) for each in (settings, other)]
        errors = [each.exception() for each in called]
    assert sorted(type(error).__name__ for error in errors) == ["FolderInUse", "NoneType"]
    stats = jobs.service.stats()
    assert (stats["billed"], stats["billed_twice"]) == (60, [])


def test_hold_keeps_its_word_after_a_kill(jobs: Jobs) -> None:
    """With `in_doubt: hold`, requests that were in flight at a kill are not sent again: their rows fail, in doubt."""
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", latency_ms=1_000)
    settings = jobs.job(
        [f"text {n}" for n in range(40)], limits={"max_at_once": 8}, retry={"in_doubt": "hold"}, tolerate={"not_ok": 1}
    )
    spawned = jobs.spawn(settings)
    wait_for_requests(jobs.service, spawned, 12)
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
