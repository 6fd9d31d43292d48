"""The gate before the first payment: does what is still to be paid fit into what is left of the budget?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from parquill.tasks.errors import BadJob, RefusedByBudget
from parquill.tasks.job.reasoning import warn_of_thinking
from parquill.tasks.job.settings import Job
from parquill.tasks.money.amounts import format_usd, nano_to_usd, usd_to_nano
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.prices import ModelPrice
from parquill.tasks.money.shutdowns import find_shutdown
from parquill.tasks.records import Estimate, Totals


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says; `warning` is None when there is nothing to warn of. Money in nano-dollars.

    `left` is how many rows are still to be sent.
    """

    fits: bool
    sentence: str
    warning: str | None
    expected_nano: int
    left: int


def check_budget(
    job: Job,
    estimate: Estimate,
    price: ModelPrice,
    totals: Totals | None = None,
    month_booked: int | None = None,
    today: date | None = None,
) -> Verdict:
    """Hold an estimate against the budgets of a job.

    `totals` is what an interrupted run has spent already, `month_booked` what all other runs of the month have.
    `today` is by default the day of the clock: models are shut down by it, whatever day the prices are of.
    """
    spent = totals or Totals()
    booked = spent.settled_nano + spent.in_doubt_nano
    # what has an outcome counts by its true figure; the rest by the same share of expected as of worst
    left = max(0, estimate.worst_nano - spent.worst_nano)
    worst = booked + left
    open_worst, open_expected = (
        estimate.worst_nano - estimate.paid_worst_nano,
        estimate.expected_nano - estimate.paid_nano,
    )
    expected = booked + (open_expected * left // open_worst if open_worst else 0)
    rows = estimate.to_send - sum(spent.statuses.values())
    facts = f"({rows:,} rows to send, {job.model}, prices of {price.version})"
    odd = "; ".join(_warnings(job, estimate, today or datetime.now(UTC).date())) or None
    limits = []
    if job.budget.run_usd is not None:
        limits.append((usd_to_nano(job.budget.run_usd), f"the budget of {format_usd(usd_to_nano(job.budget.run_usd))}"))
    if job.budget.monthly_usd is not None:
        taken, whole = month_booked or 0, usd_to_nano(job.budget.monthly_usd)
        rest = f"{format_usd(whole - taken)} of {format_usd(whole)}"
        if taken >= whole:
            rest = f"nothing: its budget of {format_usd(whole)} is used up"
        limits.append((whole - taken, f"what is left of the month ({rest}, {format_usd(taken)} booked)"))
    if not limits:
        return Verdict(True, f"expected {format_usd(expected)}, no budget is set {facts}", odd, expected, rows)
    limit, name = min(limits)
    if expected > limit:
        over = format_usd(expected)
        if over == format_usd(limit):  # one number must be seen to be larger than the other
            over = f"${nano_to_usd(expected):,.9f}"
        return Verdict(False, f"expected {over} exceeds {name} {facts}", odd, expected, rows)
    may_stop = f"the worst case of {format_usd(worst)} exceeds {name}: the run may stop on the way"
    warning = "; ".join(told for told in (odd, may_stop if worst > limit else None) if told) or None
    return Verdict(True, f"expected {format_usd(expected)} fits into {name} {facts}", warning, expected, rows)


def _warnings(job: Job, estimate: Estimate, today: date) -> list[str]:
    """What to say before the first payment of a job that may be run, but should be looked at."""
    if not estimate.rows:
        return ["the input has no rows: the results will be empty"]
    found = [_warn_of_one_prompt(job, estimate)]
    if estimate.to_send:
        shutdown = find_shutdown(job.model, job.endpoint.base_url)
        found += [shutdown.sentence(today) if shutdown is not None else None, warn_of_thinking(job)]
    return [told for told in found if told is not None]


def _warn_of_one_prompt(job: Job, estimate: Estimate) -> str | None:
    """What to say of a prompt without a single {{ }}, which asks the same of every row."""
    if job.prompt is None or not job.dedupe or job.parameters_column is not None or estimate.rows < 2:
        return None
    if any(mark in text for mark in ("{{", "{%") for text in (job.prompt.system or "", job.prompt.user)):
        return None
    return (
        f"the prompt uses no column, so all {estimate.rows:,} rows are one request (in prefect.yaml Prefect itself "
        'replaces {{ text }}: write {{ row["text"] }} there)'
    )


def asks_approval(job: Job, verdict: Verdict) -> bool:
    """Whether the expected cost, with what is spent already, is above what may be spent without asking.

    Nobody is asked for a run that has nothing left to send: its money is spent.
    """
    limit = job.budget.approval_usd
    return limit is not None and verdict.left > 0 and verdict.expected_nano > usd_to_nano(limit)


def check_largest(job: Job, estimate: Estimate) -> None:
    """Refuse a job with a request that its own limit would never let through (BadJob)."""
    allowed = job.limits.tokens_per_minute
    if allowed is not None and estimate.to_send and estimate.largest_request > allowed:
        raise BadJob(
            f"the largest request has {estimate.largest_request:,} tokens (input and max_output_tokens), more than "
            f"limits.tokens_per_minute = {allowed:,}: it could never be sent"
        )


def pass_gate(
    job: Job, estimate: Estimate, price: ModelPrice, totals: Totals | None = None, month_booked: int | None = None
) -> Verdict:
    """Raise RefusedByBudget, with both numbers, unless the expected cost fits or `when_short` is partial.

    Raises BadJob for a request that could never be sent.
    """
    check_largest(job, estimate)
    verdict = check_budget(job, estimate, price, totals, month_booked)
    if not verdict.fits and job.budget.when_short == "refuse" and estimate.to_send:
        raise RefusedByBudget(f"{verdict.sentence}; {estimate.basis}. Raise it, or set budget.when_short: partial")
    return verdict


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
