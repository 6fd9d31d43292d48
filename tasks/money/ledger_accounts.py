"""The books behind the ledger: what is settled and in doubt on each day, and what each holder has leased.

Every function runs in a transaction that its caller has begun, so its first argument is a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from parquill.tasks.errors import RunTakenOver
from parquill.tasks.money.ledger_tables import DAYS, HOLDERS, LEASES

LEASE_EXPIRY_S = 900.0  # no live holder is silent for so long, unless its machine sleeps
HELD = LEASES.join(HOLDERS, sa.and_(HOLDERS.c.run_id == LEASES.c.run_id, HOLDERS.c.holder == LEASES.c.holder))


@dataclass(frozen=True, slots=True)
class Balance:
    """Nano-dollars of a run or of a month."""

    settled_nano: int
    in_doubt_nano: int
    leased_nano: int

    @property
    def total_nano(self) -> int:
        """All that is spent or may be spent."""
        return self.settled_nano + self.in_doubt_nano + self.leased_nano

    def __sub__(self, other: Balance) -> Balance:
        return Balance(
            self.settled_nano - other.settled_nano,
            self.in_doubt_nano - other.in_doubt_nano,
            self.leased_nano - other.leased_nano,
        )


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """A holder's own figures, in nano-dollars since its start: what it has spent, and what it may still spend.

    `left_nano` is negative after an overshoot. `is_new` is True until the ledger has answered once.
    """

    settled_nano: int
    in_doubt_nano: int
    left_nano: int
    is_new: bool = False


def apply_report(connection: sa.Connection, run_id: str, holder: str, held: LeaseReport, now: datetime) -> int:
    """Set the ledger to what a holder reports; returns what it has leased now. Raises RunTakenOver."""
    mine = is_of(HOLDERS, run_id, holder)
    known = connection.execute(sa.select(HOLDERS).where(mine)).first()
    # promise: M1 a process whose run was taken over books nothing more
    if known is None and not held.is_new:
        raise RunTakenOver(f"the run {run_id} was taken over by another process")
    values = {"settled_nano": held.settled_nano, "in_doubt_nano": held.in_doubt_nano, "renewed_at": time_of(now)}
    if known is None:
        connection.execute(HOLDERS.insert().values(run_id=run_id, holder=holder, **values))
    else:
        connection.execute(HOLDERS.update().where(mine).values(values))
    # promise: M1 a holder's report that is sent twice is booked once
    settled_nano = held.settled_nano - (known.settled_nano if known is not None else 0)
    in_doubt_nano = held.in_doubt_nano - (known.in_doubt_nano if known is not None else 0)
    # promise: M1 money that was leased in a month is booked in that month
    leases = connection.execute(sa.select(LEASES).where(is_of(LEASES, run_id, holder)).order_by(LEASES.c.month)).all()
    amounts = _charge_leases(connection, leases, settled_nano, in_doubt_nano, run_id, now)
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
    connection: sa.Connection, leases: Sequence[Any], settled_nano: int, in_doubt_nano: int, run_id: str, now: datetime
) -> list[int]:
    """Book what was spent of leases, the earliest month first; returns what is left of each.

    What was spent beyond the leases is booked on the day of the last lease, or today if there was none.
    """
    amounts, today = [], day_of(now)
    day = today
    for lease in leases:
        day = today if lease.month == today[:7] else lease.day
        paid = min(settled_nano, lease.amount_nano)
        doubt = min(in_doubt_nano, lease.amount_nano - paid)
        charge(connection, run_id, day, paid, doubt)
        settled_nano, in_doubt_nano = settled_nano - paid, in_doubt_nano - doubt
        amounts.append(lease.amount_nano - paid - doubt)
    charge(connection, run_id, day, settled_nano, in_doubt_nano)
    return amounts


def reverse(connection: sa.Connection, run_id: str, missing: list[int]) -> None:
    """Correct days on which too much was booked; what was in doubt and is now settled stays in its month."""
    days = sa.select(DAYS).where(DAYS.c.run_id == run_id).order_by(DAYS.c.day.desc())
    for row in connection.execute(days).all():
        books = [row.settled_nano, row.in_doubt_nano]
        for this, other in ((0, 1), (1, 0)):
            taken = min(books[this], max(0, -missing[this]))
            moved = min(taken, max(0, missing[other]))
            books[this], books[other] = books[this] - taken, books[other] + moved
            missing[this], missing[other] = missing[this] + taken, missing[other] - moved
        here = sa.and_(DAYS.c.run_id == run_id, DAYS.c.day == row.day)
        connection.execute(DAYS.update().where(here).values(settled_nano=books[0], in_doubt_nano=books[1]))


def charge(connection: sa.Connection, run_id: str, day: str, settled_nano: int, in_doubt_nano: int) -> None:
    """Book nano-dollars of a run on a day such as 2026-11-28."""
    if not settled_nano and not in_doubt_nano:
        return
    changed = connection.execute(
        DAYS.update()
        .where(DAYS.c.run_id == run_id, DAYS.c.day == day)
        # promise: M4 the ledger books costs exactly, to the last nano-dollar
        .values(settled_nano=DAYS.c.settled_nano + settled_nano, in_doubt_nano=DAYS.c.in_doubt_nano + in_doubt_nano)
    )
    if changed.rowcount == 0:
        connection.execute(
            DAYS.insert().values(run_id=run_id, day=day, settled_nano=settled_nano, in_doubt_nano=in_doubt_nano)
        )


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
    books = sa.select(total_of(DAYS.c.settled_nano), total_of(DAYS.c.in_doubt_nano)).where(*days)
    settled_nano, in_doubt_nano = map(int, connection.execute(books).one())
    if not leases:
        return Balance(settled_nano, in_doubt_nano, 0)
    # promise: M1 the leases of a dead process stay booked
    dead = total_of(sa.case((is_dead(now), LEASES.c.amount_nano), else_=0))
    whole = sa.select(total_of(LEASES.c.amount_nano), dead).select_from(HELD).where(*held)
    leased_nano, of_dead = map(int, connection.execute(whole).one())
    return Balance(settled_nano, in_doubt_nano + of_dead, leased_nano - of_dead)


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
