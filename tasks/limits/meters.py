"""The meters of rate limits: each says how long a request must wait, and counts the requests that leave.

A `RateMeter` combines two rules. A window remembers what was taken in the last minute and never lets more than the
limit through in *any* minute. A pace lets requests through evenly, with a burst of one hundredth of the limit. So there
is no rush at the start (a token bucket of a minute's size lets twice the limit through in its first minute), and no
wait either. A request larger than the burst saves up for itself while it waits for the window, and the time that such
waits cost is caught up at a slightly faster pace. A `ServiceMirror` corrects both by the service's x-ratelimit headers.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

WINDOW_S = 60.0
# Requests reach the service a little later or sooner than they left: a minute here is this much longer.
GUARD_S = 0.25
BURST_FRACTION = 0.01
# The pace is a little faster than the limit, since the window enforces the limit. The emptier the window, the faster
# the pace, up to MAX_PACE: time lost to large requests, or to nothing to send, is caught up without a rush.
PACE = 1.05
MAX_PACE = 1.25
MIN_WAIT_S = 1e-6
_GRAIN_S = 0.05


class Meter(Protocol):
    """One limit. `requests` is 1, `tokens` the input and the reserved output; times are seconds of one clock."""

    def wait_s(self, now: float, tokens: int) -> float:
        """Seconds until there is room, 0 if there is room now."""

    def take(self, now: float, tokens: int) -> None:
        """Count a request that leaves now."""


class Brake(Meter, Protocol):
    """A meter that follows each request to its end, and can hold all requests back."""

    def leave(self) -> None:
        """A request that was let through has ended."""

    def is_full(self, now: float) -> bool:
        """Whether no further request may leave until one that is under way has ended."""

    @property
    def growth_interval_s(self) -> float | None:
        """Seconds after which `is_full` may change without the end of a request; None if it cannot."""


class NoBrake:
    """Holds nothing back: for limits without a service behind them."""

    growth_interval_s = None

    def wait_s(self, now: float, tokens: int) -> float:  # noqa: ARG002 - a meter like the others
        """See Meter."""
        return 0.0

    def take(self, now: float, tokens: int) -> None:
        """See Meter."""

    def leave(self) -> None:
        """See Brake."""

    def is_full(self, now: float) -> bool:  # noqa: ARG002 - a brake like the others
        """See Brake."""
        return False


class RateMeter:
    """Allows at most `limit` units in any minute, evenly spread; a unit is a request, or a token if `by_tokens`."""

    def __init__(self, limit: int, *, by_tokens: bool, now: float, is_shared: bool = False) -> None:
        self.limit = limit
        # a process that shares a limit gets only a part of it: the unused rest belongs to others and is not lost time
        self._is_shared = is_shared
        self.by_tokens = by_tokens
        self.slowdown = 1.0
        self._burst = max(1.0, limit * BURST_FRACTION)
        self._level = self._burst
        self._most = self._burst  # how high the level may rise
        self._began = self._updated = now
        self._taken: deque[list[float]] = deque()  # [time, units], grains of 50 ms
        self._total = 0.0

    @classmethod
    def restored(
        cls, limit: int, *, level: float, began: float, updated: float, taken: Iterable[tuple[float, float]]
    ) -> RateMeter:
        """Return a meter of tokens as it was at `updated`; `taken` has the last minute's (time, units) in order."""
        meter = cls(limit, by_tokens=True, now=began)
        meter._level, meter._most, meter._updated = level, max(level, meter._burst), updated
        meter._taken = deque([time, units] for time, units in taken)
        meter._total = sum(units for _, units in meter._taken)
        return meter

    @property
    def level(self) -> float:
        """Units that the pace allows now; below 0 after a request larger than the burst."""
        return self._level

    def wait_s(self, now: float, tokens: int) -> float:
        """See Meter."""
        units = float(tokens if self.by_tokens else 1)
        self._refresh(now)
        # a request larger than the burst leaves once the burst is full, and pays off its debt afterwards; while the
        # window holds the request back, it pays off the debt in advance
        self._most = self._burst if self._is_shared else max(units, self._burst)
        pace = (min(units, self._burst) - self._level) / self._rate(now)
        wait = max(pace, self._window_wait(now, units))
        # a wait shorter than the resolution of the clock would never end
        return wait if wait > MIN_WAIT_S else 0.0

    def has_room_beside(self, now: float, waiting: float, units: float) -> bool:
        """Whether `units` may leave now without delaying `waiting` units that came first and wait for the window.

        A large request may wait for most of a minute; small ones can use the rest of the limit in the meantime.
        """
        self._refresh(now)
        wait = self._window_wait(now, waiting)
        if wait <= 0:
            return False
        left = sum(taken for time, taken in self._taken if time + WINDOW_S + GUARD_S > now + wait)
        late = (min(waiting, self._burst) - self._level + units) / self._rate(now)
        # promise: shared limits: small requests use the room that a waiting large one leaves
        # promise: shared limits: small requests do not delay a large one that waits
        return left + waiting + units <= self.limit and late <= wait

    def _rate(self, now: float) -> float:
        """Units per second; faster while the window holds less than the limit allows for the time so far."""
        due = min(1.0, (now - self._began) / WINDOW_S)
        missing = max(0.0, due - self._total / self.limit)
        return self.limit / WINDOW_S * (PACE if self._is_shared else min(MAX_PACE, PACE + missing)) * self.slowdown

    def _window_wait(self, now: float, units: float) -> float:
        over = self._total + units - self.limit
        if over <= 0:
            return 0.0
        for time, taken in self._taken:
            over -= taken
            if over <= 1e-9:
                return time + WINDOW_S + GUARD_S - now
        return WINDOW_S

    def _refresh(self, now: float) -> None:
        gained = max(0.0, now - self._updated) * self._rate(now)
        self._level = min(self._most, self._level + gained)
        self._updated = now
        while self._taken and self._taken[0][0] + WINDOW_S + GUARD_S <= now:
            self._total -= self._taken.popleft()[1]

    def take(self, now: float, tokens: int) -> None:
        """See Meter."""
        units = float(tokens if self.by_tokens else 1)
        self._refresh(now)
        self._level = min(self._level - units, self._burst)
        self._most = self._burst
        self._total += units
        if self._taken and now - self._taken[-1][0] < _GRAIN_S:
            self._taken[-1][1] += units
            return
        # the time of a grain is its end, so that nothing is forgotten early
        self._taken.append([now + _GRAIN_S, units])

    def give_back(self, tokens: int) -> None:
        """Count fewer tokens than were taken: the answer was shorter than its reservation."""
        units = min(float(tokens), self._total)
        self._total -= units
        self._level = min(self._burst, self._level + units)
        for grain in reversed(self._taken):
            part = min(units, grain[1])
            grain[1] -= part
            units -= part
            if units <= 0:
                break


