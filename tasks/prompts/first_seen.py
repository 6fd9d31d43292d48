"""Remembers keys and ids on disk: decides which row pays for a shared key without a dictionary in memory."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Self


class FirstSeen:
    """The set of keys and ids so far, on disk."""

    def __init__(self, scratch: Path) -> None:
        self._path = scratch / "seen.sqlite"

    def __enter__(self) -> Self:
        self._remove()
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        # a temporary file: a planning that is cut off starts again with a new one
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536", "locking_mode=EXCLUSIVE"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE keys (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._connection.execute("CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._connection.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._remove()

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def first_key(self, key: bytes) -> bool:
        """Whether no earlier row has this key."""
        return self._connection.execute("INSERT OR IGNORE INTO keys VALUES (?)", (key,)).rowcount == 1

    def first_id(self, name: str) -> bool:
        """Whether no earlier row has this id."""
        return self._connection.execute("INSERT OR IGNORE INTO ids VALUES (?)", (name,)).rowcount == 1
