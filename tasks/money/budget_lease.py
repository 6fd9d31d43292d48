"""The money of a run on the sender's event loop: a budget in memory, leased from the ledger and reported to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from datetime import UTC, datetime

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential
from tenacity.stop import stop_when_event_set

from parquill.tasks.errors import LedgerFailed, RunTakenOver
from parquill.tasks.job.settings import BudgetSettings
from parquill.tasks.money.amounts import usd_to_nano
from parquill.tasks.money.budget import POLL_INTERVAL_S, Budget
from parquill.tasks.money.ledger import Ledger, RunEntry
from parquill.tasks.money.ledger_accounts import LeaseReport, Spending
from parquill.tasks.money.soft_limit import SoftLimits
from parquill.tasks.records import Totals

REPORT_INTERVAL_S = 1.0
LEDGER_TIMEOUT_S = 60.0  # how long a database may be unavailable: a restart, a failover
SLICES = 50  # a slice is the limit / SLICES: few transactions, and little idle money at the end
# With a small budget a slice would hold only a few requests, and a transaction for each would keep them from being sent
# at once: a slice holds REQUESTS_A_SLICE requests then, but at most the limit / MAX_PART.
REQUESTS_A_SLICE, MAX_PART = 32, 8


class LeaseAccount:
    """Leases money for one run. Its methods block for a transaction: call them from a thread that may wait.

    Calls run one at a time, whatever thread they come from, so an older state never reaches the ledger after a newer
    one.
    """

    def __init__(
        self,
        ledger: Ledger,
        run_id: str,
        *,
        run_limit_nano: int | None,
        month_limit_nano: int | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Limits are in nano-dollars; None is no limit."""
        self._ledger, self._run_id, self._now, self._sleep = ledger, run_id, now, sleep
        self._run_limit_nano, self._month_limit_nano = run_limit_nano, month_limit_nano
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._guard, self._closing = threading.Lock(), threading.Event()
        self._granted_nano = self._returned_nano = 0
        self._spent = Spending()
        self._is_new = True
        limits = [limit_nano for limit_nano in (run_limit_nano, month_limit_nano) if limit_nano is not None]
        self.slice_nano = min(limits) // SLICES if limits else 0
        self._largest_nano = min(limits) // MAX_PART if limits else 0
        self.limited = bool(limits)

    def _held(self) -> LeaseReport:
        left_nano = self._granted_nano - self._returned_nano - sum(self._spent.of_leases)
        return LeaseReport(self._spent, left_nano if self.limited else 0, self._is_new)

    def lease(self, amount_nano: int) -> int:
        """Lease a slice of at least `amount_nano` nano-dollars; returns how much was leased.

        Returns 0 if `amount_nano` does not fit or the account is closed. Returns a negative amount if a person has
        resolved what was leased, and nothing fits in its place. Waits for a database that is unavailable for a while.
        Raises LedgerFailed.
        """
        with self._guard:
            if self._closing.is_set():
                return 0
            got_nano: int = self._patient(LEDGER_TIMEOUT_S, until_closing=True)(self._lease, amount_nano)
            self._granted_nano += got_nano
            self._is_new = False
            return got_nano

    def _lease(self, amount_nano: int) -> int:
        return self._ledger.lease(
            self._run_id,
            self._holder,
            self._held(),
            want_nano=max(amount_nano, self.slice_nano, min(REQUESTS_A_SLICE * amount_nano, self._largest_nano)),
            least_nano=amount_nano,
            run_limit_nano=self._run_limit_nano,
            month_limit_nano=self._month_limit_nano,
            now=self._now(),
        )

    def others_lease(self) -> bool:
        """Whether another process holds leased money that may come back. Raises LedgerFailed."""
        month = None if self._month_limit_nano is None else f"{self._now().astimezone(UTC):%Y-%m}"
        held = self._patient(LEDGER_TIMEOUT_S, until_closing=True)(
            self._ledger.leased_by_others, self._run_id, self._holder, month, self._now()
        )
        return held > 0

    def report(self, spent: Spending, returned_nano: int = 0) -> int:
        """Report what this process has spent, and has given back of its leases, each in total.

        Returns how much of its lease the process no longer has, usually 0; see `Ledger.report`. Raises LedgerFailed.
        """
        with self._guard:
            return 0 if self._closing.is_set() else self._report(spent, returned_nano)

    def _report(self, spent: Spending, returned_nano: int) -> int:
        # A slower thread may bring older figures: each is a total that only grows, so the larger one is newer. What is
        # submitted at the moment goes up and down, so a report has what was submitted and what was collected instead.
        # promise: M1 an older report never replaces a newer one
        self._spent = Spending(*map(max, self._spent, spent))
        self._returned_nano = max(self._returned_nano, returned_nano)
        lost_nano = self._ledger.report(self._run_id, self._holder, self._held(), self._now())
        self._granted_nano -= lost_nano
        self._is_new = False
        return lost_nano

    def close(self, spent: Spending, patience_s: float = LEDGER_TIMEOUT_S) -> None:
        """Report the last figures and give back the rest of the lease; what is submitted stays. Raises LedgerFailed."""
        self._closing.set()
        with self._guard:
            rest = max(self._returned_nano, self._granted_nano - sum(spent.of_leases))
            self._patient(patience_s)(self._report, spent, rest)

    def _patient(self, patience_s: float, *, until_closing: bool = False) -> Retrying:
        """Return a retrier that calls the ledger again while its database is unavailable."""
        stop = stop_after_delay(patience_s)
        return Retrying(
            sleep=self._sleep,
            stop=stop | stop_when_event_set(self._closing) if until_closing else stop,
            wait=wait_exponential(0.1, max=2.0),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )


