"""SQLite files that several processes may open at the same time, even for the first time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import tenacity


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


def use_wal(execute: Callable[[str], object], wait_s: float) -> None:
    """Switch a file to write-ahead logging; waits up to `wait_s` seconds for other processes that do the same.

    If two processes switch a new file at once, SQLite refuses one of them at once, whatever the connection's timeout
    (https://www.sqlite.org/c3ref/busy_handler.html: a wait could be a deadlock). Raises sqlite3.Error.
    """
    tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_locked),
        stop=tenacity.stop_after_delay(wait_s),
        wait=tenacity.wait_random(0.005, 0.05),
        reraise=True,
    )(execute, "PRAGMA journal_mode=WAL")
