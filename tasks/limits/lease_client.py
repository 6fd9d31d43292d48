"""Fetches leases of one shared limit in time, on the sender's loop, and gives back what was not used."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from parquill.tasks.errors import BadJob, LedgerFailed
from parquill.tasks.limits.leased_meter import LeasedMeter
from parquill.tasks.limits.rate_ledger import LEASE_S, RateHolder, RateLease, Terms

QUANTUM: Final = 1 / 80  # of the limit: three quarters of a second of it, so a process asks about once a second
IDLE_INTERVAL_S: Final = 0.05
RENEW_INTERVAL_S: Final = 10.0  # of a holder that leases nothing
RETRY_INTERVAL_S: Final = 1.0
LEDGER_TIMEOUT_S: Final = 60.0  # without an answer of the ledger; then the run stops
LOOK_BACK_LEASES: Final = 4  # in which it shows whether leases are used up
LogFn = Callable[[int, str], None]  # the level of `logging`, and a message
# runs a blocking call where it may block
Caller = Callable[..., Awaitable[Any]]


class RateLender(Protocol):
    """What a client asks: `RateLedger`, or a simulated one. Every method raises LedgerFailed."""

    def lease(self, holder: RateHolder, units: int, number: int, unused: Sequence[tuple[int, int]] = ()) -> RateLease:
        """See RateLedger."""

    def leave(self, holder: RateHolder, unused: Sequence[tuple[int, int]]) -> None:
        """See RateLedger."""


class LeaseClient:
    """Keeps the leases of one limit coming while its requests need them."""

    def __init__(
        self,
        holder: RateHolder,
        lender: RateLender,
        call: Caller,
        *,
        log: LogFn,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.meter = LeasedMeter(by_tokens=holder.dimension == "tokens", clock=clock)
        self._holder, self._lender, self._call, self._log = holder, lender, call, log
        self._clock, self._sleep, self._draw = clock, sleep, draw
        self._terms: Terms | None = None
        self._number = 0
        self._answered = clock()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> int | None:
        """Enter the limit and go on leasing; gives the limit a minute, None where no run sets one.

        Raises BadJob when requests of this run, or of another one, are too large for it; LedgerFailed.
        """
        terms = (await self._lease(0)).terms
        # promise: shared limits: a request larger than the limit is refused before sending
        if terms.per_minute is not None and terms.largest > terms.per_minute:
            await self._call(self._lender.leave, self._holder, [])
            who = "this job" if terms.largest == self._holder.largest else "another run"
            raise BadJob(
                f"limits.shared: a request of {who} may take {terms.largest:,} {self._holder.dimension}, more than the "
                f"{terms.per_minute:,} a minute that runs share under the name {self._holder.name!r}"
            )
        self._task = asyncio.get_running_loop().create_task(self._keep_leasing())
        return terms.per_minute

    async def end(self) -> None:
        """Lease nothing more, and give back what is left."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        with contextlib.suppress(LedgerFailed):  # then it counts for a minute
            await self._call(self._lender.leave, self._holder, self.meter.give_up())

    async def _keep_leasing(self) -> None:
        while True:
            try:
                pause_s = await self._step()
            except LedgerFailed as error:
                if self._clock() - self._answered > LEDGER_TIMEOUT_S:
                    # promise: shared limits: a run that cannot reach the ledger fails after a timeout
                    self.meter.failure = error
                    return
                pause_s = RETRY_INTERVAL_S
            await self._sleep(pause_s)

    async def _step(self) -> float:
        """Lease once if that is due; gives the seconds until the next step."""
        now = self._clock()
        units = self._units(now)
        if not units and now - self._answered < RENEW_INTERVAL_S:
            return IDLE_INTERVAL_S
        answer = await self._lease(units)
        # of holders that wait for the same room each comes first at times
        return answer.wait_s + 0.01 * self._draw() if answer.wait_s else 0.0

    async def _lease(self, units: int) -> RateLease:
        asked, number = self._clock(), self._number
        # promise: shared limits: unused units of a lease are given back
        unused = self.meter.pop_unused(asked)
        self._number += 1
        answer: RateLease = await self._call(self._lender.lease, self._holder, units, number, unused)
        self._answered = self._clock()
        if answer.terms != self._terms:
            self._terms = answer.terms
            self.meter.is_unlimited = answer.terms.per_minute is None
            self._tell(answer.terms)
        if answer.units and not self.meter.is_unlimited:
            # it was leased at some time after it was asked for
            self.meter.lend(number, asked + LEASE_S, answer.units)
        return answer

    def _units(self, now: float) -> int:
        """How much to lease, 0 for nothing now: a quantum, ahead of need.

        A process that did not use its latest leases leases for a request that waits, and hardly more than it uses: the
        others cannot have what it holds.
        """
        if self._terms is None or self._terms.per_minute is None:
            return 0
        quantum = math.ceil(self._terms.per_minute * QUANTUM)
        waiting = math.ceil(self.meter.waiting(now))
        used, lost = self.meter.used_and_lost(now, LOOK_BACK_LEASES * LEASE_S)
        if lost * 4 > used:
            return max(waiting, min(quantum, math.ceil(used * 1.25 / LOOK_BACK_LEASES))) if waiting else 0
        soon, _ = self.meter.used_and_lost(now, LEASE_S / 2)
        return max(waiting, quantum) if waiting or self.meter.held(now) < soon else 0

    def _tell(self, terms: Terms) -> None:
        own, dimension, found = self._holder.per_minute, self._holder.dimension, terms.per_minute
        if found is None:
            text = f"the job sets no {dimension}_per_minute, and no run under way does: no limit holds"
        elif own is None:
            text = f"the job sets no {dimension}_per_minute, but a run under way does: {found:,} hold for this one too"
        elif found < own:
            text = f"a run under way shares {found:,} a minute, which hold for all, and not the job's {own:,}"
        else:
            text = f"{own:,} a minute are shared by all runs that name it"
        level = logging.INFO if own is not None and own == found else logging.WARNING
        self._log(level, f"limits.shared, {dimension}: {text}")
