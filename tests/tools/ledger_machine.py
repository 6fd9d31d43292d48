"""Any order of operations on a ledger, compared with books that are kept in plain Python."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from parquill.tasks.errors import RunTakenOver
from parquill.tasks.money.ledger import Ledger, RunEntry
from parquill.tasks.money.ledger_accounts import Balance, LeaseReport, Spending
from parquill.tasks.money.ledger_tables import DAYS, HOLDERS, LEASES, RESOLUTIONS, RUNS, USES

BEGIN = datetime(2026, 11, 28, 20, tzinfo=UTC)
RUN_LIMITS: dict[str, int | None] = {"fr": 1_000, "de": 700, "ja": None}
JOBS = {"fr": "day", "de": "night", "ja": "night"}
MONTH_LIMIT = 1_500
MONTHS = [f"{2026 + number // 12}-{number % 12 + 1:02d}" for number in range(10, 40)]
SEATS = [(run, seat) for run in RUN_LIMITS for seat in range(3)]

some_run = st.sampled_from(sorted(RUN_LIMITS))
some_seat = st.sampled_from(SEATS)
share = st.integers(0, 4).map(lambda quarters: quarters / 4)
Seat = tuple[str, int]


def entry(run: str, job: str = "job", **labels: str) -> RunEntry:
    return RunEntry(run, job, "a-model", "an-endpoint", labels, "out", "state", "host", 0, BEGIN)


def empty(ledger: Ledger) -> None:
    """Delete all runs."""
    with ledger.transaction() as connection:
        for table in (RUNS, DAYS, USES, LEASES, HOLDERS, RESOLUTIONS):
            connection.execute(table.delete())


@dataclass
class Holder:
    """A process with its own figures, and when it last reached the ledger (None: never)."""

    name: str
    settled: int = 0  # of leases, like the next two
    in_doubt: int = 0
    submitted: int = 0
    collected: tuple[int, int, int] = (0, 0, 0)  # of what was submitted: settled, in doubt, released
    left: int = 0
    reported_at: datetime | None = None

    @property
    def held(self) -> LeaseReport:
        settled, in_doubt, _ = self.collected
        spent = Spending(self.settled + settled, self.in_doubt + in_doubt, self.submitted, *self.collected)
        return LeaseReport(spent, self.left, is_new=self.reported_at is None)


@dataclass
class Books:
    """The expected content of the ledger: nano-dollars by (run, month), and a lease by (run, holder, month)."""

    settled: Counter[tuple[str, str]] = field(default_factory=Counter)
    in_doubt: Counter[tuple[str, str]] = field(default_factory=Counter)
    submitted: Counter[tuple[str, str]] = field(default_factory=Counter)
    leases: dict[tuple[str, str, str], int] = field(default_factory=dict)
    reported: dict[tuple[str, str], Holder] = field(default_factory=dict)  # as they were at their last report

    def is_dead(self, run: str, holder: str, now: datetime) -> bool:
        reported_at = self.reported[run, holder].reported_at
        return reported_at is not None and reported_at < now - timedelta(minutes=15)

    def booked(self, now: datetime, *, run: str | None = None, month: str | None = None) -> Balance:
        def mine(key: tuple[str, str]) -> bool:
            return (run is None or key[0] == run) and (month is None or key[1] == month)

        leases: Counter[bool] = Counter()
        for (owner, holder, of), amount in self.leases.items():
            if mine((owner, of)):
                leases[self.is_dead(owner, holder, now)] += amount
        return Balance(
            sum(amount for key, amount in self.settled.items() if mine(key)),
            sum(amount for key, amount in self.in_doubt.items() if mine(key)) + leases[True],
            sum(amount for key, amount in self.submitted.items() if mine(key)),
            leases[False],
        )

    def keys(self, run: str, holder: str) -> list[tuple[str, str, str]]:
        """Return the leases of a holder, the earliest month first."""
        return sorted(key for key in self.leases if key[:2] == (run, holder))

    def report(self, run: str, holder: Holder, now: datetime) -> int:
        """Take spending from the earliest month's lease first, and give back unused money from the latest.

        What was collected is booked where it was submitted, the earliest month first.
        """
        before = self.reported.get((run, holder.name), Holder(holder.name))
        holder.reported_at = now
        self.reported[run, holder.name] = replace(holder)
        settled, in_doubt = holder.settled - before.settled, holder.in_doubt - before.in_doubt
        submitted = holder.submitted - before.submitted
        keys, month = self.keys(run, holder.name), f"{now:%Y-%m}"
        for key in keys:
            month, amount = key[2], self.leases[key]
            paid = min(settled, amount)
            doubt = min(in_doubt, amount - paid)
            handed = min(submitted, amount - paid - doubt)
            settled, in_doubt, submitted = settled - paid, in_doubt - doubt, submitted - handed
            self.leases[key] = amount - paid - doubt - handed
            self.settled[run, month] += paid
            self.in_doubt[run, month] += doubt
            self.submitted[run, month] += handed
        self.settled[run, month] += settled
        self.in_doubt[run, month] += in_doubt
        self.submitted[run, month] += submitted
        paid, doubt, freed = (new - old for new, old in zip(holder.collected, before.collected, strict=True))
        for where in sorted(key for key in self.submitted if key[0] == run):
            amount = min(self.submitted[where], paid + doubt + freed)
            self.submitted[where] -= amount
            for_paid = min(paid, amount)
            for_doubt = min(doubt, amount - for_paid)
            self.settled[where] += for_paid
            self.in_doubt[where] += for_doubt
            paid, doubt, freed = paid - for_paid, doubt - for_doubt, freed - (amount - for_paid - for_doubt)
        assert (paid, doubt, freed) == (0, 0, 0), "the ledger has all that was collected as submitted"
        surplus = sum(self.leases[key] for key in keys) - max(0, holder.left)
        for key in reversed(keys):
            back = min(self.leases[key], max(0, surplus))
            self.leases[key] -= back
            surplus -= back
            if not self.leases[key]:
                del self.leases[key]
        return sum(self.leases.get(key, 0) for key in keys)


class LedgerMachine(RuleBasedStateMachine):
    """Three runs of two jobs, with three holders each, which work, sleep, die, lose replies and wait for batches."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        empty(ledger)
        self.now = BEGIN
        self.books = Books()
        self.truth = dict.fromkeys(RUN_LIMITS, (0, 0, 0))  # settled, in doubt and submitted by the journals
        self.names = 0
        self.holders = {seat: self.new_holder() for seat in SEATS}
        self.shut_out: list[tuple[str, Holder]] = []
        self.over: Counter[str] = Counter()  # deliberate overshoots, of a run and of all months
        self.resolved: set[str] = set()  # runs whose processes may not know of it
        self.answers: dict[str, list[tuple[bool, int]]] = {run: [] for run in RUN_LIMITS}  # is it paid, how much

    def new_holder(self) -> Holder:
        self.names += 1
        return Holder(f"host:{self.names}")

    @property
    def month(self) -> str:
        return f"{self.now:%Y-%m}"

    @initialize(hours=st.integers(0, 60))
    def begin(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        for run, job in JOBS.items():
            self.ledger.open_run(entry(run, job), 0, 0, 0, self.now)

    @rule(hours=st.sampled_from([0.1, 0.2, 1, 5, 40]))
    def time_passes(self, hours: float) -> None:
        """A holder that is silent for long counts as dead, and may wake up again."""
        self.now += timedelta(hours=hours)

    @rule(seat=some_seat, want=st.integers(1, 600), least=share, east=st.integers(-12, 14), is_heard=st.integers(0, 4))
    def lease(self, seat: Seat, want: int, least: float, east: int, is_heard: int) -> None:
        """Ask for money; one answer in five is lost, with the connection."""
        run, holder = seat[0], self.holders[seat]
        at_least = max(1, int(want * least))
        got = self.ledger.lease(
            run,
            holder.name,
            holder.held,
            want_nano=want,
            least_nano=at_least,
            run_limit_nano=RUN_LIMITS[run],
            month_limit_nano=MONTH_LIMIT,
            now=self.now.astimezone(timezone(timedelta(hours=east))),  # months are UTC in any time zone
        )
        known = self.books.report(run, holder, self.now) - holder.left
        own_total, month_total = (
            self.books.booked(self.now, **scope).total_nano for scope in ({"run": run}, {"month": self.month})
        )
        limit = RUN_LIMITS[run]
        room = min(want - known, MONTH_LIMIT - month_total, want - known if limit is None else limit - own_total)
        fits = room >= at_least - known and room > 0
        assert got == (room + known if fits else min(0, known))
        if fits:
            key = (run, holder.name, self.month)
            self.books.leases[key] = self.books.leases.get(key, 0) + room
        if is_heard:
            holder.left += got

    @rule(seat=some_seat, paid=share, unsure=share, times=st.integers(1, 2))
    def spend(self, seat: Seat, paid: float, unsure: float, times: int) -> None:
        """Report a part of a lease as settled and a part of the rest as in doubt, twice if the first reply was lost."""
        amount = max(0, self.holders[seat].left)
        settled = int(amount * paid)
        self.report(seat, settled, int((amount - settled) * unsure), times=times)

    @rule(seat=some_seat, extra=st.integers(1, 80))
    def overshoot(self, seat: Seat, extra: int) -> None:
        """The service bills more than was reserved."""
        amount = self.holders[seat].left
        if amount > 0:
            for scope in (seat[0], "months"):
                self.over[scope] += extra
            self.report(seat, amount + extra, 0)

    @rule(seat=some_seat, part=share)
    def give_back_unused(self, seat: Seat, part: float) -> None:
        """Give back a part of the unused lease, or all of it."""
        holder = self.holders[seat]
        holder.left -= int(max(0, holder.left) * part)
        self.report(seat, 0, 0)

    @rule(seat=some_seat, part=share, times=st.integers(1, 2))
    def submit(self, seat: Seat, part: float, times: int) -> None:
        """Hand a part of a lease to the service: no holder needs to live until it is collected."""
        self.report(seat, 0, 0, int(max(0, self.holders[seat].left) * part), times=times)

    @rule(
        seat=some_seat,
        part=share,
        paid=share,
        unsure=share,
        extra=st.sampled_from([0, 0, 0, 30]),
        live=share,
        times=st.integers(1, 2),
    )
    def collect(self, seat: Seat, part: float, paid: float, unsure: float, extra: int, live: float, times: int) -> None:
        """Collect a part of what this or another process of the run has submitted, perhaps months ago.

        The service may bill more than was reserved. With `live`, other money is spent and submitted before the report.
        """
        run, holder = seat[0], self.holders[seat]
        amount = int(self.truth[run][2] * part)
        settled = int(amount * paid)
        in_doubt = int((amount - settled) * unsure)
        collected = (settled, in_doubt, amount - settled - in_doubt)
        holder.collected = tuple(map(sum, zip(holder.collected, collected, strict=True)))  # type: ignore[assignment]
        truth = self.truth[run]
        self.truth[run] = (truth[0] + settled, truth[1] + in_doubt, truth[2] - amount)
        other = int(max(0, holder.left) * live / 2)
        if extra:
            for scope in (run, "months"):
                self.over[scope] += extra
        self.report(seat, other + extra, 0, other, times=times)

    def report(self, seat: Seat, settled: int, in_doubt: int, submitted: int = 0, *, times: int = 1) -> None:
        run, holder = seat[0], self.holders[seat]
        holder.settled, holder.in_doubt = holder.settled + settled, holder.in_doubt + in_doubt
        holder.submitted += submitted
        holder.left -= settled + in_doubt + submitted
        truth = self.truth[run]
        self.truth[run] = (truth[0] + settled, truth[1] + in_doubt, truth[2] + submitted)
        for _ in range(times):
            lost = self.ledger.report(run, holder.name, holder.held, self.now)
        assert lost == max(0, holder.left - self.books.report(run, holder, self.now))
        holder.left -= lost

    @rule(seat=some_seat)
    def die(self, seat: Seat) -> None:
        """Kill a process: its lease is not given back, and what it had spent of it is unknown."""
        self.holders[seat] = self.new_holder()

    @rule(run=some_run, paid=share, unsure=share, handed=share, collected=share, lost=share, again=st.booleans())
    def go_on(
        self, run: str, paid: float, unsure: float, handed: float, collected: float, lost: float, *, again: bool
    ) -> None:
        """Start the run again after all its processes died.

        The journals hold what was spent, submitted and collected and not reported.
        """
        settled, in_doubt, submitted = self.truth[run]
        # an answer that was reported and whose record was cut off with the journal's last group is in doubt now, or its
        # request waits at the service again
        by_hand = sum(amount for is_paid, amount in self.answers[run] if is_paid)
        cut = int(min(settled, max(0, self.books.settled[run, self.month] - by_hand)) * lost)
        freed = 0 if cut and again else int(submitted * collected)
        settled, submitted = settled + int(freed * paid), submitted - freed
        for key in [key for key in self.books.leases if key[0] == run]:
            amount = self.books.leases.pop(key)
            settled += int(amount * paid)
            amount -= int(amount * paid)
            in_doubt += int(amount * unsure)
            submitted += int((amount - int(amount * unsure)) * handed)
        settled, in_doubt, submitted = settled - cut, in_doubt + cut * (not again), submitted + cut * again
        self.truth[run] = (settled, in_doubt, submitted)
        for holder in [holder for holder in self.books.reported if holder[0] == run]:
            del self.books.reported[holder]
        for seat in [seat for seat in SEATS if seat[0] == run]:
            if self.holders[seat].reported_at is not None:
                self.shut_out.append((run, self.holders[seat]))
            self.holders[seat] = self.new_holder()
        expected = self.expected(run)
        assert self.ledger.spent(run, *self.truth[run]) == expected
        assert self.ledger.open_run(entry(run, JOBS[run]), *self.truth[run], self.now) == expected
        self.resolved.discard(run)
        self.adopt(run, expected)

    def expected(self, run: str) -> tuple[int, int, int]:
        """Return what the journals say, less what a person has resolved; of a dead lease only what was in doubt."""
        settled, in_doubt, submitted = self.truth[run]
        answers, self.answers[run] = self.answers[run], []
        for is_paid, amount in answers:
            taken = min(amount, in_doubt)
            in_doubt -= taken
            settled += taken if is_paid else 0
            self.answers[run].append((is_paid, taken))
        return settled, in_doubt, submitted

    def adopt(self, run: str, expected: tuple[int, int, int]) -> None:
        """Take the split by months from the ledger, and check its sum against the journals and the person's answers."""
        with self.ledger.transaction() as connection:
            rows = connection.execute(sa.select(DAYS).where(DAYS.c.run_id == run)).all()
        assert all(min(row.settled_nano, row.in_doubt_nano, row.submitted_nano) >= 0 for row in rows)
        kinds = {"settled": self.books.settled, "in_doubt": self.books.in_doubt, "submitted": self.books.submitted}
        assert tuple(sum(getattr(row, f"{kind}_nano") for row in rows) for kind in kinds) == expected
        for kind, books in kinds.items():
            for key in [key for key in books if key[0] == run]:
                books[key] = 0
            for row in rows:
                books[run, row.day[:7]] += getattr(row, f"{kind}_nano")

    @rule()
    def one_who_was_shut_out_speaks(self) -> None:
        """A process whose run another process has opened again gets RunTakenOver, and changes nothing."""
        for run, holder in self.shut_out:
            with pytest.raises(RunTakenOver):
                self.ledger.report(run, holder.name, holder.held, self.now)

    @rule(job=st.sampled_from(["day", "night", None]), is_paid=st.booleans(), before=st.booleans())
    def resolve(self, job: str | None, is_paid: bool, before: bool) -> None:  # noqa: FBT001 - a drawn value
        """A person settles what is in doubt, in this month or the one before; a sleeping holder loses its lease."""
        month = f"{self.now.replace(day=1) - timedelta(days=1):%Y-%m}" if before else self.month
        runs = [run for run in RUN_LIMITS if job in {None, JOBS[run]}]
        for key in [key for key in self.books.leases if key[0] in runs and key[2] == month]:
            if self.books.is_dead(*key[:2], self.now):
                amount = self.books.leases.pop(key)
                self.books.in_doubt[key[0], month] += amount
                for scope in (key[0], "months"):  # a sleeping holder may still spend it
                    self.over[scope] += amount
        found = {run: self.books.in_doubt.pop((run, month), 0) for run in runs}
        assert self.ledger.resolve(month, job, paid=is_paid, now=self.now) == sum(found.values())
        for run, amount in found.items():
            self.answers[run].append((is_paid, amount))
        self.resolved |= {run for run, amount in found.items() if amount}
        if is_paid:
            self.books.settled.update({(run, month): amount for run, amount in found.items()})

    @invariant()
    def no_limit_is_passed(self) -> None:
        """Settled, in doubt, submitted and leased exceed a limit at most by what a service overshot."""
        for run, limit in RUN_LIMITS.items():
            assert limit is None or self.ledger.of_run(run, self.now).total_nano <= limit + self.over[run]
        for month in {self.month} | {month for _, month in self.books.settled}:
            assert self.ledger.of_month(month, self.now).total_nano <= MONTH_LIMIT + self.over["months"]

    @invariant()
    def no_process_has_more_than_the_ledger_knows(self) -> None:
        """What the processes may still spend is booked as leased."""
        for (run, _), holder in self.holders.items():
            if run not in self.resolved:
                assert holder.left <= sum(self.books.leases[key] for key in self.books.keys(run, holder.name))

    @invariant()
    def every_row_is_right(self) -> None:
        """The tables hold what really happened, to the last nano-dollar."""
        with self.ledger.transaction() as connection:
            days = connection.execute(sa.select(DAYS)).all()
            leases = connection.execute(sa.select(LEASES)).all()
        settled: Counter[tuple[str, str]] = Counter()
        in_doubt: Counter[tuple[str, str]] = Counter()
        submitted: Counter[tuple[str, str]] = Counter()
        for run, day, paid, unsure, waiting in days:
            settled[run, day[:7]] += paid
            in_doubt[run, day[:7]] += unsure
            submitted[run, day[:7]] += waiting
        assert settled == self.books.settled  # a comparison of Counters takes a missing key as 0
        assert in_doubt == self.books.in_doubt
        assert submitted == self.books.submitted
        assert {(row.run_id, row.holder, row.month): row.amount_nano for row in leases} == self.books.leases

    def teardown(self) -> None:
        for run in RUN_LIMITS:
            assert self.ledger.of_run(run, self.now) == self.books.booked(self.now, run=run)
            for month in MONTHS[:3]:
                booked = self.books.booked(self.now, run=run, month=month)
                assert self.ledger.of_run(run, self.now, month) == booked
        for month in MONTHS:
            booked = self.ledger.of_month(month, self.now)
            assert booked == self.books.booked(self.now, month=month)
            rows = self.ledger.days(month, self.now)
            assert sum(row["settled_nano"] for row in rows) == booked.settled_nano
            assert sum(row["in_doubt_nano"] for row in rows) == booked.in_doubt_nano
            assert sum(row["submitted_nano"] for row in rows) == booked.submitted_nano
