"""Limits are tested in simulated time: no clock, no sleep, ten minutes in a second."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator

import pytest

from parquill.tasks.limits.limiter import RateLimiter, Stopped
from parquill.tasks.limits.meters import RateMeter, ServiceMirror, Throttle


class Time:
    """A clock that moves only during a sleep."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def _send(limit: int, sizes: Iterator[int], *, by_tokens: bool, minutes: float = 10) -> list[tuple[float, int]]:
    """Send as fast as one meter allows; return (second, units) of each request."""
    now, end = 1000.0, 1000.0 + minutes * 60
    meter = RateMeter(limit, by_tokens=by_tokens, now=now)
    sent: list[tuple[float, int]] = []
    while True:
        tokens = next(sizes)
        while (wait := meter.wait_s(now, tokens)) > 0:
            now += wait
        if now >= end:
            return sent
        meter.take(now, tokens)
        sent.append((now, tokens if by_tokens else 1))


def _busiest(sent: list[tuple[float, int]], window_s: float) -> int:
    first, total, most = 0, 0, 0
    for time, units in sent:
        total += units
        while sent[first][0] <= time - window_s:
            total -= sent[first][1]
            first += 1
        most = max(most, total)
    return most


def _ones() -> Iterator[int]:
    while True:
        yield 1


def _sizes(seed: int, largest: int) -> Iterator[int]:
    draw = random.Random(seed)
    while True:
        yield min(largest, int(draw.lognormvariate(6, 1)) + 1)


@pytest.mark.parametrize("limit", [1, 2, 7, 60, 500, 10_000])
def test_requests_never_pass_the_limit_in_any_minute(limit: int) -> None:
    """No sliding minute of the ten holds more requests than the limit, and at least 97 % of the limit is used."""
    sent = _send(limit, _ones(), by_tokens=False)
    assert _busiest(sent, 60.0) <= limit
    after_first = [s for s in sent if s[0] >= 1060.0]
    assert len(after_first) >= 0.97 * limit * 9 - 1


def _used(sent: list[tuple[float, int]]) -> int:
    return sum(units for time, units in sent if time >= 1060.0)


def _at_best(limit: int, sizes: Iterator[int]) -> list[tuple[float, int]]:
    """Send each request in order at the first moment when the window has room, without a pace."""
    now, total = 1000.0, 0
    sent: list[tuple[float, int]] = []
    window: deque[tuple[float, int]] = deque()
    while True:
        tokens = next(sizes)
        while total + tokens > limit:
            time, units = window.popleft()
            total, now = total - units, max(now, time + 60.0)
        if now >= 1600.0:
            return sent
        total += tokens
        window.append((now, tokens))
        sent.append((now, tokens))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("limit", "largest"), [(2_000_000, 20_000), (200_000, 8_000), (50_000, 5_000)])
def test_tokens_never_pass_the_limit_in_any_minute(limit: int, largest: int, seed: int) -> None:
    """Token limits hold for requests of very different sizes, up to a tenth of the limit.

    At least 97 % of the limit is used, or 98 % of what any strict order could use.
    """
    sent = _send(limit, _sizes(limit + seed, largest), by_tokens=True)
    best = _used(_at_best(limit, _sizes(limit + seed, largest)))
    assert _busiest(sent, 60.0) <= limit
    assert _used(sent) >= min(0.97 * limit * 9, 0.98 * best)


@pytest.mark.parametrize("seed", range(5))
def test_requests_of_nearly_the_limit(seed: int) -> None:
    """Requests of nearly the limit never exceed it in any minute, and most of what any strict order could use is used.

    The larger a request is, the more of a strict window must stay empty until it fits.
    """
    sent = _send(10_000, _sizes(10_000 + seed, 9_999), by_tokens=True)
    assert _busiest(sent, 60.0) <= 10_000
    assert _used(sent) >= 0.85 * _used(_at_best(10_000, _sizes(10_000 + seed, 9_999)))


def test_what_was_lost_is_caught_up_without_a_rush() -> None:
    """After a pause with nothing to send, no second holds more than the burst and 1.25 times its share."""
    meter = RateMeter(6_000, by_tokens=False, now=0.0)
    now, sent = 600.0, []
    while now < 660.0:
        if (wait := meter.wait_s(now, 1)) > 0:
            now += wait
            continue
        meter.take(now, 1)
        sent.append((now, 1))
    assert _busiest(sent, 1.0) <= 60 + 1.25 * 100 + 1


