"""Where the ledger is kept: an SQLite file in the user's state folder, or the database in PARQUILL_LEDGER_URL.

Whoever writes is alone: a transaction takes the one lock before its first read, so nothing comes between a check and a
reservation. No wait is without end: a database that is away, or a lock that another process does not let go, raises
LedgerFailed after some seconds, and who can wait longer asks again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from parquill.tasks.errors import LedgerFailed
from parquill.tasks.money.ledger_tables import COUNTS, DAYS, HOLDERS, LEASES, LENGTHS, META, METADATA, VERSION
from parquill.tasks.storage.sqlite import use_wal

CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 10  # a transaction takes milliseconds
STATEMENT_TIMEOUT_S = 20
FROZEN_TIMEOUT_S = 30  # a process that stops within a transaction, as a suspended machine does, loses its lock
_LOCK = 7210021  # any number that nobody else takes


def ledger_url() -> sa.URL:
    """PARQUILL_LEDGER_URL, or the SQLite file in the user's state folder. Raises LedgerFailed."""
    url = os.environ.get("PARQUILL_LEDGER_URL")
    if not url:
        folder = Path(platformdirs.user_state_dir("parquill"))
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerFailed(
                f"the ledger's folder {folder} cannot be made: {error.strerror}; set XDG_STATE_HOME to a folder that "
                "can be written, or PARQUILL_LEDGER_URL to a database"
            ) from None
        return sa.URL.create("sqlite", database=str(folder / "ledger.sqlite"))
    try:
        found = sa.make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    except SQLAlchemyError:
        raise LedgerFailed("PARQUILL_LEDGER_URL is not a SQLAlchemy URL") from None
    return found.set(drivername="postgresql+psycopg") if found.drivername == "postgresql" else found


