"""The budget of a run: a request is admitted only after its worst case is reserved.

At every instant `settled + in_doubt + reserved <= granted`. The granted money is leased from the ledger, which counts
every run and every process. All methods but `reserve` are synchronous and run on one event loop, so nothing can come
between a check and its reservation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

POLL_INTERVAL_S = 0.5


class Budget:
    """The money of one run in one process, in nano-dollars; `granted` is None for no limit."""

    def __init__(
        self,
        granted: int | None,
        *,
        settled: int = 0,
        in_doubt: int = 0,
        limit: int | None = None,
        more: Callable[[int], Awaitable[int]] | None = None,
        patient: Callable[[], Awaitable[bool]] | None = None,
        on_spent: Callable[[int], None] | None = None,
    ) -> None:
        """Start with what an interrupted run has already `settled` and has `in_doubt`.

        `more` requests at least an amount and returns what was granted, 0 if it does not fit. `patient` gives back
        granted money that is not in use, waits a little, and returns whether money that others hold may still come
        back. `limit` is the run's own limit, for display. `on_spent` gets what is settled and in doubt each time that
        it grows.
        """
        self.granted = granted
        # money that is leased, for example for a month's budget, is not a limit of the run
        self.limit = granted if limit is None and more is None else limit
        self.settled = settled
        self.in_doubt = in_doubt
        self.reserved = 0
        self.admitted = 0  # reservations so far
        self._more, self._patient, self._on_spent = more, patient, on_spent
        self._asking = asyncio.Lock()
        self._stopped = False
        self._failed: Exception | None = None
        self._changed: asyncio.Event | None = None

    @property
    def booked(self) -> int:
        """Nano-dollars that are spent or may be spent: settled, in doubt and reserved."""
        return self.settled + self.in_doubt + self.reserved

    @property
    def is_overdrawn(self) -> bool:
        """Whether more is booked than was granted, because a reply cost more than was reserved for it."""
        return self.granted is not None and self.booked > self.granted

    def fits(self, amount: int) -> bool:
        """Whether `amount` could be reserved now."""
        # promise: M1 the budget check counts everything that is already booked
        return self.granted is None or self.booked + amount <= self.granted

    async def reserve(self, amount: int) -> bool:
        """Reserve `amount`; waits while reserved money may still come back. False if `amount` can never fit.

        Waiting callers also get False when the budget is stopped. If `more` raises, all waiting and later callers get
        its exception.
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
        # promise: M1 no other task runs between the budget check and the reservation
        # promise: M1 every admitted request reserves its amount in the budget
        self.reserved += amount
        return True

    def _may_fit(self, amount: int) -> bool:
        if self._failed is not None:
            raise self._failed
        return self.fits(amount)

    async def _ask(self, amount: int) -> bool:
        """Ask the ledger for what is missing, one caller at a time, so that no more is leased than needed."""
        if self._more is None or self.granted is None:
            return False
        async with self._asking:
            if self._may_fit(amount):  # raises if the ledger failed for an earlier caller: no other waits for it again
                return True
            if self._stopped:
                return False
            try:
                got = await self._more(self.booked + amount - self.granted)
            except Exception as error:
                # promise: M1 no request is admitted once the ledger is lost
                self.fail(error)
                raise
            self.granted += got
            return got > 0

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def give_back_unused(self, keep: int) -> int:
        """Give up what is granted beyond what is booked and `keep`; returns that amount."""
        if self.granted is None:
            return 0
        unused = max(0, self.granted - self.booked - keep)
        # promise: M1 a holder gives back the part of its lease that it does not need
        self.granted -= unused
        return unused

    def fail(self, error: Exception) -> None:
        """Admit nothing more, because the ledger failed: `reserve` raises `error` from now on."""
        self._failed = error
        self.wake()

    def stop(self) -> None:
        """End all waiting for money; what is booked stays booked."""
        self._stopped = True
        self.wake()

    def revoke(self, amount: int) -> None:
        """Take back `amount` of what was granted, because the ledger no longer has it as leased."""
        if self.granted is not None:
            # promise: M1 a holder no longer counts on money that the ledger took back
            self.granted -= amount

    def settle(self, amount: int, cost: int) -> None:
        """Replace a reservation of `amount` with what the request really cost, even if that is more."""
        self.reserved -= amount
        # promise: M3 the budget books the true cost of a request, even above its reservation
        self.settled += cost
        self._after_spending()

    def hold(self, amount: int) -> None:
        """Keep a reservation booked as in doubt: it is unknown whether the request was paid."""
        self.reserved -= amount
        # promise: M5 a reservation in doubt stays booked in the budget
        self.in_doubt += amount
        self._after_spending()

    def release(self, amount: int) -> None:
        """Give back a reservation: the request was certainly not paid."""
        self.reserved -= amount
        self.wake()

    def _after_spending(self) -> None:
        # promise: M1 the soft limits are checked whenever money is spent
        if self._on_spent is not None:
            self._on_spent(self.settled + self.in_doubt)
        self.wake()

    def wake(self) -> None:
        """Have the callers that wait for money check again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
