"""The batch lane as a process that is killed and stopped: no row is paid twice, and nothing that is paid is lost."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from decimal import Decimal

import pytest

from parquill.tasks.llm.connections import MAX_RAW_BYTES
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.replay import replay_shard
from tests.deployed.live_stack import LiveStack
from tests.tools.expected import check_books
from tests.tools.jobs import Jobs

LONG = int(os.environ.get("LONG_CRASH", "0"))  # `make crash` sets it: how many kills
KILLS, ROWS = (LONG, 3 * LONG) if LONG else (2, 27)
# A batch is checked, completed and written within a few looks at it.
QUICK = {"poll_advance_s": 0.3, "validating_s": 0.2, "rows_per_s": 60, "finalizing_s": 0.2, "cancelling_s": 0.2}
KINDS = ("upload", "create", "batches", "batch", "content", "delete")


def _settings(jobs: Jobs, **changes: object) -> dict[str, object]:
    texts = [f"row {number}" for number in range(ROWS)]
    # several batches of nine rows, one after another: so a kill may come in any step of any of them
    limits = {"batch_tokens": 300}
    return jobs.job(texts, model="gpt-6-luna", lane="batch", limits=limits, budget={"run_usd": 1}, **changes)


def test_a_batch_run_that_is_killed_again_and_again(jobs: Jobs) -> None:
    """M8, C1: A batch run is killed at seeded calls, before, in and after them. In the end each row is billed once."""
    jobs.service.configure(batch=QUICK)
    settings, draw = _settings(jobs), random.Random(20261130)
    moments: Counter[str] = Counter()
    for _ in range(KILLS):
        seen, wanted = len(jobs.service.calls(*KINDS)), draw.randint(1, 7)
        spawned = jobs.spawn(settings)

        process, until = spawned.process, seen + wanted
        deadline = time.monotonic() + 120
        while process.poll() is None and len(jobs.service.calls(*KINDS)) < until:
            assert time.monotonic() < deadline, spawned.read("err")
            time.sleep(0.005)  # a kill can come between two calls
        time.sleep(draw.uniform(0, 0.05))  # a random moment in the life of a call
        spawned.process.kill()
        spawned.process.wait()
        moments[jobs.service.calls(*KINDS)[-1]["call"]] += 1
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert Counter(done.column("status")) == {"ok": ROWS}
    rows = jobs.service.bills()["rows"]
    sys.stdout.write(f"\nkills {KILLS} {dict(moments)}, rows {ROWS}, billed {len(rows)}\n")
    assert set(Counter(row["content"] for row in rows).values()) == {1}
    assert len(rows) == ROWS
    check_books(done)
    assert Decimal(done.summary["cost_usd"]) == Decimal(jobs.service.bills()["lanes"]["batch"]["usd"])
    again = jobs.run(settings)
    assert (again.exit_code, len(jobs.service.bills()["rows"])) == (0, ROWS)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)], ids=str)
def test_a_signal_cancels_the_batches(jobs: Jobs, number: signal.Signals) -> None:
    """C7: A signal cancels the batches, collects what they completed within the grace period, and exits with 130.
    The next start sends the rest.
    """
    jobs.service.configure(batch={**QUICK, "rows_per_s": 10})
    settings = _settings(jobs)
    spawned = jobs.spawn(settings)
    LiveStack.wait("billed rows", lambda: len(jobs.service.bills()["rows"]) > 3, 120)
    spawned.process.send_signal(number)
    stopped = spawned.wait()
    assert stopped.exit_code == 130, stopped.stderr
    paid = len(jobs.service.bills()["rows"])
    assert paid < ROWS
    (run,) = Folders.of(str(settings["output"]), None).runs()
    assert len(replay_shard(run.journal(0)).outcomes) == paid
    jobs.service.configure(batch={**QUICK, "rows_per_s": 1_000})
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert Counter(done.column("status")) == {"ok": ROWS}
    assert set(Counter(row["content"] for row in jobs.service.bills()["rows"]).values()) == {1}
    check_books(done)


def test_result_files_that_are_larger_than_any_reply(jobs: Jobs) -> None:
    """A batch whose answers add up to 40 MB is collected: what bounds the reply of a model does not bound a file."""
    at_once = {"poll_advance_s": 600, "rows_per_s": 1_000}
    jobs.service.configure(batch={**at_once, "row_faults": [{"kind": "long_line"}], "long_line_bytes": 400_000})
    # rows that are not read are not sent again, and a file that cannot be read is not asked for much longer
    hold = {"in_doubt": "hold", "patience_s": 20}
    settings = jobs.job([f"row {row}" for row in range(100)], model="gpt-6-luna", lane="batch", retry=hold)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert sum(len(text) for text in done.column("completion")) > MAX_RAW_BYTES
    check_books(done)
