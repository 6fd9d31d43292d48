"""What the sender does with rows that fail, in simulated time: bounded in number, woken by a stop, given up at last."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.limits.limiter import Permit, RateLimiter
from parquill.tasks.limits.open_bytes import OpenBytes
from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.sender import MIN_OPEN_ROWS, Sender
from parquill.tasks.llm.settlement import OpenShard, SendRow
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.prices import ModelPrice, PriceBand
from parquill.tasks.storage.journal import Journal
from parquill.tasks.storage.replay import ShardState, replay_shard

GOOD = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}'
RENAME = b"""{"error":{"message":"Use 'max_completion_tokens' instead of 'max_tokens'.","param":"max_tokens","code":"unsupported_parameter"}}"""
Answer = Callable[[str], tuple[int, dict[str, str]]]


class Time:
    """A clock that moves only when somebody sleeps."""

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
    """A disk that is not asked."""

    def append(self, _record: Any) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Bench:
    """A sender over a service that is a function of the prompt."""

    def __init__(
        self,
        answer: Answer,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        may_send: Callable[[], bool] = lambda: True,
        **retry: Any,
    ) -> None:
        self.time, self.sent, self.read = Time(), 0, 0
        self.refusal = b""
        self.state = ShardState()
        self.shard = OpenShard(cast("Journal", NoJournal()), self.state)

        async def handler(request: httpx.Request) -> httpx.Response:
            self.sent += 1
            self.time.now += 0.01
            status, headers = answer(request.content.decode())
            return httpx.Response(status, content=GOOD if status == 200 else self.refusal, headers=headers)

        job = make_job({
            "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini",
            "max_output_tokens": 10, "endpoint": {"base_url": "http://localhost:1/v1"},
            "retry": retry, "limits": {"max_at_once": 4},
        })  # fmt: skip
        breaker = Breaker(4, patience_s=math.inf, clock=self.time.clock)
        limits = RateLimiter(4, brake=breaker, clock=self.time.clock, sleep=self.time.sleep)
        client = Client(job, None, httpx.MockTransport(handler))
        price = ModelPrice("a-model", (PriceBand(0, 0, 0, 0, 0),), None, "a test", "today")
        self.sender = Sender(
            job,
            price,
            client,
            limits,
            breaker,
            Budget(None),
            clock=self.time.clock,
            sleep=sleep or self.time.sleep,
            may_send=may_send,
        )

    async def _rows(self, count: int) -> AsyncIterator[SendRow]:
        for number in range(count):
            self.read += 1
            yield SendRow(
                self.shard, number, f"{number:x}", f'[{{"role":"user","content":"row {number}."}}]', None, 10, 5
            )

    async def complete(self, count: int) -> None:
        await self.sender.complete(self._rows(count))

    def codes(self) -> list[str | None]:
        return [self.state.outcomes[row].error_code for row in sorted(self.state.outcomes)]


async def _for_ever(_: float) -> None:
    await asyncio.Event().wait()


def test_a_stop_wakes_rows_that_wait_to_be_tried_again() -> None:
    """When the service refuses everything, the run ends at once: nobody sleeps out a backoff or a Retry-After first."""
    bench = Bench(lambda body: (401, {}) if "row 3." in body else (503, {"retry-after": "60"}), _for_ever)
    asyncio.run(asyncio.wait_for(bench.complete(8), 5))
    assert bench.sender.stop_rule is not None
    assert bench.sender.stop_rule.code == "not_authorized"
    assert bench.sent <= 8
    assert not bench.sender._resting


def test_rows_that_wait_to_be_tried_again_are_bounded_in_number() -> None:
    """A service that fails at everything meets a bounded number of rows: the input is not drawn into memory."""
    bench = Bench(lambda _: (500, {}), _for_ever)

    async def run() -> None:
        completing = asyncio.create_task(bench.complete(10 * MIN_OPEN_ROWS))
        before = -1
        while bench.sent > before:  # until it stands still
            before = bench.sent
            for _ in range(1_000):
                await asyncio.sleep(0)
        bench.sender.stop()
        await completing

    asyncio.run(run())
    assert MIN_OPEN_ROWS <= bench.read <= MIN_OPEN_ROWS + 1


def test_open_rows_are_bounded_by_their_bytes() -> None:
    """Rows of long prompts are open in a bounded number, by what they hold: the input is not drawn into memory."""
    bench = Bench(lambda _: (500, {}), _for_ever)
    bench.sender._open_bytes = OpenBytes(1_000)

    async def run() -> None:
        completing = asyncio.create_task(bench.complete(500))
        for _ in range(2_000):
            await asyncio.sleep(0)
        assert 20 <= bench.sent <= 28  # a row holds 37 to 39 bytes
        assert bench.read <= bench.sent + 1
        bench.sender.stop()
        await asyncio.wait_for(completing, 5)

    asyncio.run(run())


def test_one_row_that_is_always_throttled_does_not_hold_up_the_others() -> None:
    """A row that hears only 429 while others get through fails when the patience of its attempts is used up."""
    bench = Bench(lambda body: (429, {}) if "row 0." in body else (200, {}), attempts=2, timeout_s=5)
    asyncio.run(bench.complete(400))
    assert bench.codes() == ["rate_limited"] + [None] * 399
    assert bench.sender.stop_rule is None


def test_endless_429_is_asked_less_and_less_often() -> None:
    """Without Retry-After the pauses grow, so that a service which answers nothing but 429 is not hammered."""
    bench = Bench(lambda _: (429, {}), attempts=6, timeout_s=120, patience_s=720)
    asyncio.run(bench.complete(50))
    assert bench.sender.stop_rule is not None
    assert bench.sender.stop_rule.code == "rate_limited"
    assert 720 < bench.time.now - 1000 < 800
    assert bench.sent < 300
    assert bench.codes() == []


@pytest.mark.parametrize("told", ["1e9", "86400", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_an_absurd_retry_after_costs_a_minute(told: str) -> None:
    """A service that asks once for a year of patience is asked again after a minute, and the run goes on."""
    asked = []

    def answer(body: str) -> tuple[int, dict[str, str]]:
        asked.append(body)
        return (429, {"retry-after": told}) if len(asked) == 1 else (200, {})

    bench = Bench(answer)
    asyncio.run(bench.complete(5))
    assert bench.codes() == [None] * 5
    assert 60 <= bench.time.now - 1000 < 65


def test_a_real_journal_takes_what_the_sender_writes(tmp_path: Path) -> None:
    """The records of failed, repeated and throttled requests are such as the journal takes."""
    throttled: list[str] = []

    def answer(body: str) -> tuple[int, dict[str, str]]:
        if "row 1." not in body:
            return 500, {}
        throttled.append(body)
        return (429 if len(throttled) == 1 else 200), {}

    bench = Bench(answer, attempts=1, timeout_s=1)

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            journal = Journal(tmp_path / "journal", {"run_id": "x", "shard": 0}, threads)
            bench.shard = OpenShard(journal, bench.state)
            await bench.sender.complete(bench._rows(3))
            await journal.close()

    asyncio.run(run())
    assert bench.codes() == ["bad_gateway", None, "bad_gateway"]
    assert replay_shard(tmp_path / "journal").outcomes.keys() == {0, 1, 2}


def test_nothing_is_sent_once_the_leader_is_gone() -> None:
    """A process that joined a run sends not one request more when its leader is gone, also of rows that it had let
    through, and keeps no money for them.
    """
    bench = Bench(lambda _: (200, {}), may_send=lambda: bench.sent < 7)
    asyncio.run(bench.complete(100))
    assert bench.sent == 7
    assert bench.codes() == [None] * 7
    assert bench.sender.stopping
    assert (bench.sender.budget.reserved, bench.sender.budget.in_doubt) == (0, 0)
    assert [row.in_doubt_requests for row in bench.state.rows.values()] == [0] * len(bench.state.rows)


def test_the_name_of_the_limit_costs_no_row_and_no_run() -> None:
    """When every request of the start is refused for the limit's name, no row is charged and the run goes on."""
    bench = Bench(lambda body: (200 if '"max_completion_tokens":10' in body else 400, {}), attempts=1)
    bench.refusal = RENAME
    asyncio.run(bench.complete(100))
    assert bench.codes() == [None] * 100
    assert bench.sent <= 104
    totals = bench.state.totals()
    assert (totals.sent, totals.retried) == (bench.sent, bench.sent - 100)
    assert sum(outcome.attempts for outcome in bench.state.outcomes.values()) == bench.sent
    assert bench.sender.stop_rule is None