def _may_pass(error: BaseException) -> bool:
    # promise: M1 a run waits for a ledger database that is briefly unavailable
    return isinstance(error, LedgerFailed) and not isinstance(error, RunTakenOver)


class BudgetLease:
    """Opens a run's account with the figures of its journals, and keeps the ledger up to date."""

    def __init__(
        self,
        entry: RunEntry,
        before: Totals,
        budget: BudgetSettings,
        executor: Executor,
        ledger: Ledger | None = None,
        *,
        patience_s: float,
        is_first: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`before` is what the run's journals say. Raises ParquillError if the ledger cannot be opened.

        `is_first` is False for a process that joins an open run: the leases of the other processes stay as they are.
        """
        run_limit_nano = None if budget.run_usd is None else usd_to_nano(budget.run_usd)
        month_limit_nano = None if budget.monthly_usd is None else usd_to_nano(budget.monthly_usd)
        self._executor = executor
        self._ledger = ledger or Ledger()
        found = before.settled_nano, before.in_doubt_nano, before.submitted_nano
        # promise: M1 a process that joins a run takes no lease away from the others
        if is_first:
            # promise: M5 a resumed run starts with the amounts that a person resolved
            self._before = self._ledger.open_run(entry, *found, datetime.now(UTC))
        else:
            self._before = self._ledger.spent(entry.run_id, *found)
        self._account = LeaseAccount(
            self._ledger, entry.run_id, run_limit_nano=run_limit_nano, month_limit_nano=month_limit_nano
        )
        self._patience_s = patience_s
        others = self._ledger.month_without(entry.run_id, datetime.now(UTC))
        self.soft_limits = SoftLimits(budget, before_nano=sum(self._before), others_nano=sum(others.books))
        self.budget = Budget(
            sum(self._before) if self._account.limited else None,
            settled_nano=self._before.settled_nano,
            in_doubt_nano=self._before.in_doubt_nano,
            submitted_nano=self._before.submitted_nano,
            limit_nano=run_limit_nano,
            more=self._more,
            patient=self._patient,
            on_spent=self.soft_limits.check,
        )
        self._reporter: asyncio.Task[None] | None = None
        self._returned_nano = 0
        self._released_nano = 0  # of submitted money, as last reported
        self._admitted = 0  # when it was last looked at
        self._sleep = sleep

    async def _more(self, amount_nano: int) -> int:
        if self._released_nano != self.budget.collected_released_nano:
            with contextlib.suppress(LedgerFailed):  # the next call waits for a ledger that is unavailable
                # promise: M8 submitted money that is free again can be leased at once
                await self._report(keep_nano=None)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._account.lease, amount_nano)

    async def _patient(self) -> bool:
        """Wait a little for money that other processes hold; False if they hold none or patience is used up.

        A waiting run cannot use what it has leased, so it first gives that back: of two runs that wait for each other
        one gets all of it, or both see that there is nothing to wait for.
        """
        loop = asyncio.get_running_loop()
        if self._patience_s <= 0:
            return False
        with contextlib.suppress(LedgerFailed):  # the next call waits for a ledger that is unavailable
            # promise: M1 a run that waits for money gives its idle lease back
            await self._report(keep_nano=0)
        if not await loop.run_in_executor(self._executor, self._account.others_lease):
            return False
        self._patience_s -= POLL_INTERVAL_S
        await self._sleep(POLL_INTERVAL_S)
        return True

    def begin(self) -> None:
        """Start to report periodically, on the running loop."""
        self._reporter = asyncio.get_running_loop().create_task(self._report_on())

    async def _report_on(self) -> None:
        while True:
            await self._sleep(REPORT_INTERVAL_S)
            # a run that has admitted nothing since the last report may be at its end, and others may wait for its lease
            is_idle, self._admitted = self._admitted == self.budget.admitted, self.budget.admitted
            try:
                # promise: M1 a run with nothing left to admit gives its lease back
                await self._report(keep_nano=0 if is_idle else self._account.slice_nano)
            except RunTakenOver:
                return
            except LedgerFailed:
                # an unavailable ledger delays the report; the lease stays booked there meanwhile
                continue

    async def _report(self, keep_nano: int | None) -> None:
        """Report what was spent, and give back what is leased beyond `keep_nano`, None for nothing.

        Raises LedgerFailed.
        """
        if keep_nano is not None:
            self._returned_nano += self.budget.give_back_unused(keep_nano)
        figures = spent, _ = self._spent(), self._returned_nano
        try:
            lost_nano = await asyncio.get_running_loop().run_in_executor(self._executor, self._account.report, *figures)
        except RunTakenOver as error:
            self.budget.fail(error)
            raise
        self._released_nano = spent.collected_released_nano
        self.budget.revoke(lost_nano)

    @property
    def spent_here(self) -> tuple[int, int]:
        """What this process has settled and has in doubt since it joined the run, in nano-dollars."""
        budget, before = self.budget, self._before
        return budget.settled_nano - before.settled_nano, budget.in_doubt_nano - before.in_doubt_nano

    def _spent(self) -> Spending:
        budget, before = self.budget, self._before
        collected = budget.collected_settled_nano, budget.collected_in_doubt_nano, budget.collected_released_nano
        return Spending(
            budget.settled_nano - before.settled_nano,
            budget.in_doubt_nano - before.in_doubt_nano,
            budget.submitted_nano - before.submitted_nano + sum(collected),
            *collected,
        )

    async def close(self, patience_s: float = LEDGER_TIMEOUT_S) -> None:
        """Report the last figures and give back what was not spent; waits up to `patience_s` seconds for the ledger.

        Raises LedgerFailed if that is not possible; the next start of the run reports them from its journals.
        """
        if self._reporter is not None:
            self._reporter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reporter
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, self._account.close, self._spent(), patience_s)
        except RunTakenOver:
            raise
        except LedgerFailed as error:
            raise LedgerFailed(f"{error}; it lacks the run's last figures: run again to report them") from None
        finally:
            self._ledger.close()
