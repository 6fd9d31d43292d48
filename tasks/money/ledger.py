"""One ledger for all jobs of a user, or of several machines: who may spend what, and what was spent.

Money is leased in slices: a process asks for a slice in one transaction, in which every run and every process is
counted, and admits requests against it without asking again. So run and month hold for any number of processes, and the
database sees a few transactions a second. Amounts are whole nano-dollars, days and months are UTC, of the reservation.

At every instant, for a run and for a month: settled + in doubt + leased <= limit. What a lease's holder had under way
when it died stays booked until the run goes on (its journals tell the truth) or a person resolves it.

The embedded default is an SQLite file; PARQUILL_LEDGER_URL names another database (any SQLAlchemy URL).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import orjson
import platformdirs
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from parquill.tasks.errors import LedgerFailed
from parquill.tasks.money.ledger_tables import DAYS, LEASES, LENGTHS, META, METADATA, RUNS, VERSION
from parquill.tasks.money.lengths import History, Seen


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


def ledger_url() -> str:
    """PARQUILL_LEDGER_URL, or the SQLite file in the user's state folder."""
    url = os.environ.get("PARQUILL_LEDGER_URL")
    if url:
        return url
    folder = Path(platformdirs.user_state_dir("parquill"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'ledger.sqlite'}"


class Ledger:
    """The ledger behind a SQLAlchemy URL; safe to use from several threads and processes."""

    def __init__(self, url: str | None = None) -> None:
        """Open it and create its tables. Raises LedgerFailed, in which the URL is not shown."""
        try:
            address = url or ledger_url()
            self._engine = sa.create_engine(address, future=True)
            self._sqlite = self._engine.dialect.name == "sqlite"
            if self._sqlite:
                sa.event.listen(self._engine, "connect", _set_up_sqlite)
                sa.event.listen(self._engine, "begin", _begin_immediate)
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise LedgerFailed(f"PARQUILL_LEDGER_URL cannot be used ({type(error).__name__})") from None
        with self._writing() as connection:
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
    def _writing(self) -> Iterator[sa.Connection]:
        """One transaction that no other writer can come between. Raises LedgerFailed, the transaction undone."""
        try:
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(7210021)"))
                elif not self._sqlite:
                    connection.execute(sa.select(META).with_for_update())
                yield connection
        except SQLAlchemyError as error:
            raise LedgerFailed(f"the ledger's database does not answer ({type(error).__name__})") from None

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """A transaction for what a module beside this one keeps here. Raises LedgerFailed, the transaction undone."""
        return self._writing()

    def open_run(self, entry: Entry, settled: int, in_doubt: int, now: datetime) -> None:
        """Enter a run, or set the books of one that goes on to what its journals say; leases of before are void."""
        with self._writing() as connection:
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
            connection.execute(LEASES.delete().where(LEASES.c.run_id == entry.run_id))
            booked = _booked(connection, DAYS.c.run_id == entry.run_id, None)
            self._add(connection, entry.run_id, now, settled - booked.settled, in_doubt - booked.in_doubt)

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
        with self._writing() as connection:
            room = want
            if run_limit is not None:
                mine = _booked(connection, DAYS.c.run_id == run_id, LEASES.c.run_id == run_id)
                room = min(room, run_limit - mine.total)
            if month_limit is not None:
                month = f"{now.astimezone(UTC):%Y-%m}"
                all_runs = _booked(connection, DAYS.c.day.like(f"{month}-%"), LEASES.c.day.like(f"{month}-%"))
                room = min(room, month_limit - all_runs.total)
            if room < least or room <= 0:
                return 0
            day = now.astimezone(UTC).date().isoformat()
            changed = connection.execute(
                LEASES.update()
                .where(LEASES.c.run_id == run_id, LEASES.c.holder == holder)
                .values(amount_nano=LEASES.c.amount_nano + room, day=day)
            )
            if changed.rowcount == 0:
                connection.execute(LEASES.insert().values(holder=holder, run_id=run_id, day=day, amount_nano=room))
            return room

    def report(self, run_id: str, holder: str, *, settled: int, in_doubt: int, now: datetime) -> None:
        """Move what was really spent since the last report from the lease to the books."""
        if not settled and not in_doubt:
            return
        with self._writing() as connection:
            connection.execute(
                LEASES.update()
                .where(LEASES.c.run_id == run_id, LEASES.c.holder == holder)
                .values(amount_nano=LEASES.c.amount_nano - (settled + in_doubt))
            )
            self._add(connection, run_id, now, settled, in_doubt)

    def give_back(self, run_id: str, holder: str) -> None:
        """End a lease; what it held and did not spend is free again."""
        with self._writing() as connection:
            connection.execute(LEASES.delete().where(LEASES.c.run_id == run_id, LEASES.c.holder == holder))

    def learn(self, run_id: str, digest: str, history: History) -> None:
        """Keep the lengths of a run's answers in the place of what was kept of it before."""
        with self._writing() as connection:
            connection.execute(LENGTHS.delete().where(LENGTHS.c.run_id == run_id))
            rows = [
                {
                    "run_id": run_id,
                    "digest": digest,
                    "class": number,
                    "count": seen.count,
                    "total": seen.total,
                    "squares": seen.squares,
                    "logs": seen.logs,
                }
                for number, seen in history.classes.items()
            ]
            if rows:
                connection.execute(LENGTHS.insert(), rows)

    def history(self, digest: str, runs: int = 10) -> History:
        """The lengths of the answers of the latest runs with this digest (of job, model and prompt)."""
        with self._writing() as connection:
            latest = (
                sa.select(LENGTHS.c.run_id)
                .where(LENGTHS.c.digest == digest)
                .group_by(LENGTHS.c.run_id)
                .order_by(LENGTHS.c.run_id.desc())
                .limit(runs)
            )
            names = [name for (name,) in connection.execute(latest)]
            found = connection.execute(sa.select(LENGTHS).where(LENGTHS.c.run_id.in_(names))).mappings().all()
        whole = History(runs=len(names))
        for row in found:
            seen = Seen(int(row["count"]), int(row["total"]), int(row["squares"]), float(row["logs"]))
            whole.classes.setdefault(int(row["class"]), Seen()).merge(seen)
        return whole

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
        with self._writing() as connection:
            row = connection.execute(query).first()
        return None if row is None else (int(row[0]), int(row[1]))

    def finish(self, run_id: str, finished_at: datetime) -> None:
        """Note that a run is finished."""
        with self._writing() as connection:
            connection.execute(RUNS.update().where(RUNS.c.run_id == run_id).values(finished_at=finished_at.isoformat()))

    def _add(self, connection: sa.Connection, run_id: str, now: datetime, settled: int, in_doubt: int) -> None:
        if not settled and not in_doubt:
            return
        day = now.astimezone(UTC).date().isoformat()
        changed = connection.execute(
            DAYS.update()
            .where(DAYS.c.run_id == run_id, DAYS.c.day == day)
            .values(settled_nano=DAYS.c.settled_nano + settled, in_doubt_nano=DAYS.c.in_doubt_nano + in_doubt)
        )
        if changed.rowcount == 0:
            connection.execute(
                DAYS.insert().values(run_id=run_id, day=day, settled_nano=settled, in_doubt_nano=in_doubt)
            )

    def held_by_others(self, run_id: str, holder: str, month: str | None) -> int:
        """Nano-dollars that other holders have leased for the run, or, with a month, for any run in it."""
        mine = sa.and_(LEASES.c.run_id == run_id, LEASES.c.holder == holder)
        scope = LEASES.c.run_id == run_id if month is None else LEASES.c.day.like(f"{month}-%")
        with self._writing() as connection:
            query = sa.select(sa.func.coalesce(sa.func.sum(LEASES.c.amount_nano), 0)).where(scope, sa.not_(mine))
            return int(connection.execute(query).scalar_one())

    def resolve(self, month: str, job: str | None, *, paid: bool) -> int:
        """Settle what was in doubt in a month as paid, or as not paid; gives the nano-dollars that were in doubt."""
        runs = sa.select(RUNS.c.run_id) if job is None else sa.select(RUNS.c.run_id).where(RUNS.c.job == job)
        where = sa.and_(DAYS.c.day.like(f"{month}-%"), DAYS.c.run_id.in_(runs))
        with self._writing() as connection:
            found = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(DAYS.c.in_doubt_nano), 0)).where(where))
            total = int(found.scalar_one())
            settled = DAYS.c.settled_nano + (DAYS.c.in_doubt_nano if paid else 0)
            connection.execute(DAYS.update().where(where).values(settled_nano=settled, in_doubt_nano=0))
        return total

    def of_run(self, run_id: str) -> Booked:
        """What is booked for a run."""
        with self._writing() as connection:
            return _booked(connection, DAYS.c.run_id == run_id, LEASES.c.run_id == run_id)

    def of_month(self, month: str) -> Booked:
        """What is booked for a month such as 2026-11, over all runs."""
        with self._writing() as connection:
            return _booked(connection, DAYS.c.day.like(f"{month}-%"), LEASES.c.day.like(f"{month}-%"))

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
            .where(DAYS.c.day.like(f"{month}-%"))
            .group_by(DAYS.c.day, RUNS.c.job, RUNS.c.model)
            .order_by(DAYS.c.day, RUNS.c.job, RUNS.c.model)
        )
        if job is not None:
            query = query.where(RUNS.c.job == job)
        with self._writing() as connection:
            return [
                {**row._mapping, "settled_nano": int(row.settled_nano), "in_doubt_nano": int(row.in_doubt_nano)}  # noqa: SLF001
                for row in connection.execute(query)
            ]


def _booked(connection: sa.Connection, days: sa.ColumnElement[bool], leases: sa.ColumnElement[bool] | None) -> Booked:
    total = sa.func.coalesce
    settled, in_doubt = connection.execute(
        sa.select(total(sa.func.sum(DAYS.c.settled_nano), 0), total(sa.func.sum(DAYS.c.in_doubt_nano), 0)).where(days)
    ).one()
    leased = 0
    if leases is not None:
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


def month_of(day: date) -> str:
    """A day's month, such as 2026-11."""
    return f"{day:%Y-%m}"
