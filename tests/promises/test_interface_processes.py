"""`kill -9` of a process on each way to buy completions that has no test of its own for it."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from functools import partial

import pytest

from tests.deployed.live_stack import LiveStack
from tests.tools.expected import check_books
from tests.tools.interfaces import KINDS
from tests.tools.jobs import Jobs

ROWS, AT_ONCE, KILLS = 120, 4, 3
QUICK = {"poll_advance_s": 0.3, "validating_s": 0.2, "rows_per_s": 60, "finalizing_s": 0.2}


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["responses", "completions", "flex", "azure", "azure batch", "compatible"])
def test_kill_nine_on_each_interface(jobs: Jobs, name: str) -> None:
    """C1, M4, M5: After several kills each row is answered. Only rows that were under way at a kill are paid twice."""
    kind = KINDS[name]
    prices = {model: {"input": 0.1, "cached": 0.1, "cache_write": 0.1, "output": 0.5} for model in ("*", "gpt-6-luna")}
    options = {**kind.options, "latency_ms": 30, "admin": {"prices": prices}}
    is_batch = kind.job.get("lane") == "batch"
    if is_batch:
        options = {**options, "clock_start": None, "batch": {**options["batch"], **QUICK}}
    jobs.service.configure(**options)
    url = jobs.service.url.removesuffix("/v1") + kind.path
    endpoint = {**kind.endpoint, "base_url": url, "api_key_env": "KEY"}
    job = {"model": "gpt-6-luna", "max_output_tokens": 40, "limits": {"max_at_once": AT_ONCE}, **kind.job}
    settings = jobs.job([f"text {number}" for number in range(ROWS)], endpoint=endpoint, budget={"run_usd": 1}, **job)

    def billed() -> int:
        return len(jobs.service.bills()["rows"]) if is_batch else int(jobs.service.stats()["billed_requests"])

    def has_more_than(count: int) -> bool:
        return billed() > count

    paid = 0
    for _ in range(KILLS):
        spawned = jobs.spawn(settings, environment={"KEY": "sk-of-the-test-000"})
        LiveStack.wait("answers", partial(has_more_than, paid + 15), 120)
        spawned.process.kill()
        spawned.wait()
        paid = billed()
    done = jobs.spawn(settings, environment={"KEY": "sk-of-the-test-000"}).wait()
    assert done.exit_code == 0, done.stderr
    assert Counter(done.column("status")) == {"ok": ROWS}
    check_books(done)
    cost, usd = (
        Decimal(done.summary["cost_usd"]),
        sum(Decimal(lane["usd"]) for lane in jobs.service.bills()["lanes"].values()),
    )
    assert cost <= usd <= cost + Decimal(done.summary["in_doubt_usd"])
    assert ROWS <= billed() <= ROWS + (0 if is_batch else KILLS * AT_ONCE)
