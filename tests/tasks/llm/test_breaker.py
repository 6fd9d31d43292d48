"""A run handles outages, refusals and unreadable replies that affect every row (simulated time, real concurrency)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, cast

import httpx
import orjson
import pytest

from parquill.tasks.limits.limiter import RateLimiter
from parquill.tasks.llm.breaker import (
    FIRST_AT_ONCE,
    MAX_FIRST_UNREADABLE,
    MAX_REFUSAL_PROBES,
    MAX_REFUSALS,
    OUTAGE_ROWS,
    Breaker,
)
from parquill.tasks.llm.channel import Channel
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.live_lane import LiveLane
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.prompt_cuts import PromptCuts
from parquill.tasks.llm.route import OneChannel
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.tier_check import TierCheck
from parquill.tasks.llm.unit import OpenShard, Step, Unit
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.model_price import ModelPrice, PriceBand
from parquill.tasks.records import Charge
from parquill.tasks.storage.journal import Journal
from parquill.tasks.storage.replay import RowState, ShardState
from tests.tasks.llm.simulated import simulate
from tests.tools.small_jobs import resolved_job

GOOD = orjson.dumps(
    {
        "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
)
DOWN = (500, orjson.dumps({"error": {"message": "The server had an error", "type": "server_error"}}))
REFUSED = (
    400,
    orjson.dumps({"error": {"message": "Unsupported value", "param": "temperature", "code": "unsupported_value"}}),
)
RESERVED = 5
# The service's reply to a row at a second of the run: a status and a body, or an exception.
Service = Callable[[int, float], "tuple[int, bytes] | Exception"]


class Records:
    """A journal in memory."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def append(self, record: Any) -> asyncio.Future[None]:
        self.records.append(record)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Night:
    """One run against a service whose reply depends on the row and the time."""

    def __init__(
        self,
        service: Service,
        *,
        rows: int,
        max_at_once: int = 64,
        latency_s: float = 0.2,
        budget_nano: int | None = None,
        before: dict[int, RowState] | None = None,
        carried: frozenset[int] = frozenset(),
        slow: Collection[int] = (),
        reading_s: float = 0.0,
        **retry: Any,
    ) -> None:
        self._service, self._rows, self._latency_s, self._carried = service, rows, latency_s, carried
        self._max_at_once, self._retry, self._slow = max_at_once, retry, slow
        self._budget_nano, self._reading_s = budget_nano, reading_s
        self.state = ShardState(rows=before or {})
        self.sent: list[tuple[float, int]] = []  # (second, row) of each request
        self.journal = Records()
        self.shard = OpenShard(cast("Journal", self.journal), self.state)
        self.seconds = 0.0
        self.lane = cast("LiveLane", None)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        row = int(orjson.loads(request.content)["messages"][0]["content"].split()[1])
        now = asyncio.get_running_loop().time() - 1000.0
        self.sent.append((now, row))
        found = self._service(row, now)
        await asyncio.sleep(50 if row in self._slow else self._latency_s)
        if isinstance(found, Exception):
            raise found
        return httpx.Response(found[0], content=found[1])

    async def _units(self) -> AsyncIterator[Unit]:
        for number in range(self._rows):
            if self._reading_s:
                await asyncio.sleep(self._reading_s)
            messages = f'[{{"role":"user","content":"row {number} of cells"}}]'
            attempts = 6 if number in self._carried else 0
            step = Step(
                self.shard, number, f"{number:x}", messages, None, 10, RESERVED, prior=Charge(attempts=attempts)
            )
            yield Unit((step,))

    async def _complete(self) -> None:
        loop = asyncio.get_running_loop()
        job = resolved_job({
            "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini",
            "max_output_tokens": 10, "endpoint": {"base_url": "http://localhost:1/v1"},
            "parameters": {"temperature": 0}, "retry": self._retry, "limits": {"max_at_once": self._max_at_once},
        })  # fmt: skip
        breaker = Breaker(self._max_at_once, patience_s=job.retry.patience_s, clock=loop.time)
        limits = RateLimiter(self._max_at_once, brake=breaker, clock=loop.time, sleep=asyncio.sleep)
        client = Client(job, None, httpx.MockTransport(self._handle))
        price = ModelPrice("a-model", (PriceBand(0, 0, 0, 0, 0),), None, "a test", "today")
        self.budget = Budget(self._budget_nano)
        settlement = Settlement(price, self.budget, Progress(), None, PromptCuts(10), TierCheck(price, 10))
        channel = Channel(job, client, limits, breaker, settlement, clock=loop.time)
        self.lane = LiveLane(job, OneChannel(channel), clock=loop.time, sleep=asyncio.sleep)
        await self.lane.complete(self._units)
        self.seconds = loop.time() - 1000.0

    def run(self) -> Night:
        simulate(self._complete())
        return self

    @property
    def statuses(self) -> Counter[str]:
        return Counter(outcome.status for outcome in self.state.outcomes.values())

    def between(self, first_s: float, last_s: float) -> int:
        """Return how many requests left in a span of seconds."""
        return sum(first_s <= second < last_s for second, _ in self.sent)