def test_no_rush_and_no_wait_at_the_start() -> None:
    """The first request leaves at once, and the first second holds little more than its share."""
    sent = _send(6_000, _ones(), by_tokens=False, minutes=1)
    assert sent[0][0] == 1000.0
    assert sum(1 for time, _ in sent if time < 1001.0) <= 105 + 60 + 1


def test_unused_tokens_come_back() -> None:
    """With `count_output: actual`, tokens that an answer did not use are free again within the same minute."""

    def send(*, actual: bool) -> int:
        time = Time()
        limits = RateLimiter(64, tokens_per_minute=60_000, actual_output=actual, clock=time.clock, sleep=time.sleep)

        async def run() -> int:
            count = 0
            while time.now < 1120.0:
                slot = await limits.acquire(1_000)
                slot.settle(100)
                slot.release()
                count += 1
            return count

        return asyncio.run(run())

    reserved, actual = send(actual=False), send(actual=True)
    assert reserved <= 121
    assert actual > 5 * reserved


def test_first_come_first_served() -> None:
    """A large request is served before the small ones that came after it."""
    time = Time()
    limits = RateLimiter(100, tokens_per_minute=6_000, clock=time.clock, sleep=time.sleep)
    order: list[int] = []

    async def ask(number: int, tokens: int) -> None:
        await limits.acquire(tokens)
        order.append(number)

    async def run() -> None:
        await asyncio.gather(*(ask(n, 5_000 if n == 3 else 10) for n in range(8)))

    asyncio.run(run())
    assert order == list(range(8))


def test_max_at_once_is_never_passed() -> None:
    """No more than max_at_once requests are under way, and each slot is used again."""
    time = Time()
    limits = RateLimiter(5, clock=time.clock, sleep=time.sleep)
    under_way, most = 0, 0

    async def ask() -> None:
        nonlocal under_way, most
        slot = await limits.acquire(1)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        slot.release()

    async def run() -> None:
        await asyncio.gather(*(ask() for _ in range(200)))

    asyncio.run(run())
    assert most == 5


def test_a_429_slows_everybody_down_once() -> None:
    """A wave of 429 answers to requests that left together slows the run down once, and the pace recovers."""
    meter = RateMeter(6_000, by_tokens=False, now=0.0)
    gate = Throttle([meter])
    for _ in range(50):
        gate.on_429(now=10.0, sent_at=9.5, pause_s=2.0)
    assert gate.wait_s(10.0, 1) == pytest.approx(2.0)
    assert meter.slowdown == pytest.approx(0.8)
    now = 12.0
    while meter.slowdown < 1.0 and now < 120.0:
        now += 1.0
        gate.wait_s(now, 1)
    assert now < 60.0


def test_a_service_that_counts_more_is_believed() -> None:
    """When the service's own bucket empties faster than ours, requests wait for it instead of being refused."""
    limit, rate = 60_000, 1_000.0
    mirror = ServiceMirror("tokens", by_tokens=True)
    level, now, refused, admitted = float(limit), 0.0, 0, 0
    for _ in range(3_000):
        while (wait := mirror.wait_s(now, 100)) > 1e-9:
            now += wait
            level = min(limit, level + wait * rate)
        mirror.take(now, 100)
        # this service charges 130 where we count 100
        if level >= 130:
            level -= 130
            admitted += 1
        else:
            refused += 1
        headers = {"x-ratelimit-limit-tokens": str(limit), "x-ratelimit-remaining-tokens": str(int(level))}
        mirror.correct(now, now, headers)
        now += 0.01
        level = min(limit, level + 0.01 * rate)
    assert refused == 0
    assert admitted * 130 >= 0.95 * (now * rate)


def test_headers_that_lie_are_ignored() -> None:
    """Absurd or missing x-ratelimit headers change nothing."""
    mirror = ServiceMirror("requests", by_tokens=False)
    for limit, left in (("-5", "1"), ("9" * 30, "1"), ("abc", "1"), ("10", ""), ("0", "0")):
        mirror.correct(1.0, 0.5, {"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": left})
    assert mirror.wait_s(1.0, 1) == 0.0


def test_a_stop_wakes_those_who_wait() -> None:
    """After a stop no request is let through, including those that already wait."""
    time = Time()
    limits = RateLimiter(1, clock=time.clock, sleep=time.sleep)

    async def run() -> list[object]:
        await limits.acquire(1)
        waiting = [asyncio.create_task(limits.acquire(1)) for _ in range(3)]
        await asyncio.sleep(0)
        limits.stop()
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(result, Stopped) for result in asyncio.run(run()))
