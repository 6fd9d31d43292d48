"""Tests that show a bug of the product; each moves to tests/end_to_end when it passes.

Run: cp /tmp/bugs_e2e/test_bugs_pending.py tests/end_to_end/ && .venv/bin/python -m pytest tests/end_to_end/test_bugs_pending.py
"""

from __future__ import annotations

import os
import signal
import time
from decimal import Decimal

import orjson
import pytest

from tests.end_to_end.jobs import Jobs, Spawned
from tests.end_to_end.truth import billed_usd, reserved_usd, total


def _wait_for(jobs: Jobs, spawned: Spawned, requests: int) -> None:
    while jobs.service.stats()["requests"] < requests and spawned.process.poll() is None:
        time.sleep(0.01)


def test_a_month_that_is_used_up_on_the_way_exits_4(jobs: Jobs) -> None:
    """A run that a month's budget stops exits 4 and names the budget, as with a run's own budget."""
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", output_tokens="fixed:45")
    budget = {"monthly_usd": 0.0005, "when_short": "partial"}
    done = jobs.run(jobs.job([f"text {n}" for n in range(60)], budget=budget))
    assert done.summary["state"] == "stopped"
    assert billed_usd(jobs.service) <= Decimal("0.0005")
    assert done.exit_code == 4, done.stderr
    assert "month" in done.stderr.splitlines()[-1]


def test_a_plain_run_goes_on_with_an_interrupted_redo(jobs: Jobs) -> None:
    """After a kill during --redo the plain command goes on with that run: what it paid is not left out of the results."""
    jobs.service.configure(faults=[{"kind": "length", "match": "cut", "times": 1}])
    settings = jobs.job([f"cut {n}" for n in range(60)], tolerate={"not_ok": 1}, limits={"max_at_once": 4})
    assert jobs.run(settings).summary["rows"]["truncated"] == 60
    jobs.service.configure(latency_ms=200)
    spawned = jobs.spawn(settings, "--redo", "truncated")
    _wait_for(jobs, spawned, 80)
    os.kill(spawned.process.pid, signal.SIGKILL)
    spawned.process.wait()
    jobs.service.configure(latency_ms=0)
    done = jobs.run(settings)
    assert done.exit_code == 0
    assert done.summary["state"] == "finished", "summary.json says `running` for ever"
    assert done.column("status") == ["ok"] * 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_second_signal_stops_at_once(jobs: Jobs, number: signal.Signals) -> None:
    """The first signal offers `once more to stop at once`: the second ends the run within two seconds."""
    jobs.service.configure(latency_ms=30_000)
    spawned = jobs.spawn(jobs.job([f"text {n}" for n in range(30)], limits={"max_at_once": 8}))
    _wait_for(jobs, spawned, 8)
    spawned.process.send_signal(number)
    time.sleep(1)
    began = time.monotonic()
    spawned.process.send_signal(number)
    stopped = spawned.wait()
    assert stopped.exit_code == 130
    assert time.monotonic() - began < 3


def test_sigterm_while_the_input_is_read(jobs: Jobs) -> None:
    """SIGTERM before anything is sent exits 130 too, and leaves no half plan with prompts behind."""
    spawned = jobs.spawn(jobs.job([f"text {n} " + "word " * 300 for n in range(60_000)]))
    runs = jobs.folder / "out" / ".parquill" / "runs"
    while not (runs.exists() and any(runs.iterdir())) and spawned.process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    spawned.process.send_signal(signal.SIGTERM)
    stopped = spawned.wait()
    assert jobs.service.stats()["requests"] == 0
    assert stopped.exit_code == 130
    assert not list(runs.iterdir())


