"""Any order of what runs do to a ledger, held against books that are kept in plain Python."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from parquill.tasks.money.ledger import Booked, Entry, Ledger
from parquill.tasks.money.ledger_tables import DAYS, LEASES, RUNS

BEGIN = datetime(2026, 11, 28, 20, tzinfo=UTC)
RUN_LIMITS: dict[str, int | None] = {"fr": 1_000, "de": 700, "ja": None}
JOBS = {"fr": "day", "de": "night", "ja": "night"}
MONTH_LIMIT = 1_500
MONTHS = [f"{2026 + number // 12}-{number % 12 + 1:02d}" for number in range(10, 40)]
SEATS = [(run, seat) for run in RUN_LIMITS for seat in range(3)]

some_run = st.sampled_from(sorted(RUN_LIMITS))
some_seat = st.sampled_from(SEATS)
share = st.integers(0, 4).map(lambda quarters: quarters / 4)


def entry(run: str, job: str = "job") -> Entry:
    return Entry(run, job, "a-model", "an-endpoint", {}, "out", "state", "host", 0, BEGIN)


def empty(ledger: Ledger) -> None:
    """Forget all runs."""
    with ledger.transaction() as connection:
        for table in (RUNS, DAYS, LEASES):
            connection.execute(table.delete())


@dataclass
class Books:
    """What must be in the ledger: nano-dollars by (run, month), and a lease by (run, holder, month)."""

    settled: Counter[tuple[str, str]] = field(default_factory=Counter)
    in_doubt: Counter[tuple[str, str]] = field(default_factory=Counter)
    leases: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def booked(self, *, run: str | None = None, month: str | None = None) -> Booked:
        def mine(key: tuple[str, str]) -> bool:
            return (run is None or key[0] == run) and (month is None or key[1] == month)

        leases = [((owner, of), amount) for (owner, _, of), amount in self.leases.items()]
        return Booked(
            sum(amount for key, amount in self.settled.items() if mine(key)),
            sum(amount for key, amount in self.in_doubt.items() if mine(key)),
            sum(max(0, amount) for key, amount in leases if mine(key)),
        )


class LedgerMachine(RuleBasedStateMachine):
    """Three runs of two jobs, each with up to three holders alive and any number that died."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        empty(ledger)
        self.now = BEGIN
        self.books = Books()
        self.truth = dict.fromkeys(RUN_LIMITS, (0, 0))  # what the journals say: settled and in doubt
        self.lives: Counter[tuple[str, int]] = Counter()  # whoever takes a dead holder's seat has another name
        self.over: Counter[str] = Counter()  # deliberate overshoots, of a run and of a month
        self.resolved: set[str] = set()
        self.dead: set[tuple[str, str, str]] = set()

    @property
    def month(self) -> str:
        return f"{self.now:%Y-%m}"

    def holder(self, seat: tuple[str, int]) -> str:
        return f"host:{seat[1]}:{self.lives[seat]}"

    def lease_of(self, seat: tuple[str, int]) -> int:
        return sum(self.books.leases.get(key, 0) for key in self.keys(seat))

    def keys(self, seat: tuple[str, int]) -> list[tuple[str, str, str]]:
        """The leases of a seat, the earliest month first."""
        return sorted(key for key in self.books.leases if key[:2] == (seat[0], self.holder(seat)))

    @initialize(hours=st.integers(0, 60))
    def begin(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        for run, job in JOBS.items():
            self.ledger.open_run(entry(run, job), 0, 0, self.now)

    @rule(hours=st.integers(1, 40))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        for run, holder, month in list(self.books.leases):  # nobody renewed what was leased hours ago
            self.dead.add((run, holder, month))

    def bury(self) -> None:
        """What the dead had leased is in doubt, in the month of the lease, as soon as somebody asks for money."""
        for run, holder, month in [key for key in self.books.leases if key in self.dead]:
            amount = max(0, self.books.leases.pop((run, holder, month)))
            self.books.in_doubt[run, month] += amount
        self.dead.clear()

    @rule(seat=some_seat, want=st.integers(1, 600), least=share, east=st.integers(-12, 14))
    def lease(self, seat: tuple[str, int], want: int, least: float, east: int) -> None:
        self.bury()
        run, holder = seat[0], self.holder(seat)
        at_least = max(1, int(want * least))
        mine, everybody = self.books.booked(run=run).total, self.books.booked(month=self.month).total
        limit = RUN_LIMITS[run]
        room = min(want, MONTH_LIMIT - everybody, want if limit is None else limit - mine)
        got = self.ledger.lease(
            run,
            holder,
            want=want,
            least=at_least,
            run_limit=limit,
            month_limit=MONTH_LIMIT,
            now=self.now.astimezone(timezone(timedelta(hours=east))),  # months are UTC wherever it is asked
        )
        assert got == (room if room >= at_least else 0)
        if got:
            key = (run, holder, self.month)
            self.books.leases[key] = self.books.leases.get(key, 0) + got
            self.dead.discard(key)

    @rule(seat=some_seat, paid=share, unsure=share)
    def spend(self, seat: tuple[str, int], paid: float, unsure: float) -> None:
        """Report a part of a lease as settled, and a part of the rest as in doubt."""
        amount = max(0, self.lease_of(seat))
        settled = int(amount * paid)
        self.report(seat, settled, int((amount - settled) * unsure))

    @rule(seat=some_seat, extra=st.integers(1, 80))
    def overshoot(self, seat: tuple[str, int], extra: int) -> None:
        """The service bills more than was reserved."""
        amount = self.lease_of(seat)
        if amount > 0:
            self.report(seat, amount + extra, 0)
            for place in (seat[0], *MONTHS):
                self.over[place] += extra

    def report(self, seat: tuple[str, int], settled: int, in_doubt: int, unused: int = 0) -> None:
        """What is spent is taken from the earliest month's lease first, and booked in its month."""
        run = seat[0]
        self.ledger.report(run, self.holder(seat), settled=settled, in_doubt=in_doubt, now=self.now, unused=unused)
        self.truth[run] = (self.truth[run][0] + settled, self.truth[run][1] + in_doubt)
        keys = self.keys(seat)
        if not keys:
            self._add(run, settled, in_doubt)
        for key in keys:
            self.dead.discard(key)
            last, amount = key == keys[-1], self.books.leases[key]
            paid = settled if last else min(settled, max(0, amount))
            doubt = in_doubt if last else min(in_doubt, max(0, amount - paid))
            back = max(0, min(unused, amount - paid - doubt))
            settled, in_doubt, unused = settled - paid, in_doubt - doubt, unused - back
            self.books.leases[key] = amount - paid - doubt - back
            if not self.books.leases[key] and not last:
                del self.books.leases[key]
            self.books.settled[run, key[2]] += paid
            self.books.in_doubt[run, key[2]] += doubt

    @rule(seat=some_seat, part=share)
    def trim(self, seat: tuple[str, int], part: float) -> None:
        """Give back what is not used of a lease, and keep it."""
        self.report(seat, 0, 0, int(max(0, self.lease_of(seat)) * part))

    def _add(self, run: str, settled: int, in_doubt: int) -> None:
        self.books.settled[run, self.month] += settled
        self.books.in_doubt[run, self.month] += in_doubt

    @rule(seat=some_seat)
    def give_back(self, seat: tuple[str, int]) -> None:
        self.ledger.give_back(seat[0], self.holder(seat))
        for key in self.keys(seat):
            del self.books.leases[key]

    @rule(seat=some_seat)
    def die(self, seat: tuple[str, int]) -> None:
        """Killed: nobody gives its lease back, and nobody knows what it had spent of it."""
        self.lives[seat] += 1

    @rule(run=some_run, paid=share, unsure=share, lost=share)
    def go_on(self, run: str, paid: float, unsure: float, lost: float) -> None:
        """Started again after all its processes died: the journals tell what they had spent and not reported."""
        if not self.may_go_on(run):
            return
        settled, in_doubt = self.truth[run]
        for key in [key for key in self.books.leases if key[0] == run]:
            amount = max(0, self.books.leases.pop(key))
            settled += int(amount * paid)
            in_doubt += int((amount - int(amount * paid)) * unsure)
        # an answer that was reported and whose record was cut off with the journal's last group is in doubt now
        cut = int(min(settled, self.books.settled[run, self.month]) * lost)
        self.truth[run] = (settled, in_doubt) = (settled - cut, in_doubt + cut)
        for number in range(3):
            self.lives[run, number] += 1
        self.ledger.open_run(entry(run, JOBS[run]), settled, in_doubt, self.now)
        self.adopt(run)

    def adopt(self, run: str) -> None:
        """How a run's money lies in the months is the ledger's to say; how much it is was said by the journals."""
        with self.ledger.transaction() as connection:
            rows = connection.execute(sa.select(DAYS).where(DAYS.c.run_id == run)).all()
        assert all(row.settled_nano >= 0 and row.in_doubt_nano >= 0 for row in rows)
        assert (sum(row.settled_nano for row in rows), sum(row.in_doubt_nano for row in rows)) == self.truth[run]
        for key in [key for key in (*self.books.settled, *self.books.in_doubt) if key[0] == run]:
            self.books.settled[key] = self.books.in_doubt[key] = 0
        for row in rows:
            self.books.settled[run, row.day[:7]] += row.settled_nano
            self.books.in_doubt[run, row.day[:7]] += row.in_doubt_nano

    def may_go_on(self, run: str) -> bool:
        """Whether a run may go on: what was in doubt is resolved for runs that will not."""
        return run not in self.resolved

    @rule(job=st.sampled_from(["day", "night", None]), is_paid=st.booleans(), before=st.booleans())
    def resolve(self, job: str | None, is_paid: bool, before: bool) -> None:  # noqa: FBT001 - drawn
        """A person settles what is in doubt, in this month or in the one before."""
        self.bury()
        month = f"{self.now.replace(day=1) - timedelta(days=1):%Y-%m}" if before else self.month
        runs = [run for run in RUN_LIMITS if job in {None, JOBS[run]}]
        found = {run: self.books.in_doubt.pop((run, month), 0) for run in runs}
        assert self.ledger.resolve(month, job, paid=is_paid, now=self.now) == sum(found.values())
        self.resolved |= {run for run, amount in found.items() if amount}
        if is_paid:
            self.books.settled.update({(run, month): amount for run, amount in found.items()})

    @invariant()
    def no_limit_is_passed(self) -> None:
        """Settled, in doubt and leased never exceed a limit by more than what a service overshot."""
        for run, limit in RUN_LIMITS.items():
            assert limit is None or self.ledger.of_run(run).total <= limit + self.over[run]
        for month in {self.month} | {month for _, month in self.books.settled}:
            assert self.ledger.of_month(month).total <= MONTH_LIMIT + self.over[month]

    @invariant()
    def every_row_is_right(self) -> None:
        """The tables hold what really happened, to the last nano-dollar."""
        with self.ledger.transaction() as connection:
            days = connection.execute(sa.select(DAYS)).all()
            leases = connection.execute(sa.select(LEASES)).all()
        settled: Counter[tuple[str, str]] = Counter()
        in_doubt: Counter[tuple[str, str]] = Counter()
        for run, day, paid, unsure in days:
            settled[run, day[:7]] += paid
            in_doubt[run, day[:7]] += unsure
        assert settled == self.books.settled  # a Counter's equality takes what is missing as 0
        assert in_doubt == self.books.in_doubt
        assert {(row.run_id, row.holder, row.month): row.amount_nano for row in leases} == self.books.leases

    def teardown(self) -> None:
        for run in RUN_LIMITS:
            assert self.ledger.of_run(run) == self.books.booked(run=run)
        for month in MONTHS:
            booked = self.ledger.of_month(month)
            assert booked == self.books.booked(month=month)
            rows = self.ledger.days(month)
            assert sum(row["settled_nano"] for row in rows) == booked.settled
            assert sum(row["in_doubt_nano"] for row in rows) == booked.in_doubt
