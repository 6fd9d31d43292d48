"""The month in the ledger: what runs have booked of the budget that all jobs share. Months are UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from parquill.tasks.job.settings import Job
from parquill.tasks.money.amounts import nano_to_usd
from parquill.tasks.money.ledger import Ledger


def month_of_others(ledger: Ledger, job: Job, run_id: str | None = None) -> int | None:
    """Return what all other runs have booked this month, in nano-dollars; None if the job has no monthly budget.

    Raises LedgerFailed.
    """
    if job.budget.monthly_usd is None:
        return None
    return ledger.month_without(run_id, datetime.now(UTC)).total_nano


def month_figures(run_id: str) -> tuple[Decimal, Decimal]:
    """Return the dollars that are booked this month without a run, and with it. Raises LedgerFailed."""
    now = datetime.now(UTC)
    this = f"{now:%Y-%m}"
    with Ledger() as ledger:
        month, mine = ledger.of_month(this, now), ledger.of_run(run_id, now, this)
    return nano_to_usd(month.total_nano - mine.total_nano), nano_to_usd(month.total_nano)
