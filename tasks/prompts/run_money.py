"""What a run has spent: compares its journals and the ledger."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import replace
from datetime import UTC, datetime

from parquill.tasks.money.amounts import usd_to_nano
from parquill.tasks.money.budget_lease import BudgetLease
from parquill.tasks.money.gate import spent_by_others
from parquill.tasks.money.ledger import Ledger, RunEntry
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import Totals


def open_budget(
    run: Run,
    executor: Executor,
    ledger: Ledger | None = None,
    *,
    is_first: bool = True,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> BudgetLease:
    """Open a run's account in the ledger with what its journals say; see `BudgetLease` for `is_first`.

    Raises ParquillError if the ledger cannot be opened.
    """
    return BudgetLease(
        entry_of(run),
        run.totals(),
        run.job.budget,
        executor,
        ledger,
        patience_s=run.job.retry.timeout_s,
        is_first=is_first,
        sleep=sleep,
    )


def reconcile_ledger(run: Run) -> None:
    """Set the ledger to what the journals of an abandoned run say. Raises LedgerFailed."""
    found = run.totals()
    ledger = Ledger()
    try:
        ledger.open_run(entry_of(run), found.settled_nano, found.in_doubt_nano, datetime.now(UTC))
    finally:
        ledger.close()


def spent_totals(run: Run) -> Totals:
    """Return what a run has spent so far, by its journals and by what a person has resolved. Raises LedgerFailed."""
    found = run.totals()
    ledger = Ledger()
    try:
        settled, in_doubt = ledger.spent(run.run_id, found.settled_nano, found.in_doubt_nano)
    finally:
        ledger.close()
    return replace(found, settled_nano=settled, in_doubt_nano=in_doubt)


def month_left(run: Run) -> int | None:
    """Return what the month's budget has left for a run beyond what it has booked; None without such a budget.

    It is negative if more is booked than the month has. Raises LedgerFailed.
    """
    whole = run.job.budget.monthly_usd
    if whole is None:
        return None
    others, spent = spent_by_others(run.job, run.run_id) or 0, spent_totals(run)
    return usd_to_nano(whole) - others - spent.committed_nano


def entry_of(run: Run) -> RunEntry:
    """Return the ledger's entry of a run."""
    job = run.job
    return RunEntry(
        run_id=run.run_id,
        job=job.name,
        model=job.model,
        endpoint=job.endpoint.identity,
        labels=job.labels,
        output=job.output,
        state=job.state or "",
        host=socket.gethostname(),
        expected_nano=run.estimate.expected_nano,
        started_at=run.started_at,
    )