def down_between(first_s: float, last_s: float, how: tuple[int, bytes] | Exception = DOWN) -> Service:
    """Return a service that fails every request between two seconds."""
    return lambda _, now: how if first_s <= now < last_s else (200, GOOD)


REFUSED_CONNECTION = httpx.ConnectError("refused")


@pytest.mark.parametrize("how", [DOWN, REFUSED_CONNECTION], ids=["error body", "no connection"])
def test_an_outage_of_half_a_minute_costs_time_and_nothing_else(how: tuple[int, bytes] | Exception) -> None:
    """With default settings, 30 s of failures fail no row, leave no money in doubt and use up no budget."""
    night = Night(down_between(2, 32, how), rows=1_208, budget_nano=100 * RESERVED).run()
    assert night.statuses == {"ok": 1_208}
    assert night.budget.in_doubt_nano == night.budget.reserved_nano == 0
    assert night.shard.over_budget == 0
    assert night.between(4, 32) <= 10, "it probes with few requests"
    assert 32 < night.seconds < 60
    assert night.lane.warnings[0].startswith("every request to the service fails: ")
    assert "answers again" in night.lane.warnings[1]


def test_an_outage_of_ten_minutes_is_waited_out() -> None:
    """If a service is down for ten minutes, the run probes it at growing intervals and resumes by itself."""
    night = Night(down_between(1, 601), rows=2_000).run()
    assert night.statuses == {"ok": 2_000}
    assert night.between(3, 601) < 60
    assert 601 < night.seconds < 640


def test_an_outage_costs_no_row_its_only_attempt() -> None:
    """With `attempts: 1`, a row that fails in an outage is sent again afterward and has used one attempt."""
    night = Night(down_between(1, 31), rows=600, attempts=1).run()
    assert night.statuses == {"ok": 600}


def test_an_outage_whose_answers_are_lost_costs_few_reservations() -> None:
    """In an outage whose failures stay in doubt, few requests leave, so little money is in doubt."""
    lost = httpx.ReadError("lost")
    night = Night(down_between(2, 602, lost), rows=2_000, max_at_once=64).run()
    assert night.statuses == {"ok": 2_000}
    assert night.budget.in_doubt_nano <= (64 + 60) * RESERVED


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, 5))])
def test_a_service_that_fails_at_a_third_is_not_slowed_down(seed: int) -> None:
    """If a service fails some of its requests, rows use their own attempts: no row waits, and every row is answered."""
    rng = random.Random(seed)
    night = Night(lambda *_: DOWN if rng.random() < 0.3 else (200, GOOD), rows=3_000, attempts=20).run()
    assert night.statuses == {"ok": 3_000}
    assert night.lane.warnings == []