def test_each_request_has_its_own_permit() -> None:
    """The request with the other name counts against the limits like any other, and its row keeps its attempts."""
    bench = Bench(lambda body: (200 if '"max_completion_tokens":10' in body else 400, {}), attempts=1)
    bench.refusal = RENAME
    acquire, permits = bench.sender.limits.acquire, 0

    async def counted(tokens: int) -> Permit:
        nonlocal permits
        permits += 1
        return await acquire(tokens)

    bench.sender.limits.acquire = counted  # type: ignore[method-assign]
    asyncio.run(bench.complete(100))
    assert permits == bench.sent > 100
    assert {row.failures for row in bench.state.rows.values()} == {0}


def test_a_refusal_after_that_of_the_name_is_of_all_rows() -> None:
    """If a service that took the other name does not allow the request, no row is to blame: the run stops."""

    def answer(body: str) -> tuple[int, dict[str, str]]:
        has_other = '"max_completion_tokens":10' in body
        bench.refusal = b'{"error":{"message":"not for you"}}' if has_other else RENAME
        return 403 if has_other else 400, {}

    bench = Bench(answer)
    asyncio.run(bench.complete(1))
    assert bench.sender.stop_rule is TABLE["forbidden"]


def test_a_refusal_of_both_names_stops_as_any_other() -> None:
    """A service that takes neither name stops the run early, with its first refusal, which names the parameter."""
    bench = Bench(lambda _: (400, {}))
    bench.refusal = RENAME
    asyncio.run(bench.complete(1_000))
    assert bench.sent < 60
    assert "max_tokens" in str(bench.sender.stop_message)
