"""The live lane limits how many failed rows it holds, wakes them for a stop and ends them after their attempts."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from parquill.tasks.limits.limiter import Permit, RateLimiter
from parquill.tasks.limits.open_bytes import OpenBytes
from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.channel import Channel
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.live_lane import MIN_OPEN_UNITS, LiveLane
from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.prompt_cuts import PromptCuts
from parquill.tasks.llm.route import OneChannel
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.tier_check import TierCheck
from parquill.tasks.llm.unit import OpenShard, Step, Unit
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.model_price import ModelPrice, PriceBand
from parquill.tasks.records import Outcome
from parquill.tasks.storage.journal import Journal, OutcomeLine, outcome_lines, scan_journal
from parquill.tasks.storage.replay import RowState, ShardState, Submitted, replay_shard
from tests.tools.small_jobs import resolved_job

GOOD = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}'
RENAME = b"""{"error":{"message":"Use 'max_completion_tokens' instead of 'max_tokens'.","param":"max_tokens","code":"unsupported_parameter"}}"""
Answer = Callable[[str], tuple[int, dict[str, str]]]


class Time:
    """A clock that moves only when a coroutine sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class NoJournal:
    """A journal that writes nothing to disk."""

    def append(self, _record: Any) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


FREE = ModelPrice("a-model", (PriceBand(0, 0, 0, 0, 0),), None, "a test", "today")


class LaneHarness:
    """A live lane against a service whose reply depends on the prompt."""

    def __init__(
        self,
        answer: Answer,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        may_send: Callable[[], bool] = lambda: True,
        budget: Budget | None = None,
        lane: str = "live",
        model: str = "gpt-4o-mini",
        price: ModelPrice = FREE,
        at_once: int = 4,
        **retry: Any,
    ) -> None:
        self.time, self.sent, self.read = Time(), 0, 0
        self.refusal = b""
        self.hold: Callable[[], Awaitable[None]] | None = None  # before each reply
        self.bodies: list[str] = []
        self.state = ShardState()
        self.shard = OpenShard(cast("Journal", NoJournal()), self.state)

        async def handler(request: httpx.Request) -> httpx.Response:
            self.sent += 1
            if self.hold is not None:
                await self.hold()
            self.time.now += 0.01
            body = request.content.decode()
            self.bodies.append(body)
            status, headers = answer(body)
            return httpx.Response(status, content=GOOD if status == 200 else self.refusal, headers=headers)

        job = resolved_job({
            "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": model,
            "lane": lane, "max_output_tokens": 10, "endpoint": {"base_url": "http://localhost:1/v1"},
            "retry": retry, "limits": {"max_at_once": at_once},
        })  # fmt: skip
        breaker = Breaker(at_once, patience_s=math.inf, clock=self.time.clock)
        limits = RateLimiter(at_once, brake=breaker, clock=self.time.clock, sleep=self.time.sleep)
        client = Client(job, None, httpx.MockTransport(handler))
        settlement = Settlement(price, budget or Budget(None), Progress(), None, PromptCuts(10), TierCheck(price, 10))
        self.channel = Channel(job, client, limits, breaker, settlement, clock=self.time.clock)
        self.lane = LiveLane(
            job,
            OneChannel(self.channel),
            clock=self.time.clock,
            sleep=sleep or self.time.sleep,
            may_send=may_send,
        )

    async def units(self, count: int) -> AsyncIterator[Unit]:
        for number in range(count):
            self.read += 1
            yield Unit((self.step(number),))

    def step(self, number: int) -> Step:
        messages = f'[{{"role":"user","content":"row {number}."}}]'
        return Step(self.shard, number, f"{number:04x}", messages, None, 10, 5)

    async def complete(self, count: int) -> None:
        await self.lane.complete(lambda: self.units(count))

    async def complete_pairs(self, count: int) -> None:
        """Complete units of two steps, where the second step contains the answer of the first."""

        def render(earlier: Sequence[Outcome]) -> str:
            (first,) = earlier
            return f'[{{"role":"user","content":"row {first.row + 1}. after {first.completion}"}}]'

        async def units() -> AsyncIterator[Unit]:
            for number in range(0, 2 * count, 2):
                yield Unit((self.step(number), replace(self.step(number + 1), messages="", render=render)))

        await self.lane.complete(units)

    def codes(self) -> list[str | None]:
        return [self.state.outcomes[row].error_code for row in sorted(self.state.outcomes)]