def test_an_outage_without_end_stops_the_run_after_its_patience() -> None:
    """If a service fails for longer than retry.patience_s, the run stops and can be resumed."""
    night = Night(down_between(1, 10**9), rows=2_000, patience_s=300).run()
    assert 301 < night.seconds < 330
    assert night.lane.stop_rule is not None
    assert night.lane.stop_message is not None
    assert night.lane.stop_message.startswith("every request to the service has failed for 5 minutes")
    assert set(night.statuses) == {"ok"}, "no row fails"
    assert night.budget.in_doubt_nano == 0


def test_rows_that_the_service_fails_at_end_while_others_are_answered() -> None:
    """A row that the service fails every time fails after its attempts, even if it is the last row."""
    bad = {3, 40, 598, 599}
    night = Night(lambda row, _: DOWN if row in bad else (200, GOOD), rows=600).run()
    assert {row for row, outcome in night.state.outcomes.items() if outcome.status == "failed"} == bad
    assert all(night.state.outcomes[row].attempts == 6 for row in bad)
    assert (
        night.state.outcomes[599].error_message
        == "the service failed (HTTP 500, server_error): The server had an error; attempts used up"
    )
    assert night.seconds < 120


def test_a_start_with_nothing_but_rows_that_failed_before_ends() -> None:
    """Rows that failed in an earlier run are not evidence of an outage: they use their attempts, and the run ends."""
    night = Night(lambda *_: DOWN, rows=40, carried=frozenset(range(40))).run()
    assert night.statuses == {"failed": 40}
    assert night.seconds < 120


def test_attempts_count_over_interruptions() -> None:
    """Requests of earlier starts count: a row that has used four of six attempts is sent twice more."""
    before = {0: RowState(requests=4, failures=4, last_code="server_error"), 1: RowState(requests=6, failures=6)}
    night = Night(lambda row, _: DOWN if row < 2 else (200, GOOD), rows=50, before=before).run()
    assert Counter(row for _, row in night.sent)[0] == 2
    assert Counter(row for _, row in night.sent)[1] == 0
    assert night.state.outcomes[0].attempts == night.state.outcomes[1].attempts == 6
    assert night.state.outcomes[1].error_code == "connection_lost"


def test_what_an_outage_gives_back_is_in_the_journal() -> None:
    """The journal records that the failures of an outage cost no attempt."""
    night = Night(down_between(1, 11), rows=600, attempts=2).run()
    counts = Counter(record["type"] for record in night.journal.records if isinstance(record, dict))
    assert counts["attempt"] == counts["uncharge"] >= OUTAGE_ROWS


def test_a_systematic_refusal_stops_the_run_early() -> None:
    """If the service refuses the first requests for the same reason, the run stops and names the refused parameter."""
    night = Night(lambda *_: REFUSED, rows=5_000).run()
    assert MAX_REFUSALS <= len(night.sent) <= MAX_REFUSALS + MAX_REFUSAL_PROBES + FIRST_AT_ONCE
    assert night.state.outcomes == {}, "the rows are sent again once the job is corrected"
    assert night.lane.stop_message == (
        "30 requests in a row were refused for the same reason: the service refused the request (HTTP 400, "
        "unsupported_value): parameter 'temperature': Unsupported value"
    )
    assert all(state.failures == 0 for state in night.state.rows.values())


def test_a_service_that_refuses_slowly_is_sent_no_more() -> None:
    """A refusal is a reply: before the first answer, a run sends more requests only while no reply comes."""
    night = Night(lambda *_: REFUSED, rows=5_000, latency_s=1.5).run()
    assert len(night.sent) <= MAX_REFUSALS + MAX_REFUSAL_PROBES
    assert str(night.lane.stop_message).startswith("30 requests in a row were refused for the same reason")