class LedgerDatabase:
    """A database with the ledger's tables; safe to use from several threads and processes."""

    def __init__(
        self, url: sa.URL | str | None = None, *, lock_s: float = LOCK_TIMEOUT_S, is_durable: bool = True
    ) -> None:
        """Open it and create its tables; `lock_s` is how long a call waits for other writers.

        Without `is_durable` SQLite does not sync each transaction: a power cut may lose the last ones, a kill does not.

        Raises LedgerFailed, in which the URL is not shown.
        """
        self._timeouts = _timeouts(lock_s)
        try:
            address = sa.make_url(url) if url else ledger_url()
            self.engine = sa.create_engine(address, connect_args=_arguments(address, lock_s))
            self.is_sqlite = self.engine.dialect.name == "sqlite"
        except ImportError:
            raise LedgerFailed(
                "PARQUILL_LEDGER_URL names a database whose driver is not installed; for PostgreSQL: "
                "pip install 'parquill[postgres]'"
            ) from None
        except (SQLAlchemyError, OSError, ValueError) as error:
            raise LedgerFailed(f"PARQUILL_LEDGER_URL cannot be used ({type(error).__name__})") from None
        if self.is_sqlite:
            _check_folder(address.database)
            sync = "FULL" if is_durable else "NORMAL"
            sa.event.listen(self.engine, "connect", lambda connection, _: _set_up_sqlite(connection, lock_s, sync))
            sa.event.listen(self.engine, "begin", _begin_immediate)
        elif self.engine.dialect.name != "postgresql":
            # nobody has proved that a limit holds there
            raise LedgerFailed("PARQUILL_LEDGER_URL names neither an SQLite file nor a PostgreSQL database")
        with self.transaction() as connection:
            self._create(connection)

    @staticmethod
    def _create(connection: sa.Connection) -> None:
        METADATA.create_all(connection, tables=[META])
        found = connection.execute(sa.select(META.c.value).where(META.c.name == "version")).scalar()
        if found == "1":
            _from_version_1(connection)
        elif found == "2":
            _forget_other_shapes(connection, (LENGTHS,))
        elif found not in {None, str(VERSION)}:
            raise LedgerFailed(f"the ledger has the version {found}; this Parquill knows only version {VERSION}")
        METADATA.create_all(connection)
        if found is None:
            connection.execute(META.insert().values(name="version", value=str(VERSION)))

    def close(self) -> None:
        """Close its connections."""
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction that no other writer can come between. Raises LedgerFailed, the transaction undone.

        When the connection is lost at the very end nobody knows whether it was undone: whatever is written must be
        right also when it is written twice.
        """
        try:
            with self.engine.begin() as connection:
                if not self.is_sqlite:
                    connection.execute(self._timeouts)
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                yield connection
        except SQLAlchemyError as error:
            raise LedgerFailed(f"the ledger's database does not answer ({type(error).__name__})") from None


def _check_folder(database: str | None) -> None:
    """Name the folder of an SQLite file that could not be made or written. Raises LedgerFailed."""
    if not database or database == ":memory:" or database.startswith("file:"):
        return
    file = Path(database).absolute()
    if not file.parent.is_dir():
        raise LedgerFailed(f"the ledger's folder {file.parent} is not there; make it, or change PARQUILL_LEDGER_URL")
    # SQLite puts its own files beside it
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise LedgerFailed(
            f"the ledger {file} cannot be written; set XDG_STATE_HOME to a folder that can be written, or "
            "PARQUILL_LEDGER_URL to a database"
        )


def _from_version_1(connection: sa.Connection) -> None:
    """Version 1 kept leases otherwise: what they held is in doubt now, until its run goes on or a person resolves it.

    What was learned from answers is forgotten where it was kept otherwise; the next night teaches it anew.
    """
    inspector = sa.inspect(connection)
    there = {name: {column["name"] for column in inspector.get_columns(name)} for name in inspector.get_table_names()}
    old = sa.table(LEASES.name, *(sa.column(name) for name in ("run_id", "day", "amount_nano")))
    if {"run_id", "day", "amount_nano"} <= there.get(LEASES.name, set()):
        amounts = sa.select(old.c.run_id, old.c.day, sa.func.sum(old.c.amount_nano)).where(old.c.amount_nano > 0)
        for run_id, day, amount in connection.execute(amounts.group_by(old.c.run_id, old.c.day)).all():
            this = sa.and_(DAYS.c.run_id == run_id, DAYS.c.day == day)
            more = DAYS.update().where(this).values(in_doubt_nano=DAYS.c.in_doubt_nano + int(amount))
            if connection.execute(more).rowcount == 0:
                new = {"run_id": run_id, "day": day, "settled_nano": 0, "in_doubt_nano": int(amount)}
                connection.execute(DAYS.insert().values(new))
    _forget_other_shapes(connection, (LEASES, HOLDERS, LENGTHS, COUNTS))


def _forget_other_shapes(connection: sa.Connection, tables: Iterable[sa.Table]) -> None:
    """Drop those of the tables that an earlier version made with other columns, and say that the ledger is of this one.

    Version 2 kept no cache writes of the answers that it had learned from: the next night teaches them.
    """
    inspector = sa.inspect(connection)
    names = set(inspector.get_table_names())
    for table in tables:
        columns = {column.name for column in table.columns}
        if table.name in names and {column["name"] for column in inspector.get_columns(table.name)} != columns:
            table.drop(connection)
    connection.execute(META.update().where(META.c.name == "version").values(value=str(VERSION)))


def _timeouts(lock_s: float) -> sa.Select[Any]:
    # for one transaction only: a pooler that lends connections would keep them for others
    settings = {
        "lock_timeout": lock_s,
        "statement_timeout": STATEMENT_TIMEOUT_S,
        "idle_in_transaction_session_timeout": FROZEN_TIMEOUT_S,
    }
    named = (sa.func.set_config(name, f"{seconds * 1000:.0f}ms", True) for name, seconds in settings.items())
    return sa.select(*named)


def _arguments(address: sa.URL, lock_s: float) -> dict[str, Any]:
    """How to connect, where the URL does not say it."""
    if address.get_backend_name() == "sqlite":
        return {"timeout": lock_s}
    if address.drivername != "postgresql+psycopg":
        return {}
    wanted = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": STATEMENT_TIMEOUT_S * 1000,
    }
    wanted["prepare_threshold"] = None  # type: ignore[assignment]  # no pooler loses what is not prepared
    return {name: value for name, value in wanted.items() if name not in address.query}


def _set_up_sqlite(connection: Any, lock_s: float, sync: str) -> None:
    connection.isolation_level = None  # transactions are begun below, by SQLAlchemy's event
    cursor = connection.cursor()
    use_wal(cursor.execute, lock_s)
    cursor.execute(f"PRAGMA synchronous={sync}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    # the lock is taken before the first read, so that nobody comes between the check and the reservation
    connection.exec_driver_sql("BEGIN IMMEDIATE")
