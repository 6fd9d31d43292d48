"""The money of a run on the sender's event loop: a budget in memory, leased from the ledger and reported to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from datetime import UTC, datetime

from parquill.tasks.errors import LedgerFailed, RunTakenOver
from parquill.tasks.job.settings import BudgetSettings
from parquill.tasks.money.account import LEDGER_TIMEOUT_S, LeaseAccount
from parquill.tasks.money.budget import POLL_INTERVAL_S, Budget
from parquill.tasks.money.ledger import Ledger, RunEntry
from parquill.tasks.money.prices import usd_to_nano
from parquill.tasks.money.soft_limit import SoftLimits
from parquill.tasks.records import Totals

REPORT_INTERVAL_S = 1.0


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
