"""The budget of a run: a request is admitted only after its worst case is reserved.

At every instant `settled + in_doubt + submitted + reserved <= granted`. The granted money is leased from the ledger,
which counts every run and every process. All methods but `reserve` are synchronous and run on one event loop, so
nothing can come between a check and its reservation.

A lane may hand a reservation over to the service, for example in a batch: it is submitted until the reply is collected,
however long that takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

POLL_INTERVAL_S = 0.5


class Budget:
    """The money of one run in one process, in nano-dollars; `granted_nano` is None for no limit."""

    def __init__(
        self,
        granted_nano: int | None,
        *,
        settled_nano: int = 0,
        in_doubt_nano: int = 0,
        submitted_nano: int = 0,
        limit_nano: int | None = None,
        more: Callable[[int], Awaitable[int]] | None = None,
        patient: Callable[[], Awaitable[bool]] | None = None,
        on_spent: Callable[[int, int], None] | None = None,
    ) -> None:
        """Start with what an interrupted run has already settled, has in doubt, and has submitted.

        `more` requests at least an amount and returns what was granted, 0 if it does not fit. `patient` gives back
        granted money that is not in use, waits a little, and returns whether money that others hold may still come
        back. `limit_nano` is the run's own limit, for display. `on_spent` gets what is settled, in doubt and submitted
        each time that it grows, and how much of that is submitted.
        """
        self.granted_nano = granted_nano
        # money that is leased, for example for a month's budget, is not a limit of the run
        self.limit_nano = granted_nano if limit_nano is None and more is None else limit_nano
        self.settled_nano = settled_nano
        self.in_doubt_nano = in_doubt_nano
        self.submitted_nano = submitted_nano
        # what became of submitted money since the start; what a reply cost beyond its reservation is in none of them
        self.collected_settled_nano = self.collected_in_doubt_nano = self.collected_released_nano = 0
        self.reserved_nano = 0
        self.admitted = 0  # reservations so far
        self._more, self._patient, self._on_spent = more, patient, on_spent
        self._asking = asyncio.Lock()
        self._stopped = False
        self._failed: Exception | None = None
        self._changed: asyncio.Event | None = None

    @property
    def booked_nano(self) -> int:
        """Nano-dollars that are spent or may be spent: settled, in doubt, submitted and reserved."""
        # promise: M8 submitted money counts against the budget until it is collected
        return self.settled_nano + self.in_doubt_nano + self.submitted_nano + self.reserved_nano

    @property
    def is_overdrawn(self) -> bool:
        """Whether more is booked than was granted, because a reply cost more than was reserved for it."""
        return self.granted_nano is not None and self.booked_nano > self.granted_nano

    def fits(self, amount_nano: int) -> bool:
        """Whether `amount_nano` could be reserved now."""
        # promise: M1 the budget check counts everything that is already booked
        return self.granted_nano is None or self.booked_nano + amount_nano <= self.granted_nano

    async def reserve(self, amount_nano: int, *, wait: bool = True) -> bool:
        """Reserve `amount_nano`; waits while reserved money may still come back. False if `amount_nano` can never fit.

        Submitted money may take a day to come back, so it is not waited for. Without `wait` no money is waited for:
        False if `amount_nano` does not fit now, even with a new lease. Waiting callers also get False when the budget
        is stopped. If `more` raises, all waiting and later callers get its exception.
        """
        while not self._may_fit(amount_nano):
            if await self._ask(amount_nano):
                continue
            # promise: M8 a reservation without waiting returns at once if it does not fit
            if self._stopped or not wait:
                return False
            if self.reserved_nano > 0:
                await self._change()
            elif self._patient is None or (not await self._patient() and not await self._ask(amount_nano)):
                return False
        # no await between the check above and this line
        self.admitted += 1
        # promise: M1 no other task runs between the budget check and the reservation
        # promise: M1 every admitted request reserves its amount in the budget
        self.reserved_nano += amount_nano
        return True

    def _may_fit(self, amount_nano: int) -> bool:
        if self._failed is not None:
            raise self._failed
        return self.fits(amount_nano)

    async def _ask(self, amount_nano: int) -> bool:
        """Ask the ledger for what is missing, one caller at a time, so that no more is leased than needed."""
        if self._more is None or self.granted_nano is None:
            return False
        async with self._asking:
            if self._may_fit(
                amount_nano
            ):  # raises if the ledger failed for an earlier caller: no other waits for it again
                return True
            if self._stopped:
                return False
            try:
                got_nano = await self._more(self.booked_nano + amount_nano - self.granted_nano)
            except Exception as error:
                # promise: M1 no request is admitted once the ledger is lost
                self.fail(error)
                raise
            self.granted_nano += got_nano
            return got_nano > 0

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def give_back_unused(self, keep_nano: int) -> int:
        """Give up what is granted beyond what is booked and `keep_nano`; returns that amount."""
        if self.granted_nano is None:
            return 0
        unused_nano = max(0, self.granted_nano - self.booked_nano - keep_nano)
        # promise: M1 a holder gives back the part of its lease that it does not need
        self.granted_nano -= unused_nano
        return unused_nano

    def fail(self, error: Exception) -> None:
        """Admit nothing more, because the ledger failed: `reserve` raises `error` from now on."""
        self._failed = error
        self.wake()

    def stop(self) -> None:
        """End all waiting for money; what is booked stays booked."""
        self._stopped = True
        self.wake()

    def revoke(self, amount_nano: int) -> None:
        """Take back `amount_nano` of what was granted, because the ledger no longer has it as leased."""
        if self.granted_nano is not None:
            # promise: M1 a holder no longer counts on money that the ledger took back
            self.granted_nano -= amount_nano

    def submit(self, amount_nano: int) -> None:
        """Hand a reservation over to the service: it stays booked until the reply is collected.

        From then on it is settled, held or released with `submitted=True`.
        """
        self.reserved_nano -= amount_nano
        self.submitted_nano += amount_nano
        # promise: M8 a request that is submitted wakes those that wait for its money
        self._after_spending()

    def settle(self, amount_nano: int, cost_nano: int, *, submitted: bool = False) -> None:
        """Replace a reservation of `amount_nano` with what the request really cost, even if that is more."""
        self._take(amount_nano, submitted=submitted)
        if submitted:
            kept_nano = min(amount_nano, cost_nano)
            self.collected_settled_nano += kept_nano
            self._return(amount_nano - kept_nano)
        # promise: M3 the budget books the true cost of a request, even above its reservation
        self.settled_nano += cost_nano
        self._after_spending()

    def hold(self, amount_nano: int, *, submitted: bool = False) -> None:
        """Keep a reservation booked as in doubt: it is unknown whether the request was paid."""
        self._take(amount_nano, submitted=submitted)
        if submitted:
            self.collected_in_doubt_nano += amount_nano
        # promise: M5 a reservation in doubt stays booked in the budget
        self.in_doubt_nano += amount_nano
        self._after_spending()

    def release(self, amount_nano: int, *, submitted: bool = False) -> None:
        """Give back a reservation: the request was certainly not paid."""
        self._take(amount_nano, submitted=submitted)
        if submitted:
            self._return(amount_nano)
        self.wake()

    def _take(self, amount_nano: int, *, submitted: bool) -> None:
        if submitted:
            self.submitted_nano -= amount_nano
        else:
            self.reserved_nano -= amount_nano

    def _return(self, amount_nano: int) -> None:
        """Note that submitted money is free again; if money is leased, it is the ledger's, and can be leased again.

        The ledger has it in the month in which it was submitted, perhaps an earlier one, and for another holder.
        """
        self.collected_released_nano += amount_nano
        if self._more is not None and self.granted_nano is not None:
            # promise: M8 submitted money that is free again must be leased again
            self.granted_nano -= amount_nano

    def _after_spending(self) -> None:
        # promise: M1 the soft limits are checked whenever money is spent
        if self._on_spent is not None:
            # promise: M8 the soft limits count submitted money
            self._on_spent(self.settled_nano + self.in_doubt_nano + self.submitted_nano, self.submitted_nano)
        self.wake()

    def wake(self) -> None:
        """Have the callers that wait for money check again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
