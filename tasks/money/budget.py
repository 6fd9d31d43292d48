"""The budget of a run: a request is admitted only against a reservation of its worst case.

At every instant `settled + in_doubt + reserved <= limit`. All methods but `reserve` are synchronous and run on one
event loop, so nothing can come between a check and its reservation.
"""

from __future__ import annotations

import asyncio


class Budget:
    """Money of one run in nano-dollars. `limit` None means no limit."""

    def __init__(self, limit: int | None, *, settled: int = 0, in_doubt: int = 0, soft_fraction: float = 0.8) -> None:
        """`settled` and `in_doubt` are what the run's journals say was spent before an interruption."""
        self.limit = limit
        self.settled = settled
        self.in_doubt = in_doubt
        self.reserved = 0
        self.overshoot = 0
        self.soft_limit = None if limit is None else int(limit * soft_fraction)
        self._changed: asyncio.Event | None = None

    @property
    def booked(self) -> int:
        """Nano-dollars that are spent or may be: settled, in doubt and reserved."""
        return self.settled + self.in_doubt + self.reserved

    @property
    def soft_limit_passed(self) -> bool:
        """Whether more than `soft_fraction` of the limit is settled or in doubt."""
        return self.soft_limit is not None and self.settled + self.in_doubt > self.soft_limit

    def fits(self, amount: int) -> bool:
        """Whether `amount` could be reserved now."""
        return self.limit is None or self.booked + amount <= self.limit

    async def reserve(self, amount: int) -> bool:
        """Reserve `amount`; waits while money reserved elsewhere may come back. False: it can never fit."""
        while not self.fits(amount):
            if self.reserved == 0:
                return False
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()
        # no await between the check above and this line
        self.reserved += amount
        return True

    def settle(self, amount: int, cost: int) -> None:
        """Turn a reservation into what the request really cost, even when that is more."""
        self.reserved -= amount
        self.settled += cost
        self.overshoot += max(0, cost - amount)
        self.wake()

    def hold(self, amount: int) -> None:
        """Keep a reservation booked: nobody knows whether the request was paid."""
        self.reserved -= amount
        self.in_doubt += amount
        self.wake()

    def release(self, amount: int) -> None:
        """Give a reservation back: the request was surely not paid."""
        self.reserved -= amount
        self.wake()

    def wake(self) -> None:
        """Let those who wait for money look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
