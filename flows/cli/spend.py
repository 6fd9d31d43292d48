"""`parquill spend`: what the ledger has for a month, by day, job and model, and a forecast of the month."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import load_job
from parquill.tasks.limits.rate_ledger import RateLedger, describe
from parquill.tasks.money.amounts import format_column, format_usd_text, nano_to_usd, usd_text, usd_to_nano
from parquill.tasks.money.calendar_months import days_of, read_month
from parquill.tasks.money.ledger import Ledger

MAX_SHOWN_JOBS = 20
KINDS = ("settled", "in_doubt", "submitted")


@dataclass(frozen=True, slots=True)
class SpendQuery:
    """Which part of the ledger to read; `limit` is monthly_usd in nano-dollars, if a job file sets it.

    With `is_name`, `job` is not from a job file, so the ledger must know it.
    """

    month: str
    job: str | None
    limit: int | None
    is_name: bool = False


def parse_query(place: str | None, month: str | None, today: date) -> SpendQuery:
    """Read a job file or a job's name, and a month such as 2026-11 (default: this one). Raises BadJob."""
    chosen = read_month(month, today)
    if place is None:
        return SpendQuery(chosen, None, None)
    path = Path(place)
    if not path.is_file():
        return SpendQuery(chosen, place, None, is_name=True)
    job = load_job(path)
    return SpendQuery(chosen, job.name, None if job.budget.monthly_usd is None else usd_to_nano(job.budget.monthly_usd))


def read_spending(scope: SpendQuery, today: date, resolve: str | None = None) -> dict[str, Any]:
    """Return the month as one JSON object; with `resolve` (paid or unpaid), first settle what is in doubt.

    Raises BadJob for a name that is neither a job file nor a job with a run, LedgerFailed.
    """
    now = datetime.now(UTC)
    with Ledger() as ledger:
        if scope.is_name and scope.job is not None:
            # promise: input: the spend command refuses a job name that no run has
            _check_known(scope.job, ledger.jobs())
        resolved = None if resolve is None else ledger.resolve(scope.month, scope.job, paid=resolve == "paid", now=now)
        rows = ledger.days(scope.month, now, scope.job)
        month = ledger.of_month(scope.month, now)
    with RateLedger() as rates:
        holders = rates.holders()
    settled, in_doubt, submitted = (sum(row[f"{kind}_nano"] for row in rows) for kind in KINDS)
    found: dict[str, Any] = {
        "month": scope.month,
        "job": scope.job,
        "cost_usd": usd_text(nano_to_usd(settled)),
        "in_doubt_usd": usd_text(nano_to_usd(in_doubt)),
        "submitted_usd": usd_text(nano_to_usd(submitted)),
        "booked_usd_all_jobs": usd_text(nano_to_usd(month.total_nano)),
        "rows": [
            {
                "day": row["day"],
                "job": row["job"],
                "model": row["model"],
                "runs": row["runs"],
                "cost_usd": usd_text(nano_to_usd(row["settled_nano"])),
                "in_doubt_usd": usd_text(nano_to_usd(row["in_doubt_nano"])),
                "submitted_usd": usd_text(nano_to_usd(row["submitted_nano"])),
            }
            for row in rows
        ],
        **_forecast(scope, settled + in_doubt + submitted, month.total_nano, today),
        "shared_limits": holders,
    }
    if resolved is not None:
        found["resolved_usd"] = usd_text(nano_to_usd(resolved))
    return found


def _check_known(name: str, jobs: Sequence[str]) -> None:
    """Refuse a name that no run has: a missing file or a misspelled job would seem to have cost nothing."""
    if name in jobs:
        return
    near = difflib.get_close_matches(name, jobs, 1)
    rest = [job for job in jobs if job not in near]
    shown = ", ".join([*near, *rest][:MAX_SHOWN_JOBS]) + (", …" if len(jobs) > MAX_SHOWN_JOBS else "")
    known = f"the jobs in the ledger are: {shown}" if jobs else "the ledger has no job yet"
    raise BadJob(f"{name!r} is neither a job file nor the name of a job that has run; {known}")


def _forecast(scope: SpendQuery, mine: int, all_jobs: int, today: date) -> dict[str, Any]:
    """Forecast the month at the pace so far: spent or reserved per day, times the days of the month."""
    year, month = map(int, scope.month.split("-"))
    days = len(days_of(scope.month))
    if (today.year, today.month) > (year, month):
        past = days
    elif (today.year, today.month) < (year, month):
        past = 0
    else:
        past = today.day
    forecast = mine if past == 0 else mine * days // past
    met: str | None = None
    if scope.limit is not None and past and all_jobs:
        day = -(-scope.limit * past // all_jobs)  # the first day whose end is at or over the limit
        met = date(year, month, day).isoformat() if day <= days else None
    limit = None if scope.limit is None else usd_text(nano_to_usd(scope.limit))
    return {"forecast_usd": usd_text(nano_to_usd(forecast)), "monthly_usd": limit, "limit_met_on": met}


def show_spending(found: dict[str, Any]) -> list[str]:
    """Return the lines that a person reads; the amounts of the table have the same number of decimals."""
    rows = found["rows"]
    settled = _column([*(row["cost_usd"] for row in rows), found["cost_usd"]])
    in_doubt = _column([*(row["in_doubt_usd"] for row in rows), found["in_doubt_usd"]])
    submitted = _column([*(row["submitted_usd"] for row in rows), found["submitted_usd"]])
    lines = [
        f"{row['day']}  {row['job']}  {row['model']}  {row['runs']} runs  {cost}"
        + (f"  in doubt {doubt}" if Decimal(row["in_doubt_usd"]) else "")
        + (f"  reserved in batches {waiting}" if Decimal(row["submitted_usd"]) else "")
        for row, cost, doubt, waiting in zip(rows, settled, in_doubt, submitted, strict=False)
    ]
    waiting = f", reserved in batches {submitted[-1]}" if Decimal(found["submitted_usd"]) else ""
    lines.append(f"{found['month']}: {settled[-1]}, in doubt {in_doubt[-1]}{waiting}")
    if "resolved_usd" in found:
        lines.append(f"settled {format_usd_text(found['resolved_usd'])} that was in doubt")
    lines.append(f"at this pace the month ends at {format_usd_text(found['forecast_usd'])}")
    if found["monthly_usd"] is not None:
        when, limit = found["limit_met_on"], format_usd_text(found["monthly_usd"])
        lines.append(
            f"the limit of {limit} is met on {when}" if when else f"the limit of {limit} is not met this month"
        )
    return [*lines, *(f"limits.shared {line}" for line in describe(found["shared_limits"]))]


def _column(amounts: Sequence[str]) -> list[str]:
    return format_column([usd_to_nano(Decimal(usd)) for usd in amounts])
