"""The ledger's database: an SQLite file in the user's state folder, or the database in PARQUILL_LEDGER_URL.

Writers take turns: a transaction takes the one lock before its first read, so nothing comes between a check and a
reservation. Every wait is bounded: if the database is unavailable, or another process does not release the lock, a call
raises LedgerFailed after some seconds, and a caller that can wait longer calls again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import platformdirs
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from parquill.tasks.errors import LedgerFailed
from parquill.tasks.money.ledger_tables import META, METADATA, VERSION
from parquill.tasks.storage.sqlite import use_wal

CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 10  # a transaction takes milliseconds
STATEMENT_TIMEOUT_S = 20
FROZEN_TIMEOUT_S = 30  # a process that freezes within a transaction, for example on a suspended machine, loses its lock
_LOCK = 7210021  # any number that no other program uses


def ledger_url() -> sa.URL:
    """Return PARQUILL_LEDGER_URL, or the URL of the SQLite file in the user's state folder. Raises LedgerFailed."""
    url = os.environ.get("PARQUILL_LEDGER_URL")
    if not url:
        folder = Path(platformdirs.user_state_dir("parquill"))
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerFailed(
                f"the ledger's folder {folder} cannot be created: {error.strerror}; set XDG_STATE_HOME to a folder "
                "that can be written, or PARQUILL_LEDGER_URL to a database"
            ) from None
        return sa.URL.create("sqlite", database=str(folder / "ledger.sqlite"))
    try:
        found = sa.make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    except SQLAlchemyError:
        raise LedgerFailed("PARQUILL_LEDGER_URL is not a SQLAlchemy URL") from None
    return found.set(drivername="postgresql+psycopg") if found.drivername == "postgresql" else found


class LedgerDatabase:
    """The database with the ledger's tables; safe to use from several threads and processes."""

    def __init__(
        self, url: sa.URL | str | None = None, *, lock_s: float = LOCK_TIMEOUT_S, is_durable: bool = True
    ) -> None:
        """Open the database and create its tables; `lock_s` is how long a call waits for other writers, in seconds.

        Without `is_durable` SQLite does not sync each transaction: a power cut may lose the last ones, a kill does not.

        Raises LedgerFailed, which does not show the URL.
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
            # no test shows that a limit holds on another database
            raise LedgerFailed("PARQUILL_LEDGER_URL names neither an SQLite file nor a PostgreSQL database")
        with self.transaction() as connection:
            self._create(connection)

    @staticmethod
    def _create(connection: sa.Connection) -> None:
        METADATA.create_all(connection, tables=[META])
        found = connection.execute(sa.select(META.c.value).where(META.c.name == "version")).scalar()
        if found not in {None, str(VERSION)}:
            raise LedgerFailed(
                f"the ledger has the version {found}, and this Parquill knows only version {VERSION}; use the Parquill "
                "that wrote it, or set PARQUILL_LEDGER_URL to another ledger"
            )
        METADATA.create_all(connection)
        if found is None:
            connection.execute(META.insert().values(name="version", value=str(VERSION)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Run one transaction, exclusive of other writers. Raises LedgerFailed after the transaction is rolled back.

        If the connection is lost during the commit, it is unknown whether it was rolled back: each write must be
        correct even if it is made twice.
        """
        try:
            with self.engine.begin() as connection:
                if not self.is_sqlite:
                    connection.execute(self._timeouts)
                    # promise: M1 the PostgreSQL ledger takes its lock before it checks a limit
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                yield connection
        except SQLAlchemyError as error:
            raise LedgerFailed(f"the ledger's database does not answer ({type(error).__name__})") from None


def _check_folder(database: str | None) -> None:
    """Refuse an SQLite file that cannot be created or written, and name it or its folder. Raises LedgerFailed."""
    if not database or database == ":memory:" or database.startswith("file:"):
        return
    file = Path(database).absolute()
    if not file.parent.is_dir():
        raise LedgerFailed(
            f"the ledger's folder {file.parent} does not exist; create it, or change PARQUILL_LEDGER_URL"
        )
    # SQLite creates more files in the same folder
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise LedgerFailed(
            f"the ledger {file} cannot be written; set XDG_STATE_HOME to a folder that can be written, or "
            "PARQUILL_LEDGER_URL to a database"
        )


def _timeouts(lock_s: float) -> sa.Select[Any]:
    # for one transaction only: a connection pooler would keep the settings for other clients
    settings = {
        "lock_timeout": lock_s,
        "statement_timeout": STATEMENT_TIMEOUT_S,
        "idle_in_transaction_session_timeout": FROZEN_TIMEOUT_S,
    }
    named = (sa.func.set_config(name, f"{seconds * 1000:.0f}ms", True) for name, seconds in settings.items())
    return sa.select(*named)


def _arguments(address: sa.URL, lock_s: float) -> dict[str, Any]:
    """Return the connection arguments that the URL does not set itself."""
    if address.get_backend_name() == "sqlite":
        return {"timeout": lock_s}
    if address.drivername != "postgresql+psycopg":
        return {}
    wanted = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": STATEMENT_TIMEOUT_S * 1000,
    }
    wanted["prepare_threshold"] = None  # type: ignore[assignment]  # a pooler may lose prepared statements
    return {name: value for name, value in wanted.items() if name not in address.query}


def _set_up_sqlite(connection: Any, lock_s: float, sync: str) -> None:
    connection.isolation_level = None  # transactions are begun below, by SQLAlchemy's event
    cursor = connection.cursor()
    # promise: first start: a process waits while another one creates the ledger
    use_wal(cursor.execute, lock_s)
    cursor.execute(f"PRAGMA synchronous={sync}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    # take the lock before the first read, so that no other writer comes between a check and its reservation
    # promise: M1 the SQLite ledger takes its write lock before it checks a limit
    connection.exec_driver_sql("BEGIN IMMEDIATE")
