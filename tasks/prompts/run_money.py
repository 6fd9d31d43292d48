"""The money of a run: its journals, the ledger and the gate together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from parquill.tasks.money.amounts import usd_to_nano
from parquill.tasks.money.budget_lease import BudgetLease
from parquill.tasks.money.gate import Verdict, check_budget
from parquill.tasks.money.ledger import Ledger, RunEntry
from parquill.tasks.money.ledger_uses import keep_uses
from parquill.tasks.money.month import month_of_others
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_uses import uses_of
from parquill.tasks.records import Totals


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands before its next payment. It is read once for each phase and handed on.

    `totals` is what the run has spent and submitted so far, by its journals and by what a person has resolved.
    `month_left_nano` is what the month's budget has left for it, negative if more is booked than the month has; None
    without such a budget.
    """

    totals: Totals
    month_left_nano: int | None
    verdict: Verdict


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
    with Ledger() as ledger:
        ledger.open_run(entry_of(run), found.settled_nano, found.in_doubt_nano, found.submitted_nano, datetime.now(UTC))
        keep_uses(ledger, run.run_id, uses_of(run, found))


def read_standing(run: Run) -> Standing:
    """Read how a run stands: its journals once, the ledger once. Raises LedgerFailed, DiskFailed, DamagedJournal."""
    job, found = run.job, run.totals()
    with Ledger() as ledger:
        # promise: M5 the budget gate counts the amounts that a person resolved
        booked = ledger.spent(run.run_id, found.settled_nano, found.in_doubt_nano, found.submitted_nano)
        others = month_of_others(ledger, job, run.run_id)
    totals = replace(found, **booked._asdict())
    left = None
    if job.budget.monthly_usd is not None and others is not None:
        left = usd_to_nano(job.budget.monthly_usd) - others - totals.committed_nano
    return Standing(totals, left, check_budget(job, run.estimate, run.price, totals, others))


def entry_of(run: Run) -> RunEntry:
    """Return the ledger's entry of a run."""
    job = run.job
    return RunEntry(
        run_id=run.run_id,
        job=job.name,
        model=job.model,
        endpoint=" ".join(sorted({each.endpoint.base_url for each in job.each_endpoint})),
        labels=job.labels,
        output=job.output,
        state=job.state or "",
        host=socket.gethostname(),
        expected_nano=run.estimate.expected_nano,
        started_at=run.started_at,
    )
