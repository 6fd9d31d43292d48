"""The month in the ledger: what a run finds booked, and what is booked after it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from parquill.tasks.job.settings import Job
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.prices import nano_to_usd


def spent_by_others(job: Job, run_id: str | None = None) -> int | None:
    """Nano-dollars that other runs have booked this month; None when the job has no monthly budget.

    What the run itself has booked in earlier months is taken off (the figure may be negative then), so that all
    that the run has spent, whenever, can be added.
    """
    if job.budget.monthly_usd is None:
        return None
    ledger, now = Ledger(), datetime.now(UTC)
    try:
        month = ledger.of_month(f"{now:%Y-%m}", now).total
        return month - (ledger.of_run(run_id, now).total if run_id is not None else 0)
    finally:
        ledger.close()


def month_figures(run_id: str) -> tuple[Decimal, Decimal]:
    """Dollars that were booked this month before a run, and that are with it."""
    ledger, now = Ledger(), datetime.now(UTC)
    this = f"{now:%Y-%m}"
    try:
        month, mine = ledger.of_month(this, now), ledger.of_run(run_id, now, this)
        return nano_to_usd(month.total - mine.total), nano_to_usd(month.total)
    finally:
        ledger.close()
