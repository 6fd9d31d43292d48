"""The books behind the ledger: what is settled, in doubt and submitted each day, and what each holder has leased.

Every function runs in a transaction that its caller has begun, so its first argument is a connection.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from parquill.tasks.errors import RunTakenOver
from parquill.tasks.money.ledger_tables import DAYS, HOLDERS, LEASES

_SETTLED, _IN_DOUBT, _SUBMITTED = range(3)  # the kinds of `Books`
LEASE_EXPIRY_S = 900.0  # no live holder is silent for so long, unless its machine sleeps
HELD = LEASES.join(HOLDERS, sa.and_(HOLDERS.c.run_id == LEASES.c.run_id, HOLDERS.c.holder == LEASES.c.holder))


class Books(NamedTuple):
    """Nano-dollars that are booked for a run or on a day, without what is leased."""

    settled_nano: int
    in_doubt_nano: int
    submitted_nano: int  # reserved for requests that wait at the service


@dataclass(frozen=True, slots=True)
class Balance:
    """Nano-dollars of a run or of a month."""

    settled_nano: int
    in_doubt_nano: int
    submitted_nano: int
    leased_nano: int

    @property
    def total_nano(self) -> int:
        """All that is spent or may be spent."""
        # promise: M8 submitted money counts against the limits of run and month
        return self.settled_nano + self.in_doubt_nano + self.submitted_nano + self.leased_nano

    @property
    def books(self) -> Books:
        """All but what is leased."""
        return Books(self.settled_nano, self.in_doubt_nano, self.submitted_nano)

    def __sub__(self, other: Balance) -> Balance:
        return Balance(
            self.settled_nano - other.settled_nano,
            self.in_doubt_nano - other.in_doubt_nano,
            self.submitted_nano - other.submitted_nano,
            self.leased_nano - other.leased_nano,
        )


class Spending(NamedTuple):
    """What a holder has done with money since its start, in nano-dollars. Each figure is a total and only grows.

    It takes money from two sources: from its leases, and, when it collects a reply, from what was submitted, by itself
    or by an earlier holder. `submitted_nano` is what it has submitted in all, including what was collected since.
    """

    settled_nano: int = 0  # from both sources
    in_doubt_nano: int = 0
    submitted_nano: int = 0
    collected_settled_nano: int = 0  # of what was submitted; what a reply cost beyond that comes from the leases
    collected_in_doubt_nano: int = 0
    collected_released_nano: int = 0

    @property
    def of_leases(self) -> Books:
        """What the holder has taken from its leases."""
        return Books(
            self.settled_nano - self.collected_settled_nano,
            self.in_doubt_nano - self.collected_in_doubt_nano,
            # promise: M8 submitted money is no longer leased, so it neither expires nor is given back
            self.submitted_nano,
        )

    def since(self, earlier: Spending) -> Spending:
        """Return what was added to the totals of an earlier report."""
        return Spending(*map(operator.sub, self, earlier))


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """A holder's own figures, in nano-dollars: what it has done since its start, and what it may still spend.

    `left_nano` is negative after an overshoot. `is_new` is True until the ledger has answered once.
    """

    spent: Spending
    left_nano: int
    is_new: bool = False


def apply_report(connection: sa.Connection, run_id: str, holder: str, held: LeaseReport, now: datetime) -> int:
    """Set the ledger to what a holder reports; returns what it has leased now. Raises RunTakenOver."""
    mine = is_of(HOLDERS, run_id, holder)
    known = connection.execute(sa.select(HOLDERS).where(mine)).first()
    # promise: M1 a process whose run was taken over books nothing more
    if known is None and not held.is_new:
        raise RunTakenOver(f"the run {run_id} was taken over by another process")
    values = {**held.spent._asdict(), "renewed_at": time_of(now)}
    before = Spending()
    if known is None:
        connection.execute(HOLDERS.insert().values(run_id=run_id, holder=holder, **values))
    else:
        connection.execute(HOLDERS.update().where(mine).values(values))
        # promise: M1 a holder's report that is sent twice is booked once
        before = Spending(*(getattr(known, name) for name in Spending._fields))
    change = held.spent.since(before)
    # promise: M1 money that was leased in a month is booked in that month
    leases = connection.execute(sa.select(LEASES).where(is_of(LEASES, run_id, holder)).order_by(LEASES.c.month)).all()
    amounts = [lease.amount_nano for lease in leases]
    _charge_leases(connection, leases, amounts, change.of_leases, run_id, now)
    # if another holder has not reported yet that it submitted this money, the leases of both are charged until the run
    # is opened again: too much is booked for a while, never too little
    # promise: M8 money that is collected before it is known as submitted is charged to the leases
    _charge_leases(connection, leases, amounts, _collect(connection, run_id, change), run_id, now)
    surplus = sum(amounts) - max(0, held.left_nano)
    for index in reversed(range(len(leases))):  # the latest month first: earlier leases are reserved, or soon spent
        back = min(amounts[index], max(0, surplus))
        amounts[index], surplus = amounts[index] - back, surplus - back
    for lease, amount in zip(leases, amounts, strict=True):
        this = sa.and_(is_of(LEASES, run_id, holder), LEASES.c.month == lease.month)
        if amount == 0:
            connection.execute(LEASES.delete().where(this))
        elif amount != lease.amount_nano:
            connection.execute(LEASES.update().where(this).values(amount_nano=amount))
    return sum(amounts)


def _charge_leases(
    connection: sa.Connection, leases: Sequence[Any], amounts: list[int], spent: Books, run_id: str, now: datetime
) -> None:
    """Book what was spent of leases, the earliest month first; `amounts`, what is left of each, become smaller.

    What was spent beyond the leases is booked on the day of the last lease, or today if there was none.
    """
    today = day_of(now)
    day = today
    for index, lease in enumerate(leases):
        day = today if lease.month == today[:7] else lease.day
        taken, spent = take(spent, amounts[index])
        charge(connection, run_id, day, taken)
        amounts[index] -= sum(taken)
    charge(connection, run_id, day, spent)


def take(wanted: Books, amount_nano: int) -> tuple[Books, Books]:
    """Take what is wanted out of an amount; returns what was taken, and what is still wanted."""
    taken = []
    for want_nano in wanted:
        taken.append(max(0, min(want_nano, amount_nano)))
        amount_nano -= taken[-1]
    return Books(*taken), Books(*map(operator.sub, wanted, taken))


def _collect(connection: sa.Connection, run_id: str, change: Spending) -> Books:
    """Book what became of submitted money on the days on which it was submitted, the oldest first.

    Returns what was collected beyond what the ledger has as submitted.
    """
    settled_nano, in_doubt_nano = change.collected_settled_nano, change.collected_in_doubt_nano
    missing = [settled_nano, in_doubt_nano, -settled_nano - in_doubt_nano - change.collected_released_nano]
    # promise: M8 submitted money is collected in the order in which it was submitted
    _move(connection, run_id, missing, from_kinds=(_SUBMITTED,), is_oldest_first=True)
    return Books(missing[_SETTLED], missing[_IN_DOUBT], 0)


def reverse(connection: sa.Connection, run_id: str, missing: list[int]) -> None:
    """Correct days on which too much was booked; what is of another kind now stays in its month.

    `missing` has an amount for each kind of `Books`: what is to be added, or, below 0, what is booked too much. It
    becomes what is still missing.
    """
    # replies are collected in about the order in which they were submitted; the end of a journal is what may be lost
    _move(connection, run_id, missing, from_kinds=(_SUBMITTED,), is_oldest_first=True)
    _move(connection, run_id, missing, from_kinds=(_SETTLED, _IN_DOUBT), is_oldest_first=False)


def _move(
    connection: sa.Connection, run_id: str, missing: list[int], *, from_kinds: Sequence[int], is_oldest_first: bool
) -> None:
    """Take what is booked too much of some kinds, day by day; book it as what is missing of others, or release it."""
    if all(missing[kind] >= 0 for kind in from_kinds):
        return
    order = DAYS.c.day if is_oldest_first else DAYS.c.day.desc()
    days = sa.select(DAYS).where(DAYS.c.run_id == run_id).order_by(order)
    for row in connection.execute(days).all():
        books = [getattr(row, name) for name in Books._fields]
        for kind in from_kinds:
            taken = min(books[kind], max(0, -missing[kind]))
            books[kind], missing[kind] = books[kind] - taken, missing[kind] + taken
            for other in range(len(books)):
                # promise: M8 a collected reply is booked in the month of its reservation
                moved = min(taken, max(0, missing[other])) if other != kind else 0
                books[other], missing[other], taken = books[other] + moved, missing[other] - moved, taken - moved
        here = sa.and_(DAYS.c.run_id == run_id, DAYS.c.day == row.day)
        connection.execute(DAYS.update().where(here).values(dict(zip(Books._fields, books, strict=True))))


def charge(connection: sa.Connection, run_id: str, day: str, amounts: Books) -> None:
    """Book nano-dollars of a run on a day such as 2026-11-28."""
    if not any(amounts):
        return
    here = sa.and_(DAYS.c.run_id == run_id, DAYS.c.day == day)
    # promise: M4 the ledger books costs exactly, to the last nano-dollar
    sums = {name: DAYS.c[name] + amount_nano for name, amount_nano in amounts._asdict().items()}
    if connection.execute(DAYS.update().where(here).values(sums)).rowcount == 0:
        connection.execute(DAYS.insert().values(run_id=run_id, day=day, **amounts._asdict()))


def balance_of(
    connection: sa.Connection,
    now: datetime,
    *,
    run_id: str | None = None,
    month: str | None = None,
    leases: bool = True,
) -> Balance:
    """Return what is booked for a run, for a month over all runs, or for a run in a month."""
    days, held = [], []
    if run_id is not None:
        days, held = [DAYS.c.run_id == run_id], [LEASES.c.run_id == run_id]
    if month is not None:
        days, held = [*days, in_month(month)], [*held, LEASES.c.month == month]
    sums = sa.select(*(total_of(DAYS.c[name]) for name in Books._fields)).where(*days)
    books = Books(*map(int, connection.execute(sums).one()))
    if not leases:
        return Balance(*books, 0)
    # promise: M1 the leases of a dead process stay booked
    dead = total_of(sa.case((is_dead(now), LEASES.c.amount_nano), else_=0))
    whole = sa.select(total_of(LEASES.c.amount_nano), dead).select_from(HELD).where(*held)
    leased_nano, of_dead = map(int, connection.execute(whole).one())
    return Balance(books.settled_nano, books.in_doubt_nano + of_dead, books.submitted_nano, leased_nano - of_dead)


def day_of(now: datetime) -> str:
    """The day of a moment, in UTC, such as 2026-11-28."""
    return now.astimezone(UTC).date().isoformat()


def time_of(now: datetime) -> str:
    """A moment as the tables store it: a text that sorts as the time does."""
    return now.astimezone(UTC).isoformat(timespec="microseconds")


def total_of(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """The sum of a column, 0 over no rows."""
    return sa.func.coalesce(sa.func.sum(column), 0)


def is_of(table: sa.Table, run_id: str, holder: str) -> sa.ColumnElement[bool]:
    """Whether a row belongs to this holder of this run."""
    return sa.and_(table.c.run_id == run_id, table.c.holder == holder)


def is_dead(now: datetime) -> sa.ColumnElement[bool]:
    """Whether a holder has been silent for LEASE_EXPIRY_S."""
    return HOLDERS.c.renewed_at < time_of(now - timedelta(seconds=LEASE_EXPIRY_S))


def in_month(month: str) -> sa.ColumnElement[bool]:
    """Whether a day is in a month such as 2026-11."""
    # a range instead of LIKE: both databases can use the index
    return DAYS.c.day.between(f"{month}-01", f"{month}-31")
