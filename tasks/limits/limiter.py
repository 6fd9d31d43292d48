"""How fast requests may leave: a list of meters with one interface (see `meters`).

The sender uses only `permit = await limits.acquire(tokens)` and `permit.release()`. Requests are served in the order in
which they come: one request at a time waits until every meter has room for it, so a large one is never starved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from parquill.tasks.limits.meters import Brake, Meter, NoBrake, RateMeter, ServiceMirror, Throttle


class Stopped(Exception):
    """The run has stopped: no further request may be sent."""


class Permit:
    """The right to have one request under way; `sent_at` is when it was granted."""

    __slots__ = ("_limits", "sent_at", "tokens")

    def __init__(self, limits: RateLimiter, tokens: int, sent_at: float) -> None:
        self._limits = limits
        self.tokens = tokens
        self.sent_at = sent_at

    def release(self) -> None:
        """Free the place for the next request."""
        self._limits.return_permit()

    def settle(self, tokens: int | None) -> None:
        """Report how many tokens the request really used (`count_output: actual`)."""
        if tokens is not None and tokens < self.tokens:
            self._limits.give_back(self.tokens - tokens)


class RateLimiter:
    """All limits of one run; lives on one event loop."""

    def __init__(
        self,
        max_at_once: int,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        actual_output: bool = False,
        leased: Sequence[Meter] = (),
        brake: Brake | None = None,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        now = clock()
        self._clock, self._sleep = clock, sleep
        self._free = max_at_once
        self._freed: asyncio.Future[None] | None = None
        self._stopped = False
        self._turnstile = asyncio.Lock()
        self._actual = actual_output
        rates = []
        if requests_per_minute:
            rates.append(RateMeter(requests_per_minute, by_tokens=False, now=now, is_shared=bool(leased)))
        if tokens_per_minute:
            rates.append(RateMeter(tokens_per_minute, by_tokens=True, now=now, is_shared=bool(leased)))
        self._token_meters = [meter for meter in rates if meter.by_tokens]
        self._mirrors = [ServiceMirror("requests", by_tokens=False), ServiceMirror("tokens", by_tokens=True)]
        self.gate = Throttle(rates)
        self._brake: Brake = brake or NoBrake()
        self.meters: list[Meter] = [self._brake, self.gate, *rates, *leased, *self._mirrors]

    async def acquire(self, tokens: int) -> Permit:
        """Wait for a place and for room in every meter. Raises Stopped."""
        self._brake.arrive()
        try:
            return await self._acquire(tokens)
        finally:
            self._brake.depart()

    async def _acquire(self, tokens: int) -> Permit:
        async with self._turnstile:
            while not self._stopped:
                now = self._clock()
                if self._free <= 0 or self._brake.is_full(now):
                    await self._change()
                    continue
                wait = 0.0
                for meter in self.meters:
                    wait = max(wait, meter.wait_s(now, tokens))
                if wait <= 0:
                    break
                await self._sleep(min(wait, 1.0))  # at most a second, to notice a stop
            if self._stopped:
                raise Stopped
            for meter in self.meters:
                meter.take(now, tokens)
            self._free -= 1
            return Permit(self, tokens, now)

    async def _change(self) -> None:
        """Wait until a request has ended, or for one interval if time alone can make room."""
        self._freed = asyncio.get_running_loop().create_future()
        interval_s = self._brake.growth_interval_s
        if self._free <= 0 or interval_s is None:
            await self._freed
            return
        moment = asyncio.ensure_future(self._sleep(interval_s))
        try:
            await asyncio.wait({self._freed, moment}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            moment.cancel()

    def return_permit(self) -> None:
        """Free the place of a request that has ended."""
        self._free += 1
        self._brake.leave()
        if self._freed is not None and not self._freed.done():
            self._freed.set_result(None)

    def give_back(self, tokens: int) -> None:
        """Give back tokens that were reserved but not used, if the service counts actual output."""
        if self._actual:
            for meter in self._token_meters:
                meter.give_back(tokens)

    def learn(self, sent_at: float, headers: Mapping[str, str]) -> None:
        """Correct the meters by the headers of a reply."""
        if "x-ratelimit-limit-requests" in headers or "x-ratelimit-limit-tokens" in headers:
            now = self._clock()
            for mirror in self._mirrors:
                mirror.correct(now, sent_at, headers)

    def stop(self) -> None:
        """Let no further request through; waiting ones raise Stopped."""
        self._stopped = True
        if self._freed is not None and not self._freed.done():
            self._freed.set_result(None)
