"""A run's account at the ledger, as one process holds it: slices leased, spending reported, the rest given back."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from parquill.tasks.errors import LedgerFailed
from parquill.tasks.money.ledger import Booked, Ledger

PATIENCE_S = 60.0  # how long a database may be away: a restart, a failover
SLICES = 50  # a slice is this part of the limit: few enough transactions, and little idle money at the end


class Account:
    """Leases money for one run. Its methods block for a transaction: call them from a thread that may wait."""

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
        self._reported = (0, 0)
        limits = [limit for limit in (run_limit, month_limit) if limit is not None]
        self.slice = min(limits) // SLICES if limits else 0
        self.limited = bool(limits)

    def lease(self, amount: int) -> int:
        """Lease a slice that holds at least `amount`; 0 if so much does not fit."""
        got: int = self._patient(
            self._ledger.lease,
            self._run_id,
            self._holder,
            want=max(amount, self.slice),
            least=amount,
            run_limit=self._run_limit,
            month_limit=self._month_limit,
            now=self._now(),
        )
        return got

    def others_hold(self) -> bool:
        """Whether another process holds leased money that may come back."""
        month = None if self._month_limit is None else f"{self._now():%Y-%m}"
        return self._ledger.held_by_others(self._run_id, self._holder, month, self._now()) > 0

    def report(self, settled: int, in_doubt: int, unused: int = 0) -> None:
        """Tell what this process has settled and has in doubt in all, and give back what it does not use."""
        before = self._reported
        spent = {"settled": settled - before[0], "in_doubt": in_doubt - before[1]}
        self._ledger.report(self._run_id, self._holder, **spent, unused=unused, now=self._now())
        self._reported = (settled, in_doubt)

    def close(self, settled: int, in_doubt: int) -> None:
        """Tell the last figures and give the rest back. Raises LedgerFailed."""
        self._patient(self.report, settled, in_doubt)
        self._patient(self._ledger.give_back, self._run_id, self._holder)

    def _patient(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call the ledger; a database that is away for a while is waited for. Raises LedgerFailed."""
        retrying = Retrying(
            sleep=self._sleep,
            stop=stop_after_delay(PATIENCE_S),
            wait=wait_exponential(0.1, max=5.0),
            retry=retry_if_exception_type(LedgerFailed),
            reraise=True,
        )
        return retrying(call, *arguments, **named)

    def booked(self) -> Booked:
        """The run's books."""
        return self._ledger.of_run(self._run_id)
