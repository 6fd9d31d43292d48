"""A run's account at the ledger, as one process holds it: slices leased, spending reported, the rest given back."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential
from tenacity.stop import stop_when_event_set

from parquill.tasks.errors import LedgerFailed, RunTakenOver
from parquill.tasks.money.books import LeaseReport
from parquill.tasks.money.ledger import Ledger

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
