"""The flex lane: half the price, patient with missing capacity, and within the budget if the service ignores it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from parquill.tasks.money.amounts import nano_to_usd
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.prices import find_price
from tests.tasks.llm.test_live_lane import LaneHarness
from tests.tools.direct import job_of, results, run_steps, summary_of
from tests.tools.small_jobs import DAY, make_test_job

MODEL = "gpt-6-luna"
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
NO_CAPACITY = {"error": {"message": "Resource unavailable", "type": "server_error", "code": "resource_unavailable"}}
Reply = Callable[[Mapping[str, Any]], tuple[int, dict[str, Any]]]


def _answer(**more: Any) -> tuple[int, dict[str, Any]]:
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    return 200, {"choices": [choice], "usage": USAGE, **more}


class Flex(httpx.AsyncBaseTransport):
    """A service whose replies depend on the request."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.bodies: list[dict[str, Any]] = []

    def open(self) -> Flex:
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(await request.aread())
        self.bodies.append(body)
        status, document = self._reply(body)
        return httpx.Response(status, content=orjson.dumps(document), request=request)


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def _job(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {"model": MODEL, "lane": "flex", "max_output_tokens": 20, **changes}
    return job_of(folder, [f"text {number}" for number in range(12)], "http://127.0.0.1:9/v1", **given)


def test_flex_is_asked_for_and_booked(tmp_path: Path) -> None:
    """Requests name the flex tier, and rows, summary and estimate have its price: half of the standard one."""
    settings, service = _job(tmp_path), Flex(lambda body: _answer(service_tier=body.get("service_tier")))
    run_steps(settings, transport=service.open)
    assert {body.get("service_tier") for body in service.bodies} == {"flex"}
    found, rows = summary_of(settings), results(settings)
    assert {row["lane"] for row in rows} == {"flex"}
    one = (20 * Decimal("0.05") + 10 * Decimal("0.25")) / 1_000_000
    assert {row["cost_usd"] for row in rows} == {one}
    assert found["lanes"] == {"flex": {"rows": 12, "cost_usd": f"{12 * one:.9f}"}}
    assert (found["usage_flags"], found["over_reserved_usd"]) == ({}, "0.000000000")
    live = _job(tmp_path / "live", lane="live", state=f"{settings['output']}/.parquill")
    again = Flex(lambda _: _answer())
    run_steps(live, transport=again.open)
    assert again.bodies == []  # the lane is not part of a request's key
    assert {row["lane"] for row in results(live)} == {"flex"}


@pytest.mark.parametrize("tier", [None, "default", "priority"])
def test_a_service_that_ignores_the_tier_stays_within_the_budget(tmp_path: Path, tier: str | None) -> None:
    """M1, M3: After one reply at a more expensive tier, requests reserve its price, and the budget is not exceeded.
    The rows show what was bought.
    """
    price = find_price(MODEL, None, DAY)
    settings = _job(tmp_path, limits={"max_at_once": 1}, budget={"run_usd": "0.000032", "when_short": "partial"})
    service = Flex(lambda _: _answer(service_tier=tier, usage={**USAGE, "completion_tokens": 20, "total_tokens": 40}))
    run_steps(settings, transport=service.open)
    answered = [row for row in results(settings) if row["status"] == "ok"]
    assert {row["lane"] for row in answered} == {"live"}
    spent = sum(row["cost_usd"] for row in answered)
    one = nano_to_usd(price.worst_nano(20, 20, tier or "")) - nano_to_usd(price.worst_nano(20, 0, tier or ""))
    assert one < spent <= Decimal("0.000032")
    assert len(answered) == len(service.bodies) < 12


def test_a_request_that_waited_reserves_the_higher_price() -> None:
    """M1: A request that reserved the flex price, and waited while a reply named another tier, reserves again."""
    price, budget = find_price(MODEL, None, DAY).at_tier("flex"), Budget(3_000)
    harness = LaneHarness(lambda _: (200, {}), lane="flex", model=MODEL, price=price, at_once=1, budget=budget)

    async def until_the_next_one_waits() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        assert budget.reserved_nano == 2 * 5  # each step of the harness reserves 5

    harness.hold = until_the_next_one_waits
    asyncio.run(harness.complete(2))
    assert harness.sent == 1  # at the standard price the second one may cost 5,000


def test_missing_capacity_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If flex has no capacity for a while, every row is answered afterwards, and no attempt is used up."""
    monkeypatch.setattr("parquill.tasks.llm.retry.FIRST_WAIT_S", 0.001)
    count = 0

    def reply(body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        nonlocal count
        count += 1
        return (429, NO_CAPACITY) if count % 3 else _answer(service_tier=body.get("service_tier"))

    settings = _job(tmp_path, retry={"attempts": 1})
    run_steps(settings, transport=Flex(reply).open)
    assert [row["status"] for row in results(settings)] == ["ok"] * 12


def test_flex_waits_for_capacity_for_hours() -> None:
    """If flex has no capacity, the run waits for six hours with few requests; then it stops and says what to do."""
    job = make_test_job(model=MODEL, lane="flex")
    assert (job.retry.timeout_s, job.retry.patience_s) == (900, 21_600)
    assert make_test_job(model=MODEL, lane="flex", retry={"timeout_s": 30}).retry.timeout_s == 30
    harness = LaneHarness(lambda _: (429, {}), lane="flex", model=MODEL)
    harness.refusal = orjson.dumps(NO_CAPACITY)
    asyncio.run(harness.complete(50))
    assert harness.lane.stop_message is not None
    assert harness.lane.stop_message.endswith(
        "(HTTP 429, resource_unavailable): Resource unavailable; flex has no capacity: run again later, or set `lane: live`, which costs more"
    )
    assert 21_600 < harness.time.now - 1_000 < 21_800
    assert harness.sent < 2_000
    assert harness.codes() == []  # no row has failed
    assert harness.lane.budget.booked_nano == 0
