"""The gate before the first payment: check that what is still to be paid fits into what is left of the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from parquill.tasks.errors import BadJob, RefusedByBudget
from parquill.tasks.job.reasoning import warn_of_thinking
from parquill.tasks.job.settings import Job
from parquill.tasks.money.amounts import decimals_of, format_usd, usd_to_nano
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.money.shutdowns import find_shutdown
from parquill.tasks.records import Estimate, Totals


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the gate, money in nano-dollars; `warning` is None if there is nothing to warn of.

    `left` is the number of rows that are still to be sent.
    """

    fits: bool
    sentence: str
    warning: str | None
    expected_nano: int
    left: int
    is_worst_case: bool = False  # `expected_nano` is the worst case, since nothing is known of the answers
    moved_nano: int = 0  # the same if all rows that are left move to the live lane; 0 if no row ever does

    @property
    def most_expected_nano(self) -> int:
        """What the run is expected to cost in the more expensive of its lanes."""
        return max(self.expected_nano, self.moved_nano)

    @property
    def cost(self) -> str:
        """What the run costs, for a sentence: `expected $6.40`, or `at most $12.10`."""
        return f"{_word(is_worst_case=self.is_worst_case)} {format_usd(self.expected_nano)}"


def _word(*, is_worst_case: bool) -> str:
    return "at most" if is_worst_case else "expected"