async def _forever(_: float) -> None:
    await asyncio.Event().wait()


def test_a_stop_wakes_rows_that_wait_to_be_tried_again() -> None:
    """If the service refuses everything, the run ends at once: no row waits for a backoff or a Retry-After first."""
    harness = LaneHarness(lambda body: (401, {}) if "row 3." in body else (503, {"retry-after": "60"}), _forever)
    asyncio.run(asyncio.wait_for(harness.complete(8), 5))
    assert harness.lane.stop_rule is not None
    assert harness.lane.stop_rule.code == "not_authorized"
    assert harness.sent <= 8
    assert not harness.lane._resting


def test_rows_that_wait_to_be_tried_again_are_bounded_in_number() -> None:
    """If a service fails every request, only a limited number of rows is open, so the input is not read into memory."""
    harness = LaneHarness(lambda _: (500, {}), _forever)

    async def run() -> None:
        completing = asyncio.create_task(harness.complete(10 * MIN_OPEN_UNITS))
        before = -1
        while harness.sent > before:  # until no more requests leave
            before = harness.sent
            for _ in range(1_000):
                await asyncio.sleep(0)
        harness.lane.stop()
        await completing

    asyncio.run(run())
    assert MIN_OPEN_UNITS <= harness.read <= MIN_OPEN_UNITS + 1


def test_open_rows_are_bounded_by_their_bytes() -> None:
    """The bytes of open rows limit their number, so long prompts are not all read into memory."""
    harness = LaneHarness(lambda _: (500, {}), _forever)
    harness.lane._open_bytes = OpenBytes(1_000)

    async def run() -> None:
        completing = asyncio.create_task(harness.complete(500))
        for _ in range(2_000):
            await asyncio.sleep(0)
        assert 20 <= harness.sent <= 28  # a row holds 37 to 39 bytes
        assert harness.read <= harness.sent + 1
        harness.lane.stop()
        await asyncio.wait_for(completing, 5)

    asyncio.run(run())


def test_one_row_that_is_always_throttled_does_not_hold_up_the_others() -> None:
    """A row that gets only 429 while others are answered fails when the patience of its attempts is used up."""
    harness = LaneHarness(lambda body: (429, {}) if "row 0." in body else (200, {}), attempts=2, timeout_s=5)
    asyncio.run(harness.complete(400))
    assert harness.codes() == ["rate_limited"] + [None] * 399
    assert harness.lane.stop_rule is None


def test_endless_429_is_asked_less_and_less_often() -> None:
    """Without Retry-After the pauses grow, so a service that only answers 429 gets few requests."""
    harness = LaneHarness(lambda _: (429, {}), attempts=6, timeout_s=120, patience_s=720)
    asyncio.run(harness.complete(50))
    assert harness.lane.stop_rule is not None
    assert harness.lane.stop_rule.code == "rate_limited"
    assert 720 < harness.time.now - 1000 < 800
    assert harness.sent < 300
    assert harness.codes() == []


