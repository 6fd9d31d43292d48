"""The month in the ledger: what a run finds booked, and what is booked after it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from parquill.tasks.job import Job
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.prices import usd


def booked_by_others(job: Job, run_id: str | None = None) -> int | None:
    """Nano-dollars that other runs have booked this month; None when the job has no monthly budget."""
    if job.budget.monthly_usd is None:
        return None
    ledger = Ledger()
    try:
        month = ledger.of_month(f"{datetime.now(UTC):%Y-%m}").total
        return month - (ledger.of_run(run_id).total if run_id is not None else 0)
    finally:
        ledger.close()


def month_figures(run_id: str) -> tuple[Decimal, Decimal]:
    """Dollars that were booked this month before a run, and that are with it."""
    ledger = Ledger()
    try:
        month, mine = ledger.of_month(f"{datetime.now(UTC):%Y-%m}"), ledger.of_run(run_id)
        return usd(month.total - mine.total), usd(month.total)
    finally:
        ledger.close()
