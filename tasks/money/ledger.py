"""One ledger for all jobs of a user, or of several machines: who may spend what, and what was spent.

Money is leased in slices: a process asks for a slice in one transaction, in which every run and every process is
counted, and admits requests against it without asking again. So run and month hold for any number of processes, and the
database sees a few transactions a second. Amounts are whole nano-dollars, days and months are UTC, of the reservation.

At every instant, for a run and for a month: settled + in doubt + leased <= limit. A lease is renewed while its holder
lives. What a dead holder had leased is in doubt after `DEAD_S`: nobody knows what it had under way, so it stays booked
until the run goes on (its journals tell the truth) or a person resolves it.

The embedded default is an SQLite file; PARQUILL_LEDGER_URL names another database (any SQLAlchemy URL).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import platformdirs
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from parquill.tasks.errors import LedgerFailed
from parquill.tasks.money.ledger_tables import DAYS, LEASES, META, METADATA, RUNS, VERSION


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger keeps of a run from its first entry on."""

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


@dataclass(frozen=True, slots=True)
class Booked:
    """Nano-dollars of a run or of a month."""

    settled: int
    in_doubt: int
    leased: int

    @property
    def total(self) -> int:
        """All that is spent or may be."""
        return self.settled + self.in_doubt + self.leased


ALIVE_S = 30.0  # a lease that was renewed so lately has a holder who may give something back
DEAD_S = 900.0  # no holder misses ninety renewals


def ledger_url() -> sa.URL:
    """PARQUILL_LEDGER_URL, or the SQLite file in the user's state folder. Raises LedgerFailed."""
    url = os.environ.get("PARQUILL_LEDGER_URL")
    if not url:
        folder = Path(platformdirs.user_state_dir("parquill"))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return sa.URL.create("sqlite", database=str(folder / "ledger.sqlite"))
    try:
        found = sa.make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    except SQLAlchemyError:
        raise LedgerFailed("PARQUILL_LEDGER_URL is not a SQLAlchemy URL") from None
    return found.set(drivername="postgresql+psycopg") if found.drivername == "postgresql" else found


