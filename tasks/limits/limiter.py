"""How fast requests may leave: a list of meters with one interface (see `meters`).

The sender uses only `permit = await limits.acquire(tokens)` and `permit.release()`. Requests are served in the order in
which they come: one request at a time waits until every meter has room for it, so a large one is never starved.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence

from parquill.tasks.limits.meters import MIN_WAIT_S, Brake, Meter, NoBrake, RateMeter, ServiceMirror, Throttle

MAX_PAUSE_S = 1.0  # between two looks for a stop, or for another way to send a request


class Stopped(Exception):
    """The run has stopped: no further request may be sent."""


class Rerouted(Exception):
    """The request that waits for its permit is to be sent in another way."""


class Places:
    """The requests that may be under way at once. Several limiters of one loop may share them."""

    def __init__(self, most: int) -> None:
        self.free = most
        self._waiting: list[asyncio.Future[None]] = []

    def give_back(self) -> None:
        """Free the place of a request that has ended."""
        self.free += 1
        self.wake()

    def wake(self) -> None:
        """Have those that wait for a place look again."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    def change(self) -> asyncio.Future[None]:
        """Return a future that is done at the next change."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting = [*(other for other in self._waiting if not other.done()), waiting]
        return waiting


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
        places: Places | None = None,
    ) -> None:
        """`places` are those that this limiter shares with others, instead of `max_at_once` of its own."""
        now = clock()
        self._clock, self._sleep = clock, sleep
        self._places = places or Places(max_at_once)
        self._actual = actual_output
        rates = []
        if requests_per_minute:
            rates.append(RateMeter(requests_per_minute, by_tokens=False, now=now, is_shared=bool(leased)))
        if tokens_per_minute:
            rates.append(RateMeter(tokens_per_minute, by_tokens=True, now=now, is_shared=bool(leased)))
        self._token_meters = [meter for meter in rates if meter.by_tokens]
        self._mirrors = [ServiceMirror("requests", by_tokens=False), ServiceMirror("tokens", by_tokens=True)]
        self._shared: list[Meter] = [*rates, *leased, *self._mirrors]
        self._begin(Throttle(rates), brake or NoBrake())

    def beside(self, brake: Brake) -> RateLimiter:
        """Return a limiter for other requests to the same service.

        It shares the places and the rates. It has its own brake, and its own pauses after a 429.
        """
        other = copy.copy(self)
        # promise: lanes: missing capacity in the cheap lane does not slow the live lane
        other._begin(Throttle([]), brake)  # noqa: SLF001 - of its own kind
        return other

    def _begin(self, gate: Throttle, brake: Brake) -> None:
        """Set what each limiter has for itself."""
        self._stopped = False
        self._turnstile = asyncio.Lock()
        self.head_wait_s = 0.0  # of the request that is the next to leave; 0 if it waits only for a place
        self.gate, self._brake = gate, brake
        self.meters: list[Meter] = [brake, gate, *self._shared]

    @property
    def announced(self) -> tuple[int | None, int | None]:
        """The requests and the tokens per minute that the service's headers name; None if they name none."""
        requests, tokens = (None if mirror.limit is None else int(mirror.limit) for mirror in self._mirrors)
        return requests, tokens

    async def acquire(self, tokens: int, is_rerouted: Callable[[], bool] | None = None) -> Permit:
        """Wait for a place and for room in every meter. Raises Stopped; Rerouted once `is_rerouted` says so."""
        async with self._turnstile:
            while not self._stopped:
                # promise: lanes: a row that waits for its turn leaves for a faster lane
                if is_rerouted is not None and is_rerouted():
                    self.head_wait_s = 0.0
                    raise Rerouted
                now = self._clock()
                if self._places.free <= 0 or self._brake.is_full(now):
                    self.head_wait_s = 0.0 if self._places.free <= 0 else MIN_WAIT_S
                    await self._change(is_rerouted)
                    continue
                wait = 0.0
                for meter in self.meters:
                    wait = max(wait, meter.wait_s(now, tokens))
                self.head_wait_s = wait
                if wait <= 0:
                    break
                await self._sleep(min(wait, MAX_PAUSE_S))
            if self._stopped:
                raise Stopped
            for meter in self.meters:
                meter.take(now, tokens)
            self._places.free -= 1
            return Permit(self, tokens, now)

    def wait_s(self, tokens: int) -> float:
        """Return the seconds until a request of so many tokens may leave, if no other one comes first.

        Waiting for a place does not count.
        """
        if (
            self._turnstile.locked()
        ):  # another one is the next; looking at the meters would change what they save for it
            return self.head_wait_s
        now = self._clock()
        wait = max(meter.wait_s(now, tokens) for meter in self.meters)
        return max(wait, MIN_WAIT_S) if self._brake.is_full(now) else wait

    def wake(self) -> None:
        """Have the request that waits for a place look whether it is rerouted."""
        self._places.wake()

    async def _change(self, is_rerouted: Callable[[], bool] | None) -> None:
        """Wait until a request has ended, or for one interval if time alone can make room or change the way."""
        change = self._places.change()
        interval_s = None if self._places.free <= 0 else self._brake.growth_interval_s
        if is_rerouted is not None:
            interval_s = min(interval_s or MAX_PAUSE_S, MAX_PAUSE_S)
        if interval_s is None:
            await change
            return
        moment = asyncio.ensure_future(self._sleep(interval_s))
        try:
            await asyncio.wait({change, moment}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            moment.cancel()
            change.cancel()

    def return_permit(self) -> None:
        """Free the place of a request that has ended."""
        self._brake.leave()
        self._places.give_back()

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
        self._places.wake()
