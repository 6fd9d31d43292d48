"""One ledger for all jobs of a user, or of several machines: what each run may spend, and what was spent.

Money is leased in slices. A process, a *holder*, leases a slice in one transaction, which counts every run and every
process, and then admits requests against the slice without asking again. So the limits of run and month hold for any
number of processes, and the database sees a few transactions a second. Amounts are whole nano-dollars; days and months
are UTC, those of the lease.

At every instant, for a run and for a month: settled + in doubt + submitted + leased <= limit. Submitted is what is
reserved for requests that wait at the service, such as those of a batch. It may wait for a day while no process lives,
so it belongs to the run and not to a holder, and never expires.

A holder reports totals, never changes: what it has spent in all and what it may still spend. So a call whose answer was
lost can be repeated and is booked once. If a holder dies, what it had leased stays booked: after LEASE_EXPIRY_S of
`ledger_accounts` it counts as in doubt, until the run resumes (its journals have the true figures) or a person resolves
it. A holder whose machine only slept still has its whole lease. When a run is opened again, its earlier holders are
shut out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa

from parquill.tasks.money import ledger_accounts, ledger_resolutions
from parquill.tasks.money.ledger_accounts import (
    HELD,
    Balance,
    Books,
    LeaseReport,
    day_of,
    in_month,
    is_dead,
    is_of,
    time_of,
    total_of,
)
from parquill.tasks.money.ledger_database import LedgerDatabase
from parquill.tasks.money.ledger_tables import DAYS, HOLDERS, LEASES, RUNS

RECENT_S = 30.0  # a holder that reported within this time may still give money back


@dataclass(frozen=True, slots=True)
class RunEntry:
    """What the ledger records of a run when it is first opened."""

    run_id: str
    job: str
    model: str
    endpoint: str
    labels: dict[str, str]
    output: str
    state: str
    host: str
    expected_nano: int
    started_at: datetime


class Ledger(LedgerDatabase):
    """The ledger behind a SQLAlchemy URL. Methods raise LedgerFailed, with nothing done or, rarely, everything done."""

    def open_run(
        self, entry: RunEntry, settled_nano: int, in_doubt_nano: int, submitted_nano: int, now: datetime
    ) -> Books:
        """Enter a run, or set the books of a resumed run to what its journals say; its earlier holders are shut out.

        What a person has resolved stays resolved. What was settled but is in no journal was paid all the same (the
        journals may be restored from a backup): it becomes in doubt, and stays booked until a person resolves it.
        Returns what is booked now.
        """
        with self.transaction() as connection:
            known = connection.execute(sa.select(RUNS.c.run_id).where(RUNS.c.run_id == entry.run_id)).scalar()
            if known is None:
                connection.execute(RUNS.insert().values(_row_of(entry)))
            else:  # after a pilot the expectation is better
                expected = RUNS.update().where(RUNS.c.run_id == entry.run_id).values(expected_nano=entry.expected_nano)
                connection.execute(expected)
            booked = ledger_accounts.balance_of(connection, now, run_id=entry.run_id, leases=False)
            reported = booked.settled_nano - ledger_resolutions.settled_by_hand(connection, entry.run_id)
            # a reply whose record was cut off with the end of a journal is submitted again
            # promise: M8 what waits at the service hides no loss
            again_nano = max(0, submitted_nano - booked.submitted_nano)
            # promise: M1 a settled amount that the journals lost stays booked
            if (lost_nano := reported - settled_nano - in_doubt_nano - again_nano) > 0:
                ledger_resolutions.keep(connection, entry.run_id, ledger_resolutions.LOST, lost_nano)
            found = ledger_resolutions.resolved(connection, entry.run_id, in_doubt_nano, correct=True)
            # promise: M5 amounts that a person resolved stay resolved at later starts
            stand = Books(*found.apply(settled_nano, in_doubt_nano), submitted_nano)
            # promise: M8 a resumed run books what its journals have as submitted
            corrections = [figure - known for figure, known in zip(stand, booked.books, strict=True)]
            ledger_accounts.reverse(connection, entry.run_id, corrections)
            missing = Books(*corrections)
            mine = LEASES.c.run_id == entry.run_id
            for lease in connection.execute(sa.select(LEASES).where(mine).order_by(LEASES.c.month)).all():
                # what a dead process spent of its lease is booked in the month of the lease
                taken, missing = ledger_accounts.take(missing, lease.amount_nano)
                ledger_accounts.charge(connection, entry.run_id, lease.day, taken)
            ledger_accounts.charge(connection, entry.run_id, day_of(now), missing)
            connection.execute(LEASES.delete().where(mine))
            connection.execute(HOLDERS.delete().where(HOLDERS.c.run_id == entry.run_id))
        return stand

    def spent(self, run_id: str, settled_nano: int, in_doubt_nano: int, submitted_nano: int) -> Books:
        """Return what is booked of a run: the journals' figures, with what a person has resolved."""
        with self.transaction() as connection:
            found = ledger_resolutions.resolved(connection, run_id, in_doubt_nano)
        return Books(*found.apply(settled_nano, in_doubt_nano), submitted_nano)

    def lease(
        self,
        run_id: str,
        holder: str,
        held: LeaseReport,
        *,
        want_nano: int,
        least_nano: int,
        run_limit_nano: int | None,
        month_limit_nano: int | None,
        now: datetime,
    ) -> int:
        """Lease a holder up to `want_nano` nano-dollars more than `held.left`, at least `least_nano`.

        Returns how much more it has: 0 if `least_nano` does not fit, negative if a person has resolved what it held and
        no more fits. Raises RunTakenOver.
        """
        month = day_of(now)[:7]
        with self.transaction() as connection:
            # above 0 after an overshoot, which is already booked as settled; below 0 if the ledger has less as leased
            known = ledger_accounts.apply_report(connection, run_id, holder, held, now) - held.left_nano
            least_nano, room = least_nano - known, want_nano - known
            # promise: M1 the leases of all processes of a run stay within the run's limit
            if run_limit_nano is not None:
                room = min(room, run_limit_nano - ledger_accounts.balance_of(connection, now, run_id=run_id).total_nano)
            # promise: M1 the leases of all runs stay within the month's limit
            if month_limit_nano is not None:
                room = min(room, month_limit_nano - ledger_accounts.balance_of(connection, now, month=month).total_nano)
            if room < least_nano or room <= 0:
                return min(0, known)
            mine = sa.and_(is_of(LEASES, run_id, holder), LEASES.c.month == month)
            amount = LEASES.c.amount_nano + room
            changed = connection.execute(LEASES.update().where(mine).values(amount_nano=amount, day=day_of(now)))
            if changed.rowcount == 0:
                new = {"run_id": run_id, "holder": holder, "month": month, "day": day_of(now), "amount_nano": room}
                connection.execute(LEASES.insert().values(new))
            return room + known

    def report(self, run_id: str, holder: str, held: LeaseReport, now: datetime) -> int:
        """Book what a holder has spent, submitted and collected, and free what it no longer needs.

        What was leased in an earlier month is spent first, and booked there. What is collected is booked where it was
        submitted. Returns how much of `held.left_nano` the ledger no longer has as leased, usually 0: a person resolved
        it, or it pays for what another process submitted and has not reported yet. Raises RunTakenOver.
        """
        with self.transaction() as connection:
            return max(0, held.left_nano - ledger_accounts.apply_report(connection, run_id, holder, held, now))

    def finish(self, run_id: str, finished_at: datetime) -> None:
        """Record that a run is finished."""
        with self.transaction() as connection:
            connection.execute(RUNS.update().where(RUNS.c.run_id == run_id).values(finished_at=finished_at.isoformat()))

    def leased_by_others(self, run_id: str, holder: str, month: str | None, now: datetime) -> int:
        """Nano-dollars that other live holders have leased for the run, or, with a month, for any run in that month."""
        scope = LEASES.c.run_id == run_id if month is None else LEASES.c.month == month
        alive = HOLDERS.c.renewed_at >= time_of(now - timedelta(seconds=RECENT_S))
        others = sa.not_(is_of(LEASES, run_id, holder))
        held = sa.select(total_of(LEASES.c.amount_nano)).select_from(HELD).where(scope, alive, others)
        with self.transaction() as connection:
            return int(connection.execute(held).scalar_one())

    def resolve(self, month: str, job: str | None, *, paid: bool, now: datetime) -> int:
        """Resolve what is in doubt in a month as paid or as not paid; returns the nano-dollars that were in doubt.

        What dead holders had leased is in doubt too; what is submitted is not. The answer is kept, so that it also
        holds when a run starts again.
        """
        runs = sa.select(RUNS.c.run_id) if job is None else sa.select(RUNS.c.run_id).where(RUNS.c.job == job)
        where = sa.and_(in_month(month), DAYS.c.run_id.in_(runs))
        dead = sa.and_(LEASES.c.month == month, LEASES.c.run_id.in_(runs), is_dead(now))
        with self.transaction() as connection:
            for lease in connection.execute(sa.select(LEASES).select_from(HELD).where(dead)).all():
                ledger_accounts.charge(connection, lease.run_id, lease.day, Books(0, lease.amount_nano, 0))
                this = sa.and_(is_of(LEASES, lease.run_id, lease.holder), LEASES.c.month == month)
                connection.execute(LEASES.delete().where(this))
            doubts = sa.select(DAYS.c.run_id, sa.func.sum(DAYS.c.in_doubt_nano)).where(where).group_by(DAYS.c.run_id)
            total_nano, kind = 0, ledger_resolutions.PAID if paid else ledger_resolutions.UNPAID
            for run_id, amount in connection.execute(doubts.order_by(DAYS.c.run_id)).all():
                if amount:
                    # promise: M5 the ledger stores each resolution of a person
                    ledger_resolutions.keep(connection, run_id, kind, int(amount))
                    total_nano += int(amount)
            settled_nano = DAYS.c.settled_nano + (DAYS.c.in_doubt_nano if paid else 0)
            connection.execute(DAYS.update().where(where).values(settled_nano=settled_nano, in_doubt_nano=0))
        return total_nano

    def of_run(self, run_id: str, now: datetime, month: str | None = None) -> Balance:
        """Return what is booked for a run, in total or in one month."""
        with self.transaction() as connection:
            return ledger_accounts.balance_of(connection, now, run_id=run_id, month=month)

    def of_month(self, month: str, now: datetime) -> Balance:
        """Return what is booked for a month such as 2026-11, over all runs."""
        with self.transaction() as connection:
            return ledger_accounts.balance_of(connection, now, month=month)

    def month_without(self, run_id: str | None, now: datetime) -> Balance:
        """Return what is booked for the month of `now` by all runs but one.

        What that run booked in earlier months is subtracted too (a figure may be negative then), so that all that it
        has spent, in any month, can be added.
        """
        with self.transaction() as connection:
            month = ledger_accounts.balance_of(connection, now, month=day_of(now)[:7])
            return month if run_id is None else month - ledger_accounts.balance_of(connection, now, run_id=run_id)

    def last_run(self, runs: Iterable[str]) -> tuple[int, int] | None:
        """Return (expected, settled) nano-dollars of the latest of these runs that finished and paid anything."""
        paid = sa.func.sum(DAYS.c.settled_nano)
        query = (
            sa.select(RUNS.c.expected_nano, paid)
            .join(DAYS, DAYS.c.run_id == RUNS.c.run_id)
            .where(RUNS.c.run_id.in_(runs), RUNS.c.finished_at.is_not(None))
            .group_by(RUNS.c.run_id, RUNS.c.expected_nano)
            .having(paid > 0)
            .order_by(RUNS.c.run_id.desc())
            .limit(1)
        )
        with self.transaction() as connection:
            row = connection.execute(query).first()
        return None if row is None else (int(row[0]), int(row[1]))

    def jobs(self) -> list[str]:
        """Return the names of all jobs that have a run, sorted."""
        with self.transaction() as connection:
            return list(connection.execute(sa.select(RUNS.c.job).distinct().order_by(RUNS.c.job)).scalars())

    def days(self, month: str, now: datetime, job: str | None = None) -> list[dict[str, Any]]:
        """Return a month by day: {day, job, model, labels (JSON), settled_nano, in_doubt_nano, submitted_nano, runs}.

        What dead holders had leased counts as in doubt.
        """
        nothing = sa.literal(0, sa.BigInteger)
        leases = sa.select(LEASES.c.run_id, LEASES.c.day, nothing, LEASES.c.amount_nano, nothing).select_from(HELD)
        books = sa.select(DAYS.c.run_id, DAYS.c.day, *(DAYS.c[name] for name in Books._fields))
        whole = sa.union_all(
            books.where(in_month(month)),
            leases.where(LEASES.c.month == month, is_dead(now)),
        ).subquery()
        about = (whole.c.day, RUNS.c.job, RUNS.c.model, RUNS.c.labels)
        query = (
            sa.select(
                *about,
                *(total_of(whole.c[name]).label(name) for name in Books._fields),
                sa.func.count(whole.c.run_id.distinct()).label("runs"),
            )
            .join(RUNS, RUNS.c.run_id == whole.c.run_id)
            .group_by(*about)
            .order_by(*about)
        )
        if job is not None:
            query = query.where(RUNS.c.job == job)
        with self.transaction() as connection:
            found = connection.execute(query).mappings().all()
        return [{**row, **{name: int(row[name]) for name in Books._fields}} for row in found]


def _row_of(entry: RunEntry) -> dict[str, Any]:
    return {
        "run_id": entry.run_id,
        "job": entry.job,
        "model": entry.model,
        "endpoint": entry.endpoint,
        "labels": orjson.dumps(entry.labels, option=orjson.OPT_SORT_KEYS).decode(),
        "output": entry.output,
        "state": entry.state,
        "host": entry.host,
        "expected_nano": entry.expected_nano,
        "started_at": entry.started_at.isoformat(),
    }
