"""The budget of a run: a request is admitted only against a reservation of its worst case.

At every instant `settled + in_doubt + reserved <= granted`, and what is granted is leased from the ledger, where every
run and every process is counted. All methods but `reserve` are synchronous and run on one event loop, so nothing can
come between a check and its reservation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

POLL_INTERVAL_S = 0.5


class Budget:
    """Money of one run in nano-dollars, as one process holds it. `granted` None means no limit."""

    def __init__(
        self,
        granted: int | None,
        *,
        settled: int = 0,
        in_doubt: int = 0,
        limit: int | None = None,
        more: Callable[[int], Awaitable[int]] | None = None,
        patient: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """Begin with what an interrupted run has spent already.

        `more` asks for at least an amount and gives what was granted, 0 if it does not fit. `patient` gives back what
        is granted and not in use, waits a little, and says whether money that others hold may still come back.
        `limit` is the run's own, to be shown.
        """
        self.granted = granted
        # what is leased from a ledger, for a month say, is no limit of the run
        self.limit = granted if limit is None and more is None else limit
        self.settled = settled
        self.in_doubt = in_doubt
        self.reserved = 0
        self.overshoot = 0
        self.admitted = 0  # reservations so far
        self._more, self._patient = more, patient
        self._asking = asyncio.Lock()
        self._stopped = False
        self._failed: Exception | None = None
        self._changed: asyncio.Event | None = None

    @property
    def booked(self) -> int:
        """Nano-dollars that are spent or may be: settled, in doubt and reserved."""
        return self.settled + self.in_doubt + self.reserved

    @property
    def is_overdrawn(self) -> bool:
        """Whether more is booked than was granted, since a reply cost more than was reserved for it."""
        return self.granted is not None and self.booked > self.granted

    def fits(self, amount: int) -> bool:
        """Whether `amount` could be reserved now."""
        return self.granted is None or self.booked + amount <= self.granted

    async def reserve(self, amount: int) -> bool:
        """Reserve `amount`; waits while money reserved elsewhere may come back. False: it can never fit.

        False, too, for who waits when the budget is stopped. Raises what `more` raised, to all that wait and come.
        """
        while not self._may_fit(amount):
            if await self._ask(amount):
                continue
            if self._stopped:
                return False
            if self.reserved > 0:
                await self._change()
            elif self._patient is None or (not await self._patient() and not await self._ask(amount)):
                return False
        # no await between the check above and this line
        self.admitted += 1
        self.reserved += amount
        return True

    def _may_fit(self, amount: int) -> bool:
        if self._failed is not None:
            raise self._failed
        return self.fits(amount)

    async def _ask(self, amount: int) -> bool:
        """Ask the ledger for what is missing; one at a time, so that no more is leased than is needed."""
        if self._more is None or self.granted is None:
            return False
        async with self._asking:
            if self._may_fit(amount):  # one who has waited for the ledger in vain has waited for all
                return True
            if self._stopped:
                return False
            try:
                got = await self._more(self.booked + amount - self.granted)
            except Exception as error:
                self.fail(error)
                raise
            self.granted += got
            return got > 0

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def give_back_unused(self, keep: int) -> int:
        """Give up what is granted beyond what is booked and `keep`; gives how much that is."""
        if self.granted is None:
            return 0
        unused = max(0, self.granted - self.booked - keep)
        self.granted -= unused
        return unused

    def fail(self, error: Exception) -> None:
        """Admit nothing more: the ledger is lost."""
        self._failed = error
        self.wake()

    def stop(self) -> None:
        """Let nobody wait any more; what is booked stays."""
        self._stopped = True
        self.wake()

    def revoke(self, amount: int) -> None:
        """Count no more on `amount` of what was granted: the ledger does not know of it."""
        if self.granted is not None:
            self.granted -= amount

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
