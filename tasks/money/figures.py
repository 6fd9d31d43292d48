"""What an estimate tells a person: how much, how long, and whether it fits. Terminal and Prefect show the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from parquill.tasks.job.finish_by import finish_time
from parquill.tasks.job.settings import Job
from parquill.tasks.money.amounts import NANO_PER_USD, format_column, format_usd, nano_to_usd
from parquill.tasks.money.duration import least_duration
from parquill.tasks.money.gate import Verdict, approval_sentence, asks_approval
from parquill.tasks.records import Estimate

CENT_NANO = NANO_PER_USD // 100
SHORT_S = 90  # a shorter time is shown in seconds, without the time of day


def three_answers(job: Job, estimate: Estimate, verdict: Verdict, now: datetime) -> list[str]:
    """Return the sentences: how much, how long (left out if nothing bounds it), and whether it fits.

    A last one says if a person must approve the run.
    """
    answers = [how_much(estimate), how_long(job, estimate, verdict.left, now), verdict.sentence]
    if not verdict.fits and verdict.left and estimate.is_worst_case and job.budget.when_short == "refuse":
        answers.append(_about_pilot(job))
    if asks_approval(job, verdict):
        answers.append(must_approve(job, verdict))
    return [sentence for sentence in answers if sentence is not None]


def step_of_estimate(job: Job, estimate: Estimate, verdict: Verdict) -> str:
    """Return what to do about an estimate, without a capital and a full stop."""
    if not verdict.left:
        return "nothing: no row is left to send"
    if not verdict.fits and job.budget.when_short == "refuse":
        if estimate.is_worst_case and job.budget.pilot == "auto":
            return "nothing yet: a run completes a pilot first, and decides on what it learns"
        needed = format_round(ask_for(verdict.expected_nano))
        return f"raise the budget to {needed} or more, or make the job smaller; then start it again"
    if asks_approval(job, verdict):
        return "approve the run, or decline it: it waits for a person"
    if not verdict.fits:
        return "nothing: the run completes what fits the budget. To complete all rows, raise the budget"
    return (
        "nothing: the cost fits the budget"
        if job.budget.run_usd or job.budget.monthly_usd
        else ("set `budget.run_usd`, if this cost is too high: no budget is set")
    )


def _about_pilot(job: Job) -> str:
    if job.budget.pilot == "never":
        return "budget.pilot is `never`, so `run` refuses this"
    return "`run` first completes a pilot for at most 1 % of the budget, and decides on what it learns"


def how_much(estimate: Estimate) -> str:
    """Return what the run costs: expected, with a bound, and what to ask for; or only the most, without history."""
    if not estimate.to_send:
        return "nothing is left to send"
    if not estimate.worst_nano:
        return "the price of this model is $0"
    if estimate.moved_p90_nano is not None and not estimate.is_worst_case:
        return _how_much_if_moved(estimate, estimate.moved_p90_nano)
    expected, p90, worst = format_column([estimate.expected_nano, estimate.p90_nano, estimate.most_nano])
    if estimate.is_worst_case:
        return f"at most {worst}; for an expected cost run `parquill estimate JOB --pilot 100`"
    ask = format_round(ask_for(estimate.p90_nano))
    return f"expected {expected}, nine in ten below {p90}, at most {worst}: ask for {ask}"


def _how_much_if_moved(estimate: Estimate, moved_p90_nano: int) -> str:
    cheap, moved, most = format_column([estimate.expected_nano, estimate.moved_expected_nano or 0, estimate.most_nano])
    ask = format_round(ask_for(moved_p90_nano))
    return (
        f"expected {cheap} if all rows stay in the {estimate.lane} lane, {moved} if all move to the live lane, at most "
        f"{most}: ask for {ask}"
    )


def ask_for(nano: int) -> int:
    """Round an amount up to two significant digits and to whole cents: a sum that a person can ask for."""
    unit = max(CENT_NANO, 10 ** (len(str(nano)) - 2)) if nano else CENT_NANO
    return max(1, -(-nano // unit)) * unit


def format_round(nano: int) -> str:
    """Format an amount without cents if it has none."""
    return f"${nano // NANO_PER_USD:,}" if nano % NANO_PER_USD == 0 else f"${nano_to_usd(nano):,.2f}"


def how_long(job: Job, estimate: Estimate, left: int, now: datetime) -> str | None:
    """Return how long the `left` rows take at least, and when they are done if they start now; None if unknown.

    For batches, return how long they take at most.
    """
    if job.finish_by is not None and left:
        return _in_time(job, job.finish_by, estimate, left, now)
    if estimate.lane == "batch" and left:
        return _how_long_in_batches(job, estimate, left)
    found = least_duration(job, estimate, left)
    if found is None:
        return None
    message = f"at least {format_duration(found.seconds)} {found.reason}"
    if found.seconds < SHORT_S:
        return message
    return f"{message}; done about {_moment(now, now + timedelta(seconds=found.seconds), job.zone)}"


def _moment(now: datetime, then: datetime, zone: ZoneInfo) -> str:
    start, end = now.astimezone(zone), then.astimezone(zone)
    day = "" if end.date() == start.date() else f" on {end:%A}, {end:%B} {end.day}"
    return f"{end:%H:%M %Z}{day}"


def _in_time(job: Job, finish_by: str, estimate: Estimate, left: int, now: datetime) -> str:
    """Return until when the run is done by its `finish_by`, or that this cannot be."""
    end = finish_time(finish_by, now, job.zone)
    found = least_duration(job, replace(estimate, lane="live"), left)
    message = f"done by {_moment(now, end, job.zone)} (finish_by)"
    if found is None:
        return f"{message}: rows leave the {estimate.lane} lane for the live lane in time"
    live = f"the live lane alone takes at least {format_duration(found.seconds)} {found.reason}"
    if now + timedelta(seconds=found.seconds) > end:
        return f"not {message}: {live}"
    return f"{message}: rows leave the {estimate.lane} lane for the live lane in time; {live}"


def _how_long_in_batches(job: Job, estimate: Estimate, left: int) -> str:
    quota = job.limits.batch_tokens
    tokens = estimate.prompt_tokens * left // max(1, estimate.to_send)
    days = 1 if quota is None else max(1, -(-tokens // quota))
    if days == 1:
        return "within 24 hours, which the service has for a batch"
    return f"within {days:,} days: limits.batch_tokens lets so many batches wait one after another"


def format_duration(seconds: float) -> str:
    """Return a time as a person reads it: 40 s, 12 min, 3 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < SHORT_S:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours:,} h {rest} min" if rest else f"{hours:,} h"