def test_a_small_job_that_is_refused_as_a_whole_stops_too() -> None:
    """If few rows are left and the service refuses all of them for the key or the model, the run stops."""
    night = Night(lambda *_: (404, b'{"error": {"code": "model_not_found"}}'), rows=5).run()
    assert night.lane.stop_rule is not None
    assert night.lane.stop_rule.code == "not_found"
    assert night.state.outcomes == {}


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 422, 451])
@pytest.mark.parametrize("at_once", [1, 64])
def test_one_refused_row_is_its_own(status: int, at_once: int) -> None:
    """A refusal of one row, wherever it is in the input, fails that row, and the others are completed."""
    for row in (0, 30, 60):
        night = Night(
            lambda n, _, bad=row: (status, b"<html>blocked</html>") if n == bad else (200, GOOD),  # type: ignore[misc]
            rows=61,
            max_at_once=at_once,
        ).run()
        assert night.statuses == {"ok": 60, "failed": 1}
        assert night.lane.stop_rule is None


def test_the_last_refused_row_ends_at_the_next_start() -> None:
    """A start that only sends a row refused in an earlier run gives that row its outcome and does not stop."""
    night = Night(lambda *_: (403, b"<html>"), rows=1, carried=frozenset({0})).run()
    assert night.statuses == {"failed": 1}
    assert night.lane.stop_rule is None


@pytest.mark.parametrize("first", [0, 700])
@pytest.mark.parametrize("refused", [25, 200])
def test_a_block_of_refused_rows_does_not_stop_the_run(first: int, refused: int) -> None:
    """The run probes past a block of refused rows, wherever the block is, and completes the others."""
    bad = range(first, first + refused)
    night = Night(lambda row, _: (403, b"<html>") if row in bad else (200, GOOD), rows=1_500).run()
    assert night.statuses == {"ok": 1_500 - refused, "failed": refused}


def test_a_model_that_is_retired_on_the_way_stops_the_run() -> None:
    """Refusals that begin in the middle of a run stop it, and no further row fails."""
    night = Night(lambda _, now: (410, b"") if now > 5 else (200, GOOD), rows=50_000).run()
    assert night.lane.stop_rule is not None
    assert set(night.statuses) == {"ok"}
    assert night.between(5.01, 10**9) <= 64 + MAX_REFUSALS + MAX_REFUSAL_PROBES


def test_refusals_that_differ_stop_nothing() -> None:
    """Refusals with different reasons do not stop a run."""
    night = Night(lambda row, _: ((400, 403, 422)[row % 3], b""), rows=90).run()
    assert night.statuses == {"failed": 90}


def test_replies_that_cannot_be_read_stop_the_run_before_they_are_paid_for_again() -> None:
    """If the first replies are unreadable, the run stops after a few of them and describes the reply."""
    night = Night(lambda *_: (200, b"<html>login</html>"), rows=1_000).run()
    assert len(night.sent) <= FIRST_AT_ONCE + MAX_FIRST_UNREADABLE
    assert night.lane.stop_message is not None
    assert "the reply could not be read (HTTP 200, no content type, 18 bytes)" in night.lane.stop_message


def test_a_reply_that_cannot_be_read_is_asked_for_once_more() -> None:
    """A row with an unreadable reply is sent once more, not `attempts` times, because each request may be paid for."""
    night = Night(lambda row, _: (200, b"{") if row == 5 else (200, GOOD), rows=100).run()
    assert night.state.outcomes[5].attempts == 2
    assert night.statuses == {"ok": 99, "failed": 1}


def inside(code: Any, **more: Any) -> tuple[int, bytes]:
    """Return HTTP 200 with an error inside."""
    return 200, orjson.dumps({"error": {"code": code, "message": "no provider"}, **more})


@pytest.mark.parametrize("how", [inside(502), inside("overloaded_error"), inside(503, choices=[])])
def test_an_outage_that_comes_with_200_is_an_outage(how: tuple[int, bytes]) -> None:
    """M5: a failure inside a 200 counts like its status: the run waits, no row loses an attempt, no money is used."""
    night = Night(down_between(1, 61, how), rows=600, attempts=2).run()
    assert night.statuses == {"ok": 600}
    assert night.between(3, 60) <= 20
    assert (night.budget.in_doubt_nano, night.budget.reserved_nano) == (0, 0)