class Ledger:
    """The ledger behind a SQLAlchemy URL; safe to use from several threads and processes."""

    def __init__(self, url: sa.URL | str | None = None) -> None:
        """Open it and create its tables. Raises LedgerFailed, in which the URL is not shown."""
        try:
            address = url or ledger_url()
            self._engine = sa.create_engine(address, future=True)
            self.is_sqlite = self._engine.dialect.name == "sqlite"
            if self.is_sqlite:
                sa.event.listen(self._engine, "connect", _set_up_sqlite)
                sa.event.listen(self._engine, "begin", _begin_immediate)
        except ImportError:
            raise LedgerFailed(
                "PARQUILL_LEDGER_URL names a database whose driver is not installed; for PostgreSQL: "
                "pip install 'parquill[postgres]'"
            ) from None
        except (SQLAlchemyError, OSError) as error:
            raise LedgerFailed(f"PARQUILL_LEDGER_URL cannot be used ({type(error).__name__})") from None
        with self.transaction() as connection:
            self._create(connection)

    def _create(self, connection: sa.Connection) -> None:
        METADATA.create_all(connection)
        found = connection.execute(sa.select(META.c.value).where(META.c.name == "version")).scalar()
        if found is None:
            connection.execute(META.insert().values(name="version", value=str(VERSION)))
        elif found != str(VERSION):
            raise LedgerFailed(f"the ledger has the version {found}, which this Parquill does not know")

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction that no other writer can come between. Raises LedgerFailed, the transaction undone."""
        try:
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(7210021)"))
                elif not self.is_sqlite:
                    connection.execute(sa.select(META).with_for_update())
                yield connection
        except SQLAlchemyError as error:
            raise LedgerFailed(f"the ledger's database does not answer ({type(error).__name__})") from None

    def open_run(self, entry: Entry, settled: int, in_doubt: int, now: datetime) -> None:
        """Enter a run, or set the books of one that goes on to what its journals say; leases of before are void."""
        with self.transaction() as connection:
            known = connection.execute(sa.select(RUNS.c.run_id).where(RUNS.c.run_id == entry.run_id)).scalar()
            if known is None:
                connection.execute(
                    RUNS.insert().values(
                        run_id=entry.run_id,
                        job=entry.job,
                        model=entry.model,
                        endpoint=entry.endpoint,
                        labels=orjson.dumps(entry.labels).decode(),
                        output=entry.output,
                        state=entry.state,
                        host=entry.host,
                        expected_nano=entry.expected_nano,
                        started_at=entry.started_at.isoformat(),
                    )
                )
            else:  # a pilot knows better what it will cost
                expected = RUNS.update().where(RUNS.c.run_id == entry.run_id).values(expected_nano=entry.expected_nano)
                connection.execute(expected)
            booked = _booked(connection, run_id=entry.run_id)
            missing = [settled - booked.settled, in_doubt - booked.in_doubt]
            self._take_from_books(connection, entry.run_id, missing)
            mine = LEASES.c.run_id == entry.run_id
            for lease in connection.execute(sa.select(LEASES).where(mine).order_by(LEASES.c.month)).all():
                # what a dead process had spent of its lease belongs to the month in which it was leased
                paid = max(0, min(missing[0], lease.amount_nano))
                doubt = max(0, min(missing[1], lease.amount_nano - paid))
                self._add(connection, entry.run_id, lease.day, paid, doubt)
                missing = [missing[0] - paid, missing[1] - doubt]
            connection.execute(LEASES.delete().where(mine))
            self._add(connection, entry.run_id, _day(now), *missing)

    @staticmethod
    def _take_from_books(connection: sa.Connection, run_id: str, missing: list[int]) -> None:
        """Correct days on which too much was booked; what was in doubt and is settled now stays in its month."""
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

    def lease(
        self,
        run_id: str,
        holder: str,
        *,
        want: int,
        least: int,
        run_limit: int | None,
        month_limit: int | None,
        now: datetime,
    ) -> int:
        """Lease up to `want` nano-dollars, at least `least`; 0 if so much does not fit into run and month."""
        month = f"{now.astimezone(UTC):%Y-%m}"
        with self.transaction() as connection:
            _bury(connection, now)
            room = want
            if run_limit is not None:
                room = min(room, run_limit - _booked(connection, run_id=run_id).total)
            if month_limit is not None:
                room = min(room, month_limit - _booked(connection, month=month).total)
            if room < least or room <= 0:
                return 0
            mine = _lease(run_id, holder)
            values = {"day": _day(now), "renewed_at": _time(now)}
            changed = connection.execute(
                LEASES.update()
                .where(mine, LEASES.c.month == month)
                .values(amount_nano=LEASES.c.amount_nano + room, **values)
            )
            if changed.rowcount == 0:
                connection.execute(
                    LEASES.insert().values(holder=holder, run_id=run_id, month=month, amount_nano=room, **values)
                )
            return room

    def report(self, run_id: str, holder: str, *, settled: int, in_doubt: int, now: datetime, unused: int = 0) -> None:
        """Move what was really spent since the last report from the lease to the books, and renew the lease.

        `unused` of the lease is given back. What was leased in an earlier month is spent first, and booked there.
        """
        with self.transaction() as connection:
            mine = _lease(run_id, holder)
            leases = connection.execute(
                sa.select(LEASES.c.month, LEASES.c.day, LEASES.c.amount_nano).where(mine).order_by(LEASES.c.month)
            ).all()
            # without a lease (it was taken for dead, or there is no limit) the books alone are told
            rest = [[row.month, row.day, row.amount_nano] for row in leases] or [[None, _day(now), 0]]
            for place, (month, day, amount) in enumerate(rest):
                last = place == len(rest) - 1
                paid = settled if last else min(settled, max(0, amount))
                doubt = in_doubt if last else min(in_doubt, max(0, amount - paid))
                settled, in_doubt = settled - paid, in_doubt - doubt
                back = max(0, min(unused, amount - paid - doubt))
                unused -= back
                here = _day(now) if month == _day(now)[:7] else day
                self._add(connection, run_id, here, paid, doubt)
                left = amount - paid - doubt - back
                where = sa.and_(mine, LEASES.c.month == month)
                if left == 0 and not last:
                    connection.execute(LEASES.delete().where(where))
                else:
                    connection.execute(LEASES.update().where(where).values(amount_nano=left, renewed_at=_time(now)))

    def give_back(self, run_id: str, holder: str) -> None:
        """End a lease; what it held and did not spend is free again."""
        with self.transaction() as connection:
            connection.execute(LEASES.delete().where(_lease(run_id, holder)))

    def last_run(self, job: str, but: str | None = None) -> tuple[int, int] | None:
        """(expected, settled) nano-dollars of a job's latest finished run that paid anything; None if there is none."""
        paid = sa.func.sum(DAYS.c.settled_nano)
        query = (
            sa.select(RUNS.c.expected_nano, paid)
            .join(DAYS, DAYS.c.run_id == RUNS.c.run_id)
            .where(RUNS.c.job == job, RUNS.c.finished_at.is_not(None), RUNS.c.run_id != (but or ""))
            .group_by(RUNS.c.run_id, RUNS.c.expected_nano)
            .having(paid > 0)
            .order_by(RUNS.c.run_id.desc())
            .limit(1)
        )
        with self.transaction() as connection:
            row = connection.execute(query).first()
        return None if row is None else (int(row[0]), int(row[1]))

    def finish(self, run_id: str, finished_at: datetime) -> None:
        """Note that a run is finished."""
        with self.transaction() as connection:
            connection.execute(RUNS.update().where(RUNS.c.run_id == run_id).values(finished_at=finished_at.isoformat()))

    @staticmethod
    def _add(connection: sa.Connection, run_id: str, day: str, settled: int, in_doubt: int) -> None:
        if not settled and not in_doubt:
            return
        changed = connection.execute(
            DAYS.update()
            .where(DAYS.c.run_id == run_id, DAYS.c.day == day)
            .values(settled_nano=DAYS.c.settled_nano + settled, in_doubt_nano=DAYS.c.in_doubt_nano + in_doubt)
        )
        if changed.rowcount == 0:
            connection.execute(
                DAYS.insert().values(run_id=run_id, day=day, settled_nano=settled, in_doubt_nano=in_doubt)
            )

    def held_by_others(self, run_id: str, holder: str, month: str | None, now: datetime) -> int:
        """Nano-dollars that others who live have leased for the run, or, with a month, for any run in it."""
        scope = LEASES.c.run_id == run_id if month is None else LEASES.c.month == month
        alive = LEASES.c.renewed_at >= _time(now - timedelta(seconds=ALIVE_S))
        with self.transaction() as connection:
            held = sa.select(sa.func.coalesce(sa.func.sum(LEASES.c.amount_nano), 0))
            return int(connection.execute(held.where(scope, alive, sa.not_(_lease(run_id, holder)))).scalar_one())

    def resolve(self, month: str, job: str | None, *, paid: bool, now: datetime) -> int:
        """Settle what was in doubt in a month as paid, or as not paid; gives the nano-dollars that were in doubt.

        What dead holders had leased is in doubt too.
        """
        runs = sa.select(RUNS.c.run_id) if job is None else sa.select(RUNS.c.run_id).where(RUNS.c.job == job)
        where = sa.and_(_in_month(month), DAYS.c.run_id.in_(runs))
        with self.transaction() as connection:
            _bury(connection, now)
            found = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(DAYS.c.in_doubt_nano), 0)).where(where))
            total = int(found.scalar_one())
            settled = DAYS.c.settled_nano + (DAYS.c.in_doubt_nano if paid else 0)
            connection.execute(DAYS.update().where(where).values(settled_nano=settled, in_doubt_nano=0))
        return total

    def of_run(self, run_id: str) -> Booked:
        """What is booked for a run."""
        with self.transaction() as connection:
            return _booked(connection, run_id=run_id)

    def of_month(self, month: str) -> Booked:
        """What is booked for a month such as 2026-11, over all runs."""
        with self.transaction() as connection:
            return _booked(connection, month=month)

    def days(self, month: str, job: str | None = None) -> list[dict[str, Any]]:
        """Rows of {day, job, model, settled_nano, in_doubt_nano, runs} of a month, by day."""
        query = (
            sa.select(
                DAYS.c.day,
                RUNS.c.job,
                RUNS.c.model,
                sa.func.sum(DAYS.c.settled_nano).label("settled_nano"),
                sa.func.sum(DAYS.c.in_doubt_nano).label("in_doubt_nano"),
                sa.func.count().label("runs"),
            )
            .join(RUNS, RUNS.c.run_id == DAYS.c.run_id)
            .where(_in_month(month))
            .group_by(DAYS.c.day, RUNS.c.job, RUNS.c.model)
            .order_by(DAYS.c.day, RUNS.c.job, RUNS.c.model)
        )
        if job is not None:
            query = query.where(RUNS.c.job == job)
        with self.transaction() as connection:
            return [
                {**row._mapping, "settled_nano": int(row.settled_nano), "in_doubt_nano": int(row.in_doubt_nano)}  # noqa: SLF001
                for row in connection.execute(query)
            ]