def check_budget(
    job: Job,
    estimate: Estimate,
    price: ModelPrice,
    totals: Totals | None = None,
    month_booked: int | None = None,
    today: date | None = None,
) -> Verdict:
    """Compare an estimate with the budgets of a job.

    `totals` is what an interrupted run has already spent and submitted; `month_booked` is what all other runs of the
    month have booked. `today` defaults to the current date, which decides whether a model is shut down, whatever the
    prices' day.
    """
    spent = totals or Totals()
    booked = spent.committed_nano
    # rows with an outcome count with their true cost, rows whose request waits at the service with its reservation; the
    # rest with the same share of expected as of worst
    # promise: M8 a submitted row does not count as left to pay
    left = max(0, estimate.worst_nano - spent.worst_nano - spent.submitted_nano)
    worst = booked + (left * estimate.most_nano // estimate.worst_nano if estimate.worst_nano else 0)
    open_worst, open_expected = (
        estimate.worst_nano - estimate.paid_worst_nano,
        estimate.expected_nano - estimate.paid_nano,
    )
    expected = booked + (open_expected * left // open_worst if open_worst else 0)
    rows = estimate.to_send - sum(spent.statuses.values()) - spent.submitted
    moved = _moved_nano(estimate, booked, expected)
    facts = f"({rows:,} rows to send, {job.model}, prices of {price.version}){_if_moved(estimate, moved)}"
    odd = "; ".join(_warnings(job, estimate, today or datetime.now(UTC).date())) or None
    limits = _limits(job, month_booked)
    word, is_worst_case = _word(is_worst_case=estimate.is_worst_case), estimate.is_worst_case
    if not limits:
        message = f"{word} {format_usd(expected)}, no budget is set {facts}"
        return Verdict(True, message, odd, expected, rows, is_worst_case, moved)
    tight = limits[0][0]
    if expected > tight:
        over = decimals_of(expected, tight)  # enough to see which number is larger
        names = " and ".join(name(decimals_of(limit, expected)) for limit, name in limits if expected > limit)
        message = f"{word} {format_usd(expected, over)} exceeds {names} {facts}"
        return Verdict(False, message, odd, expected, rows, is_worst_case, moved)
    names = " and ".join(name(None) for _, name in limits)
    short = " and ".join(name(None) for limit, name in limits if worst > limit)
    # promise: lanes: the gate says what the budget has no room for if rows move to the live lane
    ends = "the run may stop on the way"
    if booked + left <= tight:
        ends = f"rows that do not fit at the live price stay in the {estimate.lane} lane, and may miss finish_by"
    may_stop = f"the worst case of {format_usd(worst)} exceeds {short}: {ends}"
    warning = "; ".join(message for message in (odd, may_stop if short else None) if message) or None
    message = f"{word} {format_usd(expected)} fits into {names} {facts}"
    return Verdict(True, message, warning, expected, rows, is_worst_case, moved)


def _moved_nano(estimate: Estimate, booked: int, expected: int) -> int:
    """Return what the run costs if all rows that are left move to the live lane; 0 if no row ever does."""
    if estimate.moved_expected_nano is None or expected == booked:
        return 0
    return booked + (expected - booked) * estimate.moved_expected_nano // max(1, estimate.expected_nano)


def _if_moved(estimate: Estimate, moved: int) -> str:
    if not moved:
        return ""
    word = _word(is_worst_case=estimate.is_worst_case)
    return f"; {word} {format_usd(moved)} if all rows leave the {estimate.lane} lane for the live lane"


def _limits(job: Job, month_booked: int | None) -> list[tuple[int, Callable[[int | None], str]]]:
    """Return what the run may cost by each budget, in nano-dollars, and its name with so many decimals."""
    limits: list[tuple[int, Callable[[int | None], str]]] = []
    if job.budget.run_usd is not None:
        run = usd_to_nano(job.budget.run_usd)
        limits.append((run, lambda places: f"the budget of {format_usd(run, places)}"))
    if job.budget.monthly_usd is not None:
        taken, whole = month_booked or 0, usd_to_nano(job.budget.monthly_usd)

        def month(places: int | None) -> str:
            rest = f"{format_usd(whole - taken, places)} of {format_usd(whole)}"
            if taken >= whole:
                rest = f"nothing: its budget of {format_usd(whole)} is used up"
            return f"what is left of the month ({rest}, {format_usd(taken)} booked)"

        limits.append((whole - taken, month))
    return sorted(limits, key=lambda each: each[0])


def _warnings(job: Job, estimate: Estimate, today: date) -> list[str]:
    """Return the warnings to show before the first payment of a job."""
    if not estimate.rows:
        return ["the input has no rows: the results will be empty"]
    # promise: warnings: a prompt that uses no column causes a warning
    found = [_warn_of_one_prompt(job, estimate)]
    if estimate.to_send:
        for each in job.each_endpoint:
            shutdown = find_shutdown(each.model, each.endpoint.base_url)
            # promise: warnings: a model that is shut down causes a warning before payment
            found += [shutdown.sentence(today) if shutdown is not None else None, warn_of_thinking(each)]
    return list(dict.fromkeys(warning for warning in found if warning is not None))


def _warn_of_one_prompt(job: Job, estimate: Estimate) -> str | None:
    """Return a warning if the prompt has no {{ }}, so that it is the same for every row."""
    if job.prompt is None or not job.dedupe or job.parameters_column is not None or estimate.rows < 2:
        return None
    if any(mark in text for mark in ("{{", "{%") for text in (job.prompt.system or "", job.prompt.user)):
        return None
    return (
        f"the prompt uses no column, so all {estimate.rows:,} rows are one request (in prefect.yaml Prefect itself "
        'replaces {{ text }}: write {{ row["text"] }} there)'
    )


def asks_approval(job: Job, verdict: Verdict) -> bool:
    """Whether the expected cost, what is already spent included, is above `budget.approval_usd` in any lane of the run.

    A run with nothing left to send needs no approval: its money is spent.
    """
    limit = job.budget.approval_usd
    # promise: P4 no approval is asked for when no money is left to spend
    return limit is not None and verdict.left > 0 and verdict.most_expected_nano > usd_to_nano(limit)


def approval_sentence(job: Job, verdict: Verdict) -> str:
    """Return why a person must approve, with both numbers; only for a job with `budget.approval_usd`."""
    limit = usd_to_nano(job.budget.approval_usd or Decimal(0))
    cost = verdict.most_expected_nano
    more = decimals_of(limit, cost)
    word = _word(is_worst_case=verdict.is_worst_case)
    cost_text = f"{word} {format_usd(cost, decimals_of(cost, limit))}"
    return f"{cost_text} is above budget.approval_usd = {format_usd(limit, more)}"


def check_largest(job: Job, estimate: Estimate) -> None:
    """Refuse a job with a request that its own limit, or that of one of its endpoints, would never let through.

    Raises BadJob.
    """
    for number, each in enumerate(job.each_endpoint):
        allowed = each.limits.tokens_per_minute
        if allowed is not None and estimate.to_send and estimate.largest_request > allowed:
            place = "" if job.endpoints is None else f" at `endpoints.{number}`"
            raise BadJob(
                f"the largest request has {estimate.largest_request:,} tokens (input and max_output_tokens), more than "
                f"limits.tokens_per_minute = {allowed:,}: it could never be sent{place}"
            )
    waiting, prompt = job.limits.batch_tokens, estimate.largest_request - job.max_output_tokens
    in_batches = estimate.lane == "batch" and job.finish_by is None  # else the live lane takes what fits no batch
    if in_batches and waiting is not None and estimate.to_send and prompt > waiting:
        raise BadJob(
            f"the longest prompt has {prompt:,} tokens, more than limits.batch_tokens = {waiting:,}: it fits no batch"
        )


def what_to_do(estimate: Estimate) -> str:
    """Return the advice of a refusal."""
    if not estimate.is_worst_case:
        return "Raise the budget, or set `budget.when_short: partial`"
    return (
        "For an expected cost run `parquill estimate JOB --pilot 100`; or raise the budget, or set "
        "`budget.when_short: partial`"
    )


def pass_gate(job: Job, estimate: Estimate, verdict: Verdict) -> None:
    """Raise RefusedByBudget, with both numbers, unless the expected cost fits or `when_short` is partial.

    A run with nothing left to send is never refused: it can only collect and write what is paid or reserved. Raises
    BadJob for a request that could never be sent.
    """
    check_largest(job, estimate)
    # promise: M8 a run whose last requests are submitted may collect them, whatever its budget is now
    if not verdict.fits and job.budget.when_short == "refuse" and verdict.left > 0:
        raise RefusedByBudget(f"{verdict.sentence}; {estimate.basis_note}. {what_to_do(estimate)}")
