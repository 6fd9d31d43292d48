"""A run's account at the ledger, as one process holds it: slices leased, spending reported, the rest given back."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime

from parquill.tasks.money.ledger import Booked, Ledger

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
    ) -> None:
        """Limits are in nano-dollars; None is no limit."""
        self._ledger, self._run_id, self._now = ledger, run_id, now
        self._run_limit, self._month_limit = run_limit, month_limit
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._reported = (0, 0)
        limits = [limit for limit in (run_limit, month_limit) if limit is not None]
        self._slice = min(limits) // SLICES if limits else 0
        self.limited = bool(limits)

    def lease(self, amount: int) -> int:
        """Lease a slice that holds at least `amount`; 0 if so much does not fit."""
        return self._ledger.lease(
            self._run_id,
            self._holder,
            want=max(amount, self._slice),
            least=amount,
            run_limit=self._run_limit,
            month_limit=self._month_limit,
            now=self._now(),
        )

    def others_hold(self) -> bool:
        """Whether another process holds leased money that may come back."""
        month = None if self._month_limit is None else f"{self._now():%Y-%m}"
        return self._ledger.held_by_others(self._run_id, self._holder, month) > 0

    def report(self, settled: int, in_doubt: int) -> None:
        """Tell what this process has settled and has in doubt in all."""
        before = self._reported
        self._ledger.report(
            self._run_id, self._holder, settled=settled - before[0], in_doubt=in_doubt - before[1], now=self._now()
        )
        self._reported = (settled, in_doubt)

    def close(self) -> None:
        """Give the rest back."""
        self._ledger.give_back(self._run_id, self._holder)

    def booked(self) -> Booked:
        """The run's books."""
        return self._ledger.of_run(self._run_id)