def _day(now: datetime) -> str:
    return now.astimezone(UTC).date().isoformat()


def _time(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="microseconds")


def _lease(run_id: str, holder: str) -> sa.ColumnElement[bool]:
    return sa.and_(LEASES.c.run_id == run_id, LEASES.c.holder == holder)


def _in_month(month: str) -> sa.ColumnElement[bool]:
    # a range and not LIKE: both databases find it in the index
    return DAYS.c.day.between(f"{month}-01", f"{month}-31")


def _bury(connection: sa.Connection, now: datetime) -> None:
    """Put in doubt what holders had leased that were not heard of for `DEAD_S`."""
    dead = LEASES.c.renewed_at < _time(now - timedelta(seconds=DEAD_S))
    for lease in connection.execute(sa.select(LEASES).where(dead)).all():
        Ledger._add(connection, lease.run_id, lease.day, 0, max(0, lease.amount_nano))  # noqa: SLF001
    connection.execute(LEASES.delete().where(dead))


def _booked(connection: sa.Connection, *, run_id: str | None = None, month: str | None = None) -> Booked:
    """What is booked for a run, or for a month over all runs."""
    days = DAYS.c.run_id == run_id if run_id is not None else _in_month(str(month))
    leases = LEASES.c.run_id == run_id if run_id is not None else LEASES.c.month == month
    total = sa.func.coalesce
    settled, in_doubt = connection.execute(
        sa.select(total(sa.func.sum(DAYS.c.settled_nano), 0), total(sa.func.sum(DAYS.c.in_doubt_nano), 0)).where(days)
    ).one()
    # an overshoot makes a lease negative: it gives nothing back to the others
    open_part = sa.case((LEASES.c.amount_nano > 0, LEASES.c.amount_nano), else_=0)
    leased = connection.execute(sa.select(total(sa.func.sum(open_part), 0)).where(leases)).scalar_one()
    return Booked(int(settled), int(in_doubt), int(leased))


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, by SQLAlchemy's event
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    # the lock is taken before the first read, so that nobody comes between the check and the reservation
    connection.exec_driver_sql("BEGIN IMMEDIATE")
