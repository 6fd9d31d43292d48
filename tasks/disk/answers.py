"""Where the answer to a request key is: an index over the journals of a state folder.

The journals are the truth and are never rewritten; this SQLite file only says in which journal, and where in it, the
latest outcome for a key stands. It can be deleted at any time: what it lacks is read again from the journals.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from parquill.tasks.disk.journal import read_journal
from parquill.tasks.errors import DamagedJournal
from parquill.tasks.records import REUSABLE, Outcome

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (number INTEGER PRIMARY KEY, run_id TEXT UNIQUE, output TEXT);
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, run INTEGER, shard INTEGER, offset INTEGER, length INTEGER, status TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS indexed_to (
    run INTEGER, shard INTEGER, size INTEGER, PRIMARY KEY (run, shard)
) WITHOUT ROWID;
"""
_FIND = """
SELECT key, run_id, shard, offset, length, status, output FROM answers JOIN runs ON run = number WHERE key IN (?)
"""


class Place(NamedTuple):
    """Where an outcome stands, its status, and the output folder whose rows carry its cost."""

    run_id: str
    shard: int
    offset: int
    length: int
    status: str
    output: str

    @property
    def reusable(self) -> bool:
        """Whether the outcome is a paid answer that is not asked for again."""
        return self.status in REUSABLE


class AnswerIndex:
    """The index of one state folder; safe to use from several threads."""

    def __init__(self, state: Path) -> None:
        """Open or create `state`/answers.sqlite."""
        self._runs = state / "runs"
        path = state / "answers.sqlite"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.close(descriptor)
        self._lock = threading.Lock()
        try:
            self._connection = self._open(path)
        except sqlite3.DatabaseError:  # damaged: it is made anew from the journals
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink(missing_ok=True)
            self._connection = self._open(path)

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # it is rebuilt from the journals, so it need not be synced
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        connection.executescript(_SCHEMA)
        return connection

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add_run(self, run_id: str, output: str) -> None:
        """Register a run before its shards are indexed."""
        with self._lock:
            self._connection.execute("INSERT OR IGNORE INTO runs (run_id, output) VALUES (?, ?)", (run_id, output))

    def add_shard(self, run_id: str, shard: int, journal: Path) -> None:
        """Index the outcomes of one journal; a later outcome for a key takes the place of an earlier one."""
        size = journal.stat().st_size
        rows = [
            (bytes.fromhex(entry.record["key"]), shard, entry.offset, entry.length, entry.record["status"])
            for entry in read_journal(journal)
            if entry.record["type"] == "outcome"
        ]
        with self._lock, self._transaction() as connection:
            number = connection.execute("SELECT number FROM runs WHERE run_id = ?", (run_id,)).fetchone()[0]
            connection.executemany(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET run = excluded.run, "
                "shard = excluded.shard, offset = excluded.offset, length = excluded.length, status = excluded.status "
                # a failed try never hides a paid answer
                "WHERE excluded.status != 'failed' OR answers.status = 'failed'",
                ((key, number, *rest) for key, *rest in rows),
            )
            connection.execute("INSERT OR REPLACE INTO indexed_to VALUES (?, ?, ?)", (number, shard, size))

    def missing(self, run_id: str, journals: Iterable[tuple[int, Path]]) -> list[tuple[int, Path]]:
        """Which journals of a run are not indexed to their end: an indexed one grows when its run goes on."""
        with self._lock:
            found = dict(
                self._connection.execute(
                    "SELECT shard, size FROM indexed_to JOIN runs ON run = number WHERE run_id = ?", (run_id,)
                ).fetchall()
            )
        return [(shard, path) for shard, path in journals if found.get(shard) != path.stat().st_size]

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Place]:
        """Where the outcomes of these keys are; keys without one are left out."""
        found: dict[bytes, Place] = {}
        with self._lock:
            for at in range(0, len(keys), 500):
                some = keys[at : at + 500]
                marks = ",".join("?" * len(some))
                rows = self._connection.execute(_FIND.replace("?", marks), some)
                found.update({row[0]: Place(*row[1:]) for row in rows})
        return found

    def read(self, places: dict[bytes, Place]) -> dict[bytes, Outcome]:
        """Read the outcomes at these places. Raises DamagedJournal if one is not what the index says."""
        outcomes: dict[bytes, Outcome] = {}
        by_file: dict[Path, list[tuple[int, bytes]]] = {}
        for key, place in places.items():
            by_file.setdefault(self.journal(place.run_id, place.shard), []).append((place.offset, key))
        for path, wanted in by_file.items():
            with path.open("rb") as file:
                for offset, key in sorted(wanted):
                    line = os.pread(file.fileno(), places[key].length, offset)
                    outcomes[key] = _parse(path, offset, key, line)
        return outcomes

    def journal(self, run_id: str, shard: int) -> Path:
        """The file of a shard's journal."""
        return self._runs / run_id / "journals" / f"{shard:06d}.journal"

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection)


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        self._connection.execute("ROLLBACK" if kind else "COMMIT")


def _parse(path: Path, offset: int, key: bytes, line: bytes) -> Outcome:
    try:
        record = orjson.loads(line)
        if record["key"] == key.hex():
            return Outcome.from_record(record)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    raise DamagedJournal(f"{path} does not hold the answer that is expected at byte {offset}")


def journals_of(run: Path) -> Iterator[tuple[int, Path]]:
    """The (number, file) of each journal that a run has."""
    for path in sorted((run / "journals").glob("*.journal")):
        yield int(path.stem), path
