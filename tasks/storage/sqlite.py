"""SQLite files that several processes open at the same moment, the first time too."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import tenacity


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


def use_wal(execute: Callable[[str], object], wait_s: float) -> None:
    """Switch a file to write-ahead logging, waiting up to `wait_s` seconds for others who do the same.

    Of two that switch a new file at once SQLite refuses one without a wait, whatever the connection's timeout
    (https://www.sqlite.org/c3ref/busy_handler.html: a wait could be a deadlock). Raises sqlite3.Error.
    """
    tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_locked),
        stop=tenacity.stop_after_delay(wait_s),
        wait=tenacity.wait_random(0.005, 0.05),
        reraise=True,
    )(execute, "PRAGMA journal_mode=WAL")