def test_a_429_inside_a_200_is_waited_out() -> None:
    """A 429 inside a 200 pauses all rows for as long as the body asks and costs no row an attempt."""
    body = orjson.dumps({"error": {"code": 429, "message": "slow down", "metadata": {"retry_after_seconds": 20}}})
    night = Night(down_between(1, 2, (200, body)), rows=600, attempts=1).run()
    assert night.statuses == {"ok": 600}
    assert night.between(2.5, 20) == 0


@pytest.mark.parametrize(("code", "rule"), [(402, "quota_exhausted"), (401, "not_authorized")])
def test_a_failure_inside_a_200_that_no_request_escapes_stops_the_run(code: int, rule: str) -> None:
    """If a 200 reports that no money is left or the key is rejected, the run stops at once and can be resumed."""
    night = Night(lambda *_: inside(code), rows=1_000).run()
    assert night.lane.stop_rule is not None
    assert night.lane.stop_rule.code == rule
    assert len(night.sent) <= FIRST_AT_ONCE
    assert night.state.outcomes == {}


@pytest.mark.parametrize("body", [b'{"error": {"message": "who knows"}}', b'{"error": "busy"}'])
def test_failures_that_nobody_knows_stop_the_run_before_they_are_paid_for_again(body: bytes) -> None:
    """A failure without a known code may be paid: the run stops after a few of them and shows the service's reason."""
    night = Night(lambda *_: (200, body), rows=1_000).run()
    assert len(night.sent) <= FIRST_AT_ONCE + MAX_FIRST_UNREADABLE
    assert night.lane.stop_message is not None
    assert "replies in a row hold no answer: the reply reports a failure" in night.lane.stop_message


def test_a_slow_first_answer_holds_up_nothing_for_long() -> None:
    """Few requests leave before the first answer, and more each second, so a slow service is soon used in full."""
    night = Night(lambda *_: (200, GOOD), rows=200, latency_s=60).run()
    assert night.between(0, 0.5) == FIRST_AT_ONCE
    assert night.between(0, 6) == 64


def test_slow_rows_at_the_end_of_a_run_are_no_outage() -> None:
    """If rows time out one after another while all others are answered, they use their attempts, and the run ends."""
    slow = set(range(100, 400, 10))

    def service(row: int, _: float) -> tuple[int, bytes] | Exception:
        return httpx.ReadTimeout("slow") if row in slow else (200, GOOD)

    night = Night(service, rows=400, attempts=2, slow=slow).run()
    assert night.statuses == {"ok": 370, "failed": 30}
    assert night.lane.warnings == []


def test_an_outage_before_the_first_answer_is_probed_with_few_requests() -> None:
    """A run that starts during an outage sends few requests and resumes by itself when the service is up."""
    night = Night(down_between(0, 120), rows=1_000).run()
    assert night.statuses == {"ok": 1_000}
    assert night.between(2, 120) < 20


def test_rows_that_are_refused_here_and_there_slow_nothing_down() -> None:
    """Refused rows scattered among answered ones do not slow the run down."""
    rng = random.Random(7)
    bad = {row for row in range(3_000) if rng.random() < 0.4}
    night = Night(lambda row, _: (403, b"<html>") if row in bad else (200, GOOD), rows=3_000).run()
    assert night.statuses == {"ok": 3_000 - len(bad), "failed": len(bad)}
    assert night.seconds < 1.3 * 3_000 / 64 * 0.2


@pytest.mark.parametrize("reading_s", [0.05, 0.5])
def test_rows_that_are_still_being_read_may_bring_evidence(reading_s: float) -> None:
    """While a slow disk reads the next row, the run does not judge refusals and still probes past a block of them."""
    bad = range(25)
    night = Night(
        lambda row, _: (403, b"<html>") if row in bad else (200, GOOD), rows=80, latency_s=0.01, reading_s=reading_s
    ).run()
    assert night.statuses == {"ok": 55, "failed": 25}
    assert night.lane.stop_rule is None
