"""A pilot: completes some rows of a run first, chosen to show what the others will cost.

A pilot is the beginning of the run: its answers are journalled under the run's id and booked against the run's budget.
The run continues from them, so no row is paid for twice. The pilot's results become the run's estimate, and the history
of the job until a whole run has finished.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import httpx

from parquill.tasks.errors import NotApproved, RefusedByBudget, ServiceStopped, StoppedByBudget
from parquill.tasks.job.lanes import LaneName
from parquill.tasks.limits.lease_client import LogFn
from parquill.tasks.llm.client import aiohttp_transport
from parquill.tasks.llm.open_senders import open_sender
from parquill.tasks.llm.run_sender import RunSender
from parquill.tasks.llm.shard_report import SendResult
from parquill.tasks.money.amounts import format_usd, usd_to_nano
from parquill.tasks.money.estimate import basis_of, describe_basis, price_histogram, with_moved
from parquill.tasks.money.learning import keep_past
from parquill.tasks.money.length_model import MIN_ANSWERS, LengthModel
from parquill.tasks.money.length_stats import History
from parquill.tasks.money.sample import choose
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.prompts.approvals import is_approved
from parquill.tasks.prompts.planned import Located, count_lengths, locate, planned_parts
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import Standing, read_standing
from parquill.tasks.records import Estimate, ShardRef, Totals

FIRST_AUTO_ROWS, MAX_AUTO_ROWS = 30, 10_000  # rows
TARGET_ERROR = 0.05  # of the expected cost, to either side: the interval that `auto` aims for
PARTS_OF_BUDGET = 100  # `auto` may spend one part
SHARDS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Pilot:
    """The rows with an answer, what the run has spent so far, why the pilot ended, the run with its new estimate."""

    rows: int
    totals: Totals
    ended: str
    run: Run
    chosen: tuple[Located, ...] = ()  # the rows that it completed, or found completed
    failed: int = 0  # rows that got no answer
    first_failure: str = ""

    @property
    def sentence(self) -> str:
        """What the pilot did, for people."""
        settled, in_doubt = self.totals.settled_nano, self.totals.in_doubt_nano
        doubt = f", {format_usd(in_doubt)} in doubt" if in_doubt else ""
        paid = f"{self.rows:,} rows were answered for {format_usd(settled)}{doubt}"
        if self.failed:
            paid += f", {self.failed:,} got no answer, the first one: {self.first_failure}"
        return f"pilot: {paid}; {self.ended}. `run` continues from them"


@dataclass(frozen=True, slots=True)
class _Learned:
    """The state of the run: its answers, money and estimate, and the relative width of the interval (a fraction)."""

    history: History
    totals: Totals
    estimate: Estimate
    relative_error: float


def run_pilot(
    run: Run,
    rows: int | None,
    *,
    least: int = 0,
    transport: Callable[[], httpx.AsyncBaseTransport] = aiohttp_transport,
    watch: Callable[[RunSender], AbstractContextManager[Any]] = nullcontext,
    log: LogFn | None = None,
) -> Pilot:
    """Complete `rows` rows of a run; None: as many as ±5 % of the cost requires, within a hundredth of the budget.

    `watch` may stop the sender. The caller holds the run's folders. Before anything is sent, raises RefusedByBudget if
    the worst case of so many rows does not fit, or for None that of the first `least` rows, and NotApproved if it is
    above what may be spent without approval. Raises Interrupted, ServiceStopped or StoppedByBudget if the pilot was cut
    off; another pilot, or the run, then continues.
    """
    lengths: Counter[int] = Counter()
    for _, _, tokens in planned_parts(run):
        lengths.update(count_lengths(tokens))
    start = int.from_bytes(hashlib.sha256(run.run_id.encode()).digest()[:6]) / 2**48
    chosen = locate(run, choose(lengths, MAX_AUTO_ROWS if rows is None else rows, start)) if lengths else []
    counter = TokenCounter(run.job.model, run.job.tokenizer, correction=run.correction)
    standing = read_standing(run)
    picked, auto = _Picked(run, chosen, counter), most_of_auto(run, standing)
    if rows is not None:
        _check(run, picked, standing)
    else:
        # promise: gate: a pilot too small to learn from sends nothing
        _check_least(picked, least, auto, standing.totals)
    # promise: P4 a pilot stays below the amount that needs approval
    _check_approved(run, picked, standing.totals, None if rows is not None else auto)
    # a batch may take a day
    lane: LaneName = "live" if run.lane == "batch" else run.lane
    with open_sender(run, transport, log=log, lane=lane) as run_sender, watch(run_sender):
        if rows is None:
            ended, learned = _until_precise(picked, run_sender, auto)
        else:
            picked.complete(run_sender, rows)
            ended, learned = f"{rows:,} rows were asked for", _learn(run, counter)
    new = replace(run, estimate=learned.estimate)
    new.save()
    keep_past(run.job, run.run_id, learned.history, None)
    failures = picked.failures()
    first = failures[0] if failures else ""
    return Pilot(learned.history.count, learned.totals, ended, new, picked.taken, len(failures), first)


class _Picked:
    """The chosen rows, and which of them are completed."""

    def __init__(self, run: Run, chosen: Sequence[Located], counter: TokenCounter) -> None:
        self.run, self.counter = run, counter
        self._chosen = chosen
        room, price = run.job.max_output_tokens, run.price
        tier = "" if run.lane == "batch" else None  # it sends each request by itself
        self._worst = [price.worst_nano(counter.reserved(row.prompt_tokens), room, tier) for row in chosen]
        self._taken = 0

    @property
    def taken(self) -> tuple[Located, ...]:
        """The rows that were completed, or had been."""
        return tuple(self._chosen[: self._taken])

    @property
    def left(self) -> int:
        """How many chosen rows are not taken yet."""
        return len(self._chosen) - self._taken

    def worst(self, rows: int | None = None) -> int:
        """The most that those of the first `rows` chosen rows, by default of all, can cost that lack an answer."""
        chosen = self._chosen[:rows]
        answered = self._answered(chosen)
        return sum(w for row, w in zip(chosen, self._worst, strict=False) if (row.shard, row.number) not in answered)

    def complete(self, run_sender: RunSender, rows: int, most_nano: int | None = None) -> int:
        """Complete the next rows, as far as their worst cases fit. Returns how many. Raises like run_pilot."""
        taken = self._chosen[self._taken : self._taken + rows]
        answered = self._answered(taken)
        by_shard: dict[ShardRef, set[int]] = defaultdict(set)
        count = 0
        for row, worst in zip(taken, self._worst[self._taken :], strict=False):
            if (row.shard, row.number) not in answered:
                if most_nano is not None:
                    most_nano -= worst
                    if most_nano < 0:
                        break
                by_shard[row.shard].add(row.number)
            count += 1
        self._taken += count
        run_sender.lane.progress.total = max(self._taken, run_sender.lane.progress.done)
        if by_shard:
            with ThreadPoolExecutor(min(SHARDS_AT_ONCE, len(by_shard))) as threads:
                try:
                    reports = list(threads.map(run_sender.complete, by_shard.keys(), by_shard.values()))
                except BaseException:  # the pool waits for its threads, and the threads wait for their rows
                    run_sender.request_stop()
                    raise
            _raise_if_stopped(SendResult.of(list(by_shard), reports))
        return count

    def failures(self) -> list[str]:
        """Return why each row that was taken has no answer."""
        states = {shard: self.run.state(shard.number) for shard in {row.shard for row in self.taken}}
        found = (states[row.shard].outcomes.get(row.number) for row in self.taken)
        return [f"{each.error_code}: {each.error_message}" for each in found if each and each.status == "failed"]

    def _answered(self, rows: Iterable[Located]) -> set[tuple[ShardRef, int]]:
        shards = {row.shard for row in rows}
        return {(shard, number) for shard in shards for number in self.run.state(shard.number).outcomes}


def _check(run: Run, picked: _Picked, standing: Standing) -> None:
    worst, of_month = picked.worst(), standing.month_left_nano
    limits = []
    if run.job.budget.run_usd is not None:
        room = usd_to_nano(run.job.budget.run_usd) - standing.totals.committed_nano
        limits.append((room, f"what is left of the budget ({format_usd(max(0, room))})"))
    if of_month is not None:
        limits.append((of_month, f"what is left of the month ({format_usd(max(0, of_month))})"))
    if limits and worst > min(limits)[0]:
        raise RefusedByBudget(
            f"a pilot of {picked.left:,} rows may cost {format_usd(worst)}, more than {min(limits)[1]}"
        )


def _check_least(picked: _Picked, least: int, auto: MostOfAuto, spent: Totals) -> None:
    """Refuse a pilot that may end before it has learned anything."""
    worst = picked.worst(least)
    if worst > auto.nano - spent.committed_nano:
        rows = min(least, picked.left)
        raise RefusedByBudget(f"a pilot of {rows:,} rows may cost {format_usd(worst)}, more than {auto}")


def _check_approved(run: Run, picked: _Picked, spent: Totals, auto: MostOfAuto | None) -> None:
    """Refuse (NotApproved) a pilot that may bring the run's spending above the limit that needs approval.

    Its worst case counts, since the cost of its answers is not known yet. `auto` bounds a pilot of as many rows as it
    takes.
    """
    limit = run.job.budget.approval_usd
    if limit is None or is_approved(run):
        return
    booked, worst, what = spent.committed_nano, picked.worst(), f"a pilot of {picked.left:,} rows"
    if auto is not None:
        worst, what = min(worst, max(0, auto.nano - booked)), "--pilot auto"
    # promise: P4 all pilots of a run together stay below the amount that needs approval
    if not worst or booked + worst <= usd_to_nano(limit):
        return
    so_far = f" on top of the {format_usd(booked)} that the run has booked" if booked else ""
    message = (
        f"{what} may cost {format_usd(worst)}{so_far}, above budget.approval_usd = {format_usd(usd_to_nano(limit))}"
    )
    raise NotApproved(f"{message}, and the run is not approved; choose fewer rows, or start the run, which asks")


class MostOfAuto(NamedTuple):
    """The most that a run may have booked when `auto` ends, in nano-dollars, and what that is."""

    nano: int
    name: str

    def __str__(self) -> str:
        """Name and amount."""
        return f"{self.name} ({format_usd(self.nano)})"


def most_of_auto(run: Run, standing: Standing) -> MostOfAuto:
    """Return what `auto` may spend: a hundredth of the smaller budget, and no more than the month has left."""
    limits = [usd for usd in (run.job.budget.run_usd, run.job.budget.monthly_usd) if usd is not None]
    whole, name = (usd_to_nano(min(limits)), "the budget") if limits else (run.estimate.worst_nano, "the worst case")
    # promise: M1 a pilot costs at most a hundredth of the budget
    most, of_month = MostOfAuto(whole // PARTS_OF_BUDGET, f"1 % of {name}"), standing.month_left_nano
    if of_month is None:
        return most
    rest = max(0, standing.totals.committed_nano + of_month)
    # promise: M1 a pilot stays within the month's budget
    return min(most, MostOfAuto(rest, "what is left of the month"))


def _until_precise(picked: _Picked, run_sender: RunSender, auto: MostOfAuto) -> tuple[str, _Learned]:
    run, wanted = picked.run, FIRST_AUTO_ROWS
    while True:
        # promise: M1 a pilot counts the money that it has already spent
        taken = picked.complete(
            run_sender, wanted, auto.nano - run_sender.budget.settled_nano - run_sender.budget.in_doubt_nano
        )
        learned = _learn(run, picked.counter)
        if learned.history.count >= MIN_ANSWERS and learned.relative_error <= TARGET_ERROR:
            return f"the cost is known to ±{learned.relative_error:.1%}", learned
        if not taken and picked.left:
            return f"{auto} is used up", learned
        if not picked.left:
            return "a pilot takes no more rows than these", learned
        # the interval shrinks with the square root of the number of answers
        needed = learned.history.count * (min(learned.relative_error, 1.0) / TARGET_ERROR) ** 2 * 1.1
        wanted = max(FIRST_AUTO_ROWS, min(math.ceil(needed) - learned.history.count, 2 * learned.history.count))


def _learn(run: Run, counter: TokenCounter) -> _Learned:
    """Estimate the rest of a run from its own answers."""
    history, rest, totals, output = History(), Counter[int](), Totals(), 0
    lengths: Counter[int] = Counter()
    room = run.job.max_output_tokens
    for shard, numbers, tokens in planned_parts(run):
        state = run.state(shard.number)
        totals.add(state.totals())
        left = count_lengths(tokens)
        lengths.update(left)
        if state.outcomes:
            length = dict(zip(numbers.tolist(), tokens.tolist(), strict=True))
            for number, outcome in state.outcomes.items():
                left[length[number]] -= 1
                if (usage := outcome.lesson) is not None:
                    history.add(length[number], usage, room, outcome.latency_s)
                    output += usage.completion
        rest.update(+left)
    model = LengthModel(history, room) if history.count else None
    figures = price_histogram(rest, room, run.price, counter, model)
    paid = totals.settled_nano
    estimate = replace(
        run.estimate,
        completion_tokens_expected=output + figures.completion_tokens,
        expected_nano=paid + figures.expected,
        p90_nano=paid + figures.p90,
        low_nano=paid + figures.low if model is not None else None,
        high_nano=paid + figures.high if model is not None else None,
        output_shares=model.output_shares(lengths) if model is not None else [],
        basis=basis_of(model),
        basis_note=describe_basis(model, None),
        latency_s=model.latency_s if model is not None else None,
        paid_nano=paid,
        paid_worst_nano=totals.worst_nano,
    )
    estimate = with_moved(estimate, run.job, rest, run.price, counter, model)
    reach = max(figures.high - figures.expected, figures.expected - figures.low)
    return _Learned(history, totals, estimate, reach / max(1, paid + figures.expected) if model is not None else 1.0)


def _raise_if_stopped(ending: SendResult) -> None:
    if ending.rule is not None:
        raise ServiceStopped(f"the pilot stopped: {ending.message}; what was answered is kept")
    if ending.over_budget:
        raise StoppedByBudget("the pilot stopped: the budget is used up; what was answered is kept")
