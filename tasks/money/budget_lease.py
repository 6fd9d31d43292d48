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
from parquill.tasks.money.ledger_accounts import LeaseReport
from parquill.tasks.money.soft_limit import SoftLimits
from parquill.tasks.records import Totals

REPORT_INTERVAL_S = 1.0
LEDGER_TIMEOUT_S = 60.0  # how long a database may be away: a restart, a failover
SLICES = 50  # a slice is this part of the limit: few enough transactions, and little idle money at the end
# where a slice would hold a few requests only, as with a small budget: a transaction for each of them would keep the
# requests from being sent at once
REQUESTS_A_SLICE, MAX_PART = 32, 8


class LeaseAccount:
    """Leases money for one run. Its methods block for a transaction: call them from a thread that may wait.

    One call at a time, whatever thread it comes from, so the ledger never hears an older state after a newer one.
    """

    def __init__(
        self,
        ledger: Ledger,
        run_id: str,
        *,
        run_limit: int | None,
        month_limit: int | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Limits are in nano-dollars; None is no limit."""
        self._ledger, self._run_id, self._now, self._sleep = ledger, run_id, now, sleep
        self._run_limit, self._month_limit = run_limit, month_limit
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._guard, self._closing = threading.Lock(), threading.Event()
        self._granted = self._returned = self._settled = self._in_doubt = 0
        self._is_new = True
        limits = [limit for limit in (run_limit, month_limit) if limit is not None]
        self.slice = min(limits) // SLICES if limits else 0
        self._largest = min(limits) // MAX_PART if limits else 0
        self.limited = bool(limits)

    def _held(self) -> LeaseReport:
        left = self._granted - self._returned - self._settled - self._in_doubt
        return LeaseReport(self._settled, self._in_doubt, left if self.limited else 0, self._is_new)

    def lease(self, amount: int) -> int:
        """Lease a slice that holds at least `amount`; 0 if so much does not fit, or if the account is closed.

        Negative if a person has resolved what was leased, and nothing fits in its place. A database that is away for a
        while is waited for. Raises LedgerFailed.
        """
        with self._guard:
            if self._closing.is_set():
                return 0
            got: int = self._patient(LEDGER_TIMEOUT_S, until_closing=True)(self._lease, amount)
            self._granted += got
            self._is_new = False
            return got

    def _lease(self, amount: int) -> int:
        return self._ledger.lease(
            self._run_id,
            self._holder,
            self._held(),
            want=max(amount, self.slice, min(REQUESTS_A_SLICE * amount, self._largest)),
            least=amount,
            run_limit=self._run_limit,
            month_limit=self._month_limit,
            now=self._now(),
        )

    def others_lease(self) -> bool:
        """Whether another process holds leased money that may come back. Raises LedgerFailed."""
        month = None if self._month_limit is None else f"{self._now().astimezone(UTC):%Y-%m}"
        held = self._patient(LEDGER_TIMEOUT_S, until_closing=True)(
            self._ledger.leased_by_others, self._run_id, self._holder, month, self._now()
        )
        return held > 0

    def report(self, settled: int, in_doubt: int, returned: int = 0) -> int:
        """Tell what this process has settled, has in doubt and has given up of its leases, each in all.

        Gives what it must not count on any more, 0 as a rule: a person has resolved it. Raises LedgerFailed.
        """
        with self._guard:
            return 0 if self._closing.is_set() else self._report(settled, in_doubt, returned)

    def _report(self, settled: int, in_doubt: int, returned: int) -> int:
        # a thread that was slower than the next one has old figures
        self._settled, self._in_doubt = max(self._settled, settled), max(self._in_doubt, in_doubt)
        self._returned = max(self._returned, returned)
        lost = self._ledger.report(self._run_id, self._holder, self._held(), self._now())
        self._granted -= lost
        self._is_new = False
        return lost

    def close(self, settled: int, in_doubt: int, patience_s: float = LEDGER_TIMEOUT_S) -> None:
        """Tell the last figures and give the rest back. Raises LedgerFailed."""
        self._closing.set()
        with self._guard:
            rest = max(self._returned, self._granted - settled - in_doubt)
            self._patient(patience_s)(self._report, settled, in_doubt, rest)

    def _patient(self, patience_s: float, *, until_closing: bool = False) -> Retrying:
        """Calls the ledger again while its database is away for a while."""
        stop = stop_after_delay(patience_s)
        return Retrying(
            sleep=self._sleep,
            stop=stop | stop_when_event_set(self._closing) if until_closing else stop,
            wait=wait_exponential(0.1, max=2.0),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, LedgerFailed) and not isinstance(error, RunTakenOver)


class BudgetLease:
    """Opens a run's account with what its journals say, and keeps the ledger up to date."""

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
        """`before` is what the run's journals say. Raises ParquillError when the ledger cannot be opened.

        `is_first` is false for a process that joins others in a run that is open: their leases stay what they are.
        """
        run_limit = None if budget.run_usd is None else usd_to_nano(budget.run_usd)
        month_limit = None if budget.monthly_usd is None else usd_to_nano(budget.monthly_usd)
        self._executor = executor
        self._ledger = ledger or Ledger()
        told = before.settled_nano, before.in_doubt_nano
        if is_first:
            self._before = self._ledger.open_run(entry, *told, datetime.now(UTC))
        else:
            self._before = self._ledger.spent(entry.run_id, *told)
        self._account = LeaseAccount(self._ledger, entry.run_id, run_limit=run_limit, month_limit=month_limit)
        self._patience_s = patience_s
        self.budget = Budget(
            sum(self._before) if self._account.limited else None,
            settled=self._before[0],
            in_doubt=self._before[1],
            limit=run_limit,
            more=self._more,
            patient=self._patient,
        )
        self.soft_limits = SoftLimits(budget, before=sum(self._before), others=self._month_of_others(entry.run_id))
        self._reporter: asyncio.Task[None] | None = None
        self._returned = 0
        self._admitted = 0  # when it was last looked at
        self._sleep = sleep

    def _month_of_others(self, run_id: str) -> int:
        now = datetime.now(UTC)
        this = f"{now:%Y-%m}"
        month, mine = self._ledger.of_month(this, now), self._ledger.of_run(run_id, now)
        # with the run's own earlier months taken off, what the run has spent in all can be added to it
        return month.settled + month.in_doubt - mine.settled - mine.in_doubt

    async def _more(self, amount: int) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._account.lease, amount)

    async def _patient(self) -> bool:
        """Wait a little for money that others hold; False when they hold none or patience is used up.

        A run that waits can use nothing of what it has leased, so it gives that back first: of two runs that wait for
        each other one gets all, or both see that nothing is to be waited for.
        """
        loop = asyncio.get_running_loop()
        if self._patience_s <= 0:
            return False
        with contextlib.suppress(LedgerFailed):  # to ask what others hold waits for a ledger that is away
            await self._report(keep=0)
        if not await loop.run_in_executor(self._executor, self._account.others_lease):
            return False
        self._patience_s -= POLL_INTERVAL_S
        await self._sleep(POLL_INTERVAL_S)
        return True

    def begin(self) -> None:
        """Begin to report, on the running loop."""
        self._reporter = asyncio.get_running_loop().create_task(self._report_on())

    async def _report_on(self) -> None:
        while True:
            await self._sleep(REPORT_INTERVAL_S)
            # a run that has admitted nothing since may have nothing left to admit, and others may wait for its lease
            is_idle, self._admitted = self._admitted == self.budget.admitted, self.budget.admitted
            try:
                await self._report(keep=0 if is_idle else self._account.slice)
            except RunTakenOver:
                return
            except LedgerFailed:
                # a ledger that is away for a while delays the report; the lease stays booked there meanwhile
                continue

    async def _report(self, keep: int) -> None:
        """Report what was spent, and give back what is leased beyond `keep`. Raises LedgerFailed."""
        self._returned += self.budget.give_back_unused(keep)
        told = *self._spent(), self._returned
        try:
            lost = await asyncio.get_running_loop().run_in_executor(self._executor, self._account.report, *told)
        except RunTakenOver as error:
            self.budget.fail(error)
            raise
        self.budget.revoke(lost)

    def _spent(self) -> tuple[int, int]:
        return self.budget.settled - self._before[0], self.budget.in_doubt - self._before[1]

    async def close(self, patience_s: float = LEDGER_TIMEOUT_S) -> None:
        """Report the last figures and give back what was not spent; a ledger that is away is waited for so long.

        Raises LedgerFailed when they could not be told; the next start of the run tells them, from its journals.
        """
        if self._reporter is not None:
            self._reporter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reporter
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, self._account.close, *self._spent(), patience_s)
        except RunTakenOver:
            raise
        except LedgerFailed as error:
            raise LedgerFailed(f"{error}; it lacks the run's last figures: run again, which tells them") from None
        finally:
            self._ledger.close()