def test_a_dead_run_does_not_make_others_wait(jobs: Jobs) -> None:
    """What a killed run had leased stays booked, but nobody waits minutes for money that cannot come back."""
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", output_tokens="fixed:40", latency_ms=300)
    budget = {"monthly_usd": 0.001, "when_short": "partial"}
    first = jobs.spawn(jobs.job([f"left {n}" for n in range(100)], budget=budget, limits={"max_at_once": 20}))
    _wait_for(jobs, first, 5)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    jobs.service.configure(latency_ms=0)
    began = time.monotonic()
    settings = jobs.job([f"right {n}" for n in range(100)], budget=budget, output=str(jobs.folder / "right"))
    done = jobs.run({**settings, "retry": {"timeout_s": 20}})  # 120 by default
    assert done.column("status").count("not_sent")
    assert billed_usd(jobs.service) <= Decimal("0.001")
    assert time.monotonic() - began < 10


def test_two_runs_do_not_wait_for_each_others_change(jobs: Jobs) -> None:
    """Runs that share a month give back what they do not use before they wait for others: none stands still."""
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", output_tokens="fixed:40", latency_ms=150)
    spawned = []
    for name in ("left", "right"):
        budget = {"monthly_usd": 0.002, "when_short": "partial"}
        settings = jobs.job(name=name, output=str(jobs.folder / name), budget=budget, limits={"max_at_once": 20})
        settings |= {"input": str(jobs.write([f"{name} {n}" for n in range(100)], f"{name}.parquet"))}
        spawned.append(jobs.spawn({**settings, "retry": {"timeout_s": 30}}))
    began = time.monotonic()
    for each in spawned:
        each.wait(90)
    assert time.monotonic() - began < 20


def test_hold_holds_over_runs(jobs: Jobs) -> None:
    """With `in_doubt: hold` a request whose fate is unknown is not sent again by the next run either."""
    jobs.service.configure(faults=[{"kind": "status:500", "match": "bad", "times": 1, "billed": True}])
    settings = jobs.job(["fine", "bad"], retry={"in_doubt": "hold"}, tolerate={"not_ok": 1})
    assert jobs.run(settings).column("status") == ["ok", "failed"]
    jobs.run(settings)
    assert jobs.service.stats()["billed_twice"] == []


def test_summaries_add_up_to_the_bill_after_a_redo(jobs: Jobs) -> None:
    """summary.cost_usd is what its run has paid: over all runs, redo too, summaries, ledger and bill are the same."""
    faults = [{"kind": "length", "match": "cut", "times": 1}, {"kind": "status:500", "match": "bad", "times": 1}]
    jobs.service.configure(faults=faults)
    settings = jobs.job(["cut", "bad", "fine"], tolerate={"not_ok": 1}, retry={"attempts": 1})
    first = jobs.run(settings)
    second = jobs.run(settings, "--redo", "truncated,failed")
    told = orjson.loads(jobs.run(settings, "--json", command="spend").stdout)
    assert Decimal(told["cost_usd"]) == billed_usd(jobs.service) == total(second.column("cost_usd"))
    assert Decimal(first.summary["cost_usd"]) + Decimal(second.summary["cost_usd"]) == billed_usd(jobs.service)


def test_money_in_doubt_is_summed_like_cost(jobs: Jobs) -> None:
    """in_doubt_usd of the summary is the sum of in_doubt_usd over the rows of its run_id, as cost_usd is."""
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", faults=[{"kind": "status:500", "match": "bad", "times": 1}]
    )
    settings = jobs.job(["bad", "fine"], tolerate={"not_ok": 1}, retry={"attempts": 1})
    jobs.run(settings)
    second = jobs.run(settings)
    mine = [row["in_doubt_usd"] for row in second.rows if row["run_id"] == second.summary["run_id"]]
    assert mine == [reserved_usd(second.rows[0]["estimated_prompt_tokens"])]
    assert Decimal(second.summary["in_doubt_usd"]) == total(mine)


def test_throttling_for_ever_is_no_finished_run(jobs: Jobs) -> None:
    """Endless throttling is a stop of the service (exit 1, as errors.py says), not a finished run with bad rows (5)."""
    jobs.service.configure(faults=[{"kind": "status:429", "retry_after": "0.2"}])
    done = jobs.run(jobs.job(["a", "b"], retry={"attempts": 1, "timeout_s": 1}))
    assert done.summary["state"] == "stopped"
    assert done.exit_code == 1