def must_approve(job: Job, verdict: Verdict) -> str:
    """Return that the run waits for a person, with both numbers."""
    return f"a person must approve: {approval_sentence(job, verdict)}"


def estimate_pairs(estimate: Estimate, completed: int = 0) -> dict[str, str]:
    """Return the table of an estimate, name -> value; `completed` of its rows already have an outcome.

    Without earlier answers nothing is expected, so only the most is shown.
    """
    done = f" ({completed:,} are completed)" if completed else ""
    pairs = {
        "rows": f"{estimate.rows:,}",
        "rows to send": f"{estimate.to_send - completed:,}{done}",
        "prompt tokens": f"{estimate.prompt_tokens:,}",
    }
    if estimate.is_worst_case:
        pairs["completion tokens, at most"] = f"{estimate.completion_tokens_expected:,}"
        pairs["cost, worst case"] = format_usd(estimate.worst_nano)
        return pairs
    low, high = estimate.low_nano, estimate.high_nano
    amounts = [estimate.expected_nano, estimate.p90_nano, estimate.worst_nano, low or 0, high or 0]
    expected, p90, worst, *interval = format_column(amounts)
    pairs |= {
        "completion tokens, expected": f"{estimate.completion_tokens_expected:,}",
        "cost, expected": expected,
    }
    if low is not None and high is not None:
        pairs["cost, 90 % interval"] = " to ".join(interval)
    return pairs | {"cost, p90": p90, "cost, worst case": worst}