class ServiceMirror:
    """The service's own bucket, by its x-ratelimit headers: it may count more than we do, or serve other clients too.

    A reply reports the level at the arrival of its request; what left since then is subtracted, what flows in is added.
    """

    def __init__(self, kind: str, *, by_tokens: bool) -> None:
        """`kind` is `requests` or `tokens`, as in the headers' names."""
        self._limit_name, self._left_name = f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}"
        self.by_tokens = by_tokens
        self.limit: float | None = None
        self._level = 0.0
        self._updated = 0.0
        self._sent: deque[tuple[float, float]] = deque(maxlen=8192)

    def wait_s(self, now: float, tokens: int) -> float:
        """See Meter."""
        if self.limit is None:
            return 0.0
        self._refresh(now)
        units = float(tokens if self.by_tokens else 1)
        # the last hundredth is reserved for requests that are on their way
        need = min(units + self.limit * BURST_FRACTION, self.limit)
        wait = (need - self._level) / (self.limit / WINDOW_S)
        return wait if wait > MIN_WAIT_S else 0.0

    def _refresh(self, now: float) -> None:
        if self.limit is not None:
            gained = max(0.0, now - self._updated) * self.limit / WINDOW_S
            self._level = min(self.limit, self._level + gained)
        self._updated = now

    def take(self, now: float, tokens: int) -> None:
        """See Meter."""
        units = float(tokens if self.by_tokens else 1)
        self._refresh(now)
        self._level -= units
        self._sent.append((now, units))

    def correct(self, now: float, sent_at: float, headers: Mapping[str, str]) -> None:
        """Correct the level by the headers of a reply whose request left at `sent_at`."""
        limit, left = _number(headers.get(self._limit_name)), _number(headers.get(self._left_name))
        if limit is None or left is None or not 0 < limit < 1e12:
            return
        if self.limit is None:
            self._level = limit
        self.limit = limit
        self._refresh(now)
        since = 0.0
        for time, units in reversed(self._sent):
            if time <= sent_at:
                break
            since += units
        level = min(limit, left + (now - sent_at) * limit / WINDOW_S) - since
        self._level = min(self._level, max(level, -limit))


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\d{1,15}", text) else None


class Throttle:
    """Slows all requests down once for each wave of 429s, then recovers step by step."""

    def __init__(self, meters: list[RateMeter]) -> None:
        self._meters = meters
        self._until = 0.0
        self._slowed_at = -1.0
        self._first_since_success: float | None = None
        self.waves = 0  # slow-downs since the service last accepted a request
        self._factor = 1.0
        self._eased_at = 0.0

    def wait_s(self, now: float, tokens: int) -> float:  # noqa: ARG002 - a meter like the others
        """See Meter."""
        if self._factor < 1.0 and now - max(self._eased_at, self._until) > 5.0:
            self._factor = min(1.0, self._factor * 1.25)
            self._eased_at = now
            self._apply()
        return max(0.0, self._until - now)

    def take(self, now: float, tokens: int) -> None:
        """See Meter."""

    def on_429(self, now: float, sent_at: float, pause_s: float) -> None:
        """A request that left at `sent_at` was answered 429: no request leaves for `pause_s`."""
        if self._first_since_success is None:
            self._first_since_success = now
        self._until = max(self._until, now + pause_s)
        if sent_at < self._slowed_at:
            return  # it left before the last slow-down, so it is of the same wave
        self._slowed_at = now
        self.waves += 1
        self._factor = max(0.1, self._factor * 0.8)
        self._eased_at = now
        self._apply()

    def on_success(self) -> None:
        """The service accepted a request."""
        self._first_since_success = None
        self.waves = 0

    def throttled_s(self, now: float) -> float:
        """Seconds for which the service has answered nothing but 429."""
        return 0.0 if self._first_since_success is None else now - self._first_since_success

    def _apply(self) -> None:
        for meter in self._meters:
            meter.slowdown = self._factor