@pytest.mark.parametrize("wait", ["1e9", "86400", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_an_absurd_retry_after_costs_a_minute(wait: str) -> None:
    """If a service asks for an absurdly long wait, the row is sent again after a minute, and the run continues."""
    asked = []

    def answer(body: str) -> tuple[int, dict[str, str]]:
        asked.append(body)
        return (429, {"retry-after": wait}) if len(asked) == 1 else (200, {})

    harness = LaneHarness(answer)
    asyncio.run(harness.complete(5))
    assert harness.codes() == [None] * 5
    assert 60 <= harness.time.now - 1000 < 65


@pytest.mark.parametrize("attempts", [1, 3])
def test_what_is_in_memory_is_in_the_journal(tmp_path: Path, attempts: int) -> None:
    """After any mix of failures, a shard's state and the places of its outcomes are the same in memory and on disk."""
    tries: Counter[int] = Counter()

    def answer(body: str) -> tuple[int, dict[str, str]]:
        row = int(body.partition("row ")[2].partition(".")[0])
        tries[row] += 1
        # each row gets its own sequence of statuses
        return (200, 429, 500, 200, 408, 503, 400)[(row + row // 7 * tries[row]) % 7], {}

    harness = LaneHarness(answer, attempts=attempts, timeout_s=1)
    path = tmp_path / "journal"

    async def run() -> tuple[list[OutcomeLine], int]:
        with ThreadPoolExecutor(1) as threads:
            journal = Journal(path, {"run_id": "x", "shard": 0}, threads)
            harness.shard = OpenShard(journal, harness.state)
            await harness.lane.complete(lambda: harness.units(60))
            await journal.close()
            return journal.outcomes, journal.end

    outcomes, end = asyncio.run(run())
    assert len(set(harness.codes())) > 3
    assert len(outcomes) == 60
    assert replay_shard(path).totals() == harness.state.totals()
    assert replay_shard(path).outcomes == harness.state.outcomes
    scan = scan_journal(path)
    assert outcomes == list(outcome_lines(scan.entries()))
    assert end == scan.tail.end


def test_nothing_is_sent_once_the_leader_is_gone() -> None:
    """If its leader is gone, a process that joined a run sends no further request.

    This includes rows that already had a permit, and the process keeps no money for them.
    """
    harness = LaneHarness(lambda _: (200, {}), may_send=lambda: harness.sent < 7)
    asyncio.run(harness.complete(100))
    assert harness.sent == 7
    assert harness.codes() == [None] * 7
    assert harness.lane.stopping
    assert (harness.lane.budget.reserved_nano, harness.lane.budget.in_doubt_nano) == (0, 0)
    assert [row.in_doubt_requests for row in harness.state.rows.values()] == [0] * len(harness.state.rows)


def test_the_name_of_the_limit_costs_no_row_and_no_run() -> None:
    """If the service refuses all first requests for the limit's name, no row is charged and the run continues."""
    harness = LaneHarness(lambda body: (200 if '"max_completion_tokens":10' in body else 400, {}), attempts=1)
    harness.refusal = RENAME
    asyncio.run(harness.complete(100))
    assert harness.codes() == [None] * 100
    assert harness.sent <= 104
    totals = harness.state.totals()
    assert (totals.sent, totals.retried) == (harness.sent, harness.sent - 100)
    assert sum(outcome.attempts for outcome in harness.state.outcomes.values()) == harness.sent
    assert harness.lane.stop_rule is None


def test_each_request_has_its_own_permit() -> None:
    """A request with the other name counts against the limits like any other, and its row keeps its attempts."""
    harness = LaneHarness(lambda body: (200 if '"max_completion_tokens":10' in body else 400, {}), attempts=1)
    harness.refusal = RENAME
    acquire, permits = harness.channel.limits.acquire, 0

    async def counted(tokens: int, is_rerouted: Callable[[], bool] | None = None) -> Permit:
        nonlocal permits
        permits += 1
        return await acquire(tokens, is_rerouted)

    # the limiter itself does not count its permits
    harness.channel.limits.acquire = counted  # type: ignore[method-assign]
    asyncio.run(harness.complete(100))
    assert permits == harness.sent > 100
    assert {row.failures for row in harness.state.rows.values()} == {0}


def test_a_refusal_after_that_of_the_name_is_of_all_rows() -> None:
    """If a service accepts the other name but forbids the request, no row is at fault and the run stops."""

    def answer(body: str) -> tuple[int, dict[str, str]]:
        has_other = '"max_completion_tokens":10' in body
        harness.refusal = b'{"error":{"message":"not for you"}}' if has_other else RENAME
        return 403 if has_other else 400, {}

    harness = LaneHarness(answer)
    asyncio.run(harness.complete(1))
    assert harness.lane.stop_rule is TABLE["forbidden"]


def test_a_refusal_of_both_names_stops_as_any_other() -> None:
    """If a service accepts neither name, the run stops early and shows the first refusal, which names the parameter."""
    harness = LaneHarness(lambda _: (400, {}))
    harness.refusal = RENAME
    asyncio.run(harness.complete(1_000))
    assert harness.sent < 60
    assert "max_tokens" in str(harness.lane.stop_message)


def test_the_steps_of_a_unit_are_sent_in_order() -> None:
    """A unit's second step is rendered from the first step's answer, while other units' first steps are sent."""
    harness = LaneHarness(lambda _: (200, {}))
    asyncio.run(harness.complete_pairs(50))
    assert harness.codes() == [None] * 100
    steps = ["second" if "after Hi" in body else "first" for body in harness.bodies]
    assert (steps.count("first"), steps.count("second")) == (50, 50)
    assert steps.index("second") < 50  # no unit waits for the first steps of the others
    assert [outcome.key for _, outcome in sorted(harness.state.outcomes.items())] == [f"{n:04x}" for n in range(100)]


def test_a_step_is_not_sent_after_one_without_an_answer() -> None:
    """A failed step ends its unit: later steps get no outcome and no request, and other units continue."""
    harness = LaneHarness(lambda body: (400, {}) if "row 2." in body else (200, {}))
    harness.refusal = b'{"error":{"message":"no","type":"invalid_request_error","code":"context_length_exceeded"}}'
    asyncio.run(harness.complete_pairs(3))
    assert sorted(harness.state.outcomes) == [0, 1, 2, 4, 5]
    assert harness.state.outcomes[2].error_code == "too_long"
    assert harness.sent == 5


def test_a_unit_resumes_after_its_last_answer() -> None:
    """A step that has its outcome is not sent again, and the next step is rendered from it."""
    harness = LaneHarness(lambda _: (200, {}), may_send=lambda: harness.sent < 1)
    asyncio.run(harness.complete_pairs(1))
    assert list(harness.state.outcomes) == [0]
    again = LaneHarness(lambda _: (200, {}))
    again.state.outcomes.update(harness.state.outcomes)
    asyncio.run(again.complete_pairs(1))
    assert list(again.state.outcomes) == [0, 1]
    assert len(again.bodies) == 1
    assert "row 1. after Hi" in again.bodies[0]


def test_a_step_over_budget_leaves_the_rest_of_its_unit() -> None:
    """If the budget ends between two steps, each step without an outcome counts as over budget."""
    harness = LaneHarness(lambda _: (200, {}), budget=Budget(5))
    asyncio.run(harness.complete_pairs(2))
    assert sorted(harness.state.outcomes) == [0]
    assert harness.shard.over_budget == 3


def test_a_request_that_waits_at_the_service_is_not_sent() -> None:
    """The lane leaves a row that another lane has submitted to that lane and sends the other rows."""
    harness = LaneHarness(lambda _: (200, {}))
    harness.state.rows[1] = RowState(requests=1, submitted={1: Submitted("batch_1", 5)})
    asyncio.run(harness.complete(3))
    assert sorted(harness.state.outcomes) == [0, 2]
    assert harness.sent == 2


def test_a_row_that_waited_for_a_permit_checks_the_budget_again() -> None:
    """If a reply costs more than its reservation, a row that has reserved but waits for its permit is not sent."""
    harness = LaneHarness(lambda _: (200, {}), budget=Budget(100))
    budget = harness.lane.budget

    async def hold() -> None:
        # four rows have permits, and the fifth waits for one
        while budget.reserved_nano < 25 and not budget.is_overdrawn:  # noqa: ASYNC110 - turns of the loop, no time
            await asyncio.sleep(0)
        if not budget.is_overdrawn:
            budget.settle(0, 1_000)

    harness.hold = hold
    asyncio.run(asyncio.wait_for(harness.complete(8), 5))
    assert harness.sent == 4
    assert sorted(harness.state.outcomes) == [0, 1, 2, 3]
    assert (harness.shard.over_budget, budget.reserved_nano) == (4, 0)
