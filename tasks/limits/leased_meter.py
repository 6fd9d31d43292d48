"""A meter (see `meters`) that lets through what was leased from a limit that several processes share.

It has a clock of its own, which runs while the machine sleeps: a lease must not outlive a sleep that other clocks miss.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from parquill.tasks.errors import ParquillError

POLL_INTERVAL_S: Final = 0.03
GRAIN_S: Final = 0.02
_KEPT_S: Final = 10.0  # of the notes of what was used and lost


class LeasedMeter:
    """Lets through what was leased; everything while `is_unlimited`. Times are seconds of `clock`."""

    def __init__(self, *, by_tokens: bool, clock: Callable[[], float]) -> None:
        self.by_tokens, self._clock = by_tokens, clock
        self.is_unlimited = True
        self.failure: ParquillError | None = None  # why nothing more can be leased
        self._leases: deque[list[float]] = deque()  # [end, units left, number]
        self._unused: list[tuple[int, int]] = []  # (number, units) of leases that ended
        self._taken: deque[tuple[float, float]] = deque()  # (time, units), grains of GRAIN_S
        self._lost: deque[tuple[float, float]] = deque()  # (time, units) that were not used in time
        self._wanted = 0.0
        self._wanted_until = 0.0

    def wait_s(self, _now: float, tokens: int) -> float:
        """See Meter. Raises what `failure` is."""
        if self.failure is not None:
            raise self.failure
        units, now = float(tokens if self.by_tokens else 1), self._clock()
        # promise: shared limits: no request is sent without a lease
        if self.is_unlimited or self.held(now) >= units:
            return 0.0
        # a waiting request asks again within a second, whatever another meter says
        self._wanted, self._wanted_until = units, now + 1.1
        return POLL_INTERVAL_S

    def take(self, _now: float, tokens: int) -> None:
        """See Meter."""
        units, now = float(tokens if self.by_tokens else 1), self._clock()
        self._wanted = 0.0
        if self.is_unlimited:
            return
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

    def lend(self, number: int, end: float, units: int) -> None:
        """Have `units` more under a number, to be used before `end`."""
        self._leases.append([end, units, number])

    def held(self, now: float) -> float:
        """Units that may leave now."""
        # promise: shared limits: a lease cannot be used after its end
        while self._leases and (self._leases[0][0] <= now or self._leases[0][1] <= 0):
            end, left, number = self._leases.popleft()
            if left > 0:
                self._lost.append((end, left))
                self._unused.append((int(number), int(left)))
        return sum(units for _, units, _ in self._leases)

    def pop_unused(self, now: float) -> list[tuple[int, int]]:
        """(number, units) of leases that ended with units left, each told once."""
        self.held(now)
        found, self._unused = self._unused, []
        return found

    def give_up(self) -> list[tuple[int, int]]:
        """Everything that is left, to be given back: nothing more is let through."""
        left = [(int(number), int(units)) for _, units, number in self._leases if units > 0]
        self._leases.clear()
        found, self._unused = self._unused + left, []
        return found

    def used_and_lost(self, now: float, seconds: float) -> tuple[float, float]:
        """Units of the last `seconds` (up to 10) that were used, and that were leased and not used in time."""
        self.held(now)
        for noted in (self._taken, self._lost):
            while noted and noted[0][0] <= now - _KEPT_S:
                noted.popleft()
        begin = now - seconds
        used, lost = (sum(units for time, units in noted if time > begin) for noted in (self._taken, self._lost))
        return used, lost

    def waiting(self, now: float) -> float:
        """Units of the request that waits for a lease, 0 if there is none."""
        return self._wanted if now < self._wanted_until and self.held(now) < self._wanted else 0.0
