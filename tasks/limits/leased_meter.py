"""A meter (see `meters`) that lets through what was leased from a limit that several processes share."""

from __future__ import annotations

from collections import deque

from parquill.tasks.limits.meters import BURST_FRACTION, GUARD_S, MIN_WAIT_S

POLL_S = 0.03
GRAIN_S = 0.02


class LeasedMeter:
    """A meter (see `meters.Meter`) that lets through what was leased. It is `free` before the first bucket is met."""

    def __init__(self, *, by_tokens: bool) -> None:
        self.by_tokens = by_tokens
        self.free = True
        self.pace: Pace | None = None  # while the lender is away
        self._leases: deque[list[float]] = deque()  # [end, units]
        self._taken: deque[tuple[float, float]] = deque()  # (time, units) of the last moments, grains of GRAIN_S
        self._lost: deque[tuple[float, float]] = deque()  # (time, units) that ran out in the last moments
        self._horizon = 1.0
        self._wanted = 0.0
        self._wanted_until = 0.0

    def wait_s(self, now: float, tokens: int) -> float:
        """See Meter."""
        units = float(tokens if self.by_tokens else 1)
        if self.free:
            return 0.0
        if self.pace is not None:
            return self.pace.wait_s(now, units)
        if self.held(now) >= units:
            return 0.0
        # who waits asks again within a second, whatever another meter says
        self._wanted, self._wanted_until = units, now + 1.1
        return POLL_S

    def take(self, now: float, tokens: int) -> None:
        """See Meter."""
        units = float(tokens if self.by_tokens else 1)
        self._wanted = 0.0
        if self.pace is not None:
            self.pace.take(now, units)
        if self.free or self.pace is not None:
            return  # nobody leases now, so nobody would forget what was noted
        if self._taken and now - self._taken[-1][0] < GRAIN_S:
            self._taken[-1] = (self._taken[-1][0], self._taken[-1][1] + units)
        else:
            self._taken.append((now, units))
        for lease in self._leases:
            part = min(units, lease[1])
            lease[1] -= part
            units -= part
            if units <= 0:
                break

    def lend(self, end: float, units: float) -> None:
        """Have `units` more, to be used before `end`."""
        self._leases.append([end, units])

    def held(self, now: float) -> float:
        """Units that may leave now; what has not left in time is lost."""
        while self._leases and (self._leases[0][0] <= now or self._leases[0][1] <= 0):
            end, left = self._leases.popleft()
            if left > 0:
                self._lost.append((end, left))
        return sum(units for _, units in self._leases)

    def fate(self, now: float, seconds: float) -> tuple[float, float]:
        """Units of the last `seconds` that were used, and that were leased and ran out unused."""
        self.held(now)
        self._horizon = max(self._horizon, seconds)
        for noted in (self._taken, self._lost):
            while noted and noted[0][0] <= now - self._horizon:
                noted.popleft()
        begin = now - seconds
        used, lost = (sum(units for time, units in noted if time > begin) for noted in (self._taken, self._lost))
        return used, lost

    def waiting(self, now: float) -> float:
        """Units of the request that waits for a lease, 0 if there is none."""
        return self._wanted if now < self._wanted_until and self.held(now) < self._wanted else 0.0


class Pace:
    """So many units a minute, evenly, from now on, and no more than `most` in any minute.

    A request larger than the burst saves up for itself; one larger than `most` has a minute for itself.
    """

    def __init__(self, per_minute: float, most: float, now: float, window_s: float) -> None:
        self.per_minute, self._rate = per_minute, per_minute / window_s
        self._most, self._window_s = most, window_s + GUARD_S
        self._burst = max(1.0, per_minute * BURST_FRACTION)
        self._level, self._updated = 0.0, now
        self._sent: deque[tuple[float, float]] = deque()  # (time, units) of a window
        self._total = 0.0

    def wait_s(self, now: float, units: float) -> float:
        """Seconds until so many units may leave."""
        self._refresh(now, max(self._burst, units))
        wait = max((units - self._level) / self._rate, self._window_wait(now, units))
        return wait if wait > MIN_WAIT_S else 0.0

    def take(self, now: float, units: float) -> None:
        """Count units that leave now."""
        self._refresh(now, max(self._burst, units))
        self._level -= units
        self._sent.append((now, units))
        self._total += units

    def _refresh(self, now: float, highest: float) -> None:
        self._level = min(highest, self._level + (now - self._updated) * self._rate)
        self._updated = now
        while self._sent and self._sent[0][0] + self._window_s <= now:
            self._total -= self._sent.popleft()[1]

    def _window_wait(self, now: float, units: float) -> float:
        over, wait = self._total + units - self._most, 0.0
        for time, sent in self._sent:
            if over <= MIN_WAIT_S:
                break
            over -= sent
            wait = time + self._window_s - now
        return wait
