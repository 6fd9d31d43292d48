"""The index of answers: where in the journals of a state folder the outcome for a request key is.

The journals are the truth and are never rewritten. This SQLite file only records, for each key and each output that
asked, which journal holds the latest outcome and at which offset. It can be deleted at any time: it is rebuilt from the
journals.

A start reads only what is new. For a closed run, which writes no more (`RunFolder.closed_ns`), it looks at the folder
of the journals only, not at each journal.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import orjson

from parquill.tasks.errors import DamagedJournal, DiskFailed
from parquill.tasks.records import REUSABLE, Outcome
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.folders import Folders, RunFolder
from parquill.tasks.storage.journal import OutcomeLine, damaged, outcome_lines, scan_journal, tell_cut
from parquill.tasks.storage.sqlite import use_wal

VERSION = 3  # of the tables: a file of another version is rebuilt
LOCK_TIMEOUT_S = 60
_SCHEMA = """
CREATE TABLE IF NOT EXISTS outputs (number INTEGER PRIMARY KEY, path TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY, run_id TEXT UNIQUE, output INTEGER, closed_ns INTEGER
);
CREATE TABLE IF NOT EXISTS answers (
    key BLOB, output INTEGER, run INTEGER, shard INTEGER, offset INTEGER, length INTEGER, crc INTEGER, status TEXT,
    PRIMARY KEY (key, output)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS indexed_to (
    run INTEGER, shard INTEGER, size INTEGER, PRIMARY KEY (run, shard)
) WITHOUT ROWID;
"""
_FIND = """
SELECT key, run_id, shard, offset, length, crc, status, path FROM answers
JOIN runs ON run = runs.number JOIN outputs ON answers.output = outputs.number WHERE key IN (?)
"""
# a failure never hides a paid answer; otherwise the latest run wins, in whatever order the runs are indexed
_PUT = """
INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key, output) DO UPDATE SET
    run = excluded.run, shard = excluded.shard, offset = excluded.offset, length = excluded.length,
    crc = excluded.crc, status = excluded.status
WHERE (excluded.status != 'failed' AND answers.status = 'failed')
    OR ((excluded.status != 'failed' OR answers.status = 'failed')
        AND (SELECT run_id FROM runs WHERE number = excluded.run) >= (SELECT run_id FROM runs WHERE number = run))
"""
_SIZES = "SELECT run_id, shard, size FROM indexed_to JOIN runs ON run = number"
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class AnswerLocation(NamedTuple):
    """Where an outcome is, its checksum, its status, and the output folder whose rows carry its cost."""

    run_id: str
    shard: int
    offset: int
    length: int
    crc: int
    status: str
    output: str

    @property
    def reusable(self) -> bool:
        """Whether the outcome is a paid answer, which is reused instead of requested again."""
        return self.status in REUSABLE


class _IndexAheadOfJournals(Exception):
    """The index had answers that the journals lack. It is empty now; the caller must index every journal again."""


class AnswerIndex:
    """The index of one state folder; safe to use from several threads."""

    def __init__(self, state: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Open or create `state`/answers.sqlite. Raises DiskFailed."""
        self._now_ns = now_ns
        self._runs = state / "runs"
        self._path = state / "answers.sqlite"
        self._lock = threading.Lock()
        self._outputs: dict[str, str] = {}  # of the runs that were registered here
        try:
            self._connection = self._open()
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise self._failure(error) from None
            self._remove()  # rebuilt from the journals
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise DiskFailed(f"cannot open {self._path}: {error.strerror}") from None
        connection = sqlite3.connect(self._path, timeout=LOCK_TIMEOUT_S, check_same_thread=False, isolation_level=None)
        try:
            # promise: first start: a process waits while another one creates the index
            use_wal(connection.execute, LOCK_TIMEOUT_S)
            # NORMAL may lose the last transactions, which are read again from the journals. OFF could lose answers
            # that are marked as indexed in a power cut, and they would be paid for again.
            # promise: C1 a power cut loses no answer that the index marks as indexed
            connection.execute("PRAGMA synchronous=NORMAL")
            _make_tables(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _remove(self) -> None:
        for name in (self._path.name, f"{self._path.name}-wal", f"{self._path.name}-shm"):
            self._path.with_name(name).unlink(missing_ok=True)

    def _failure(self, error: sqlite3.Error) -> DiskFailed:
        return DiskFailed(f"cannot use {self._path}: {error}")

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):  # what the last checkpoint lacks is read again from the journals
            self._connection.close()

    def add_run(self, run_id: str, output: str) -> None:
        """Register a run before its shards are indexed. Raises DiskFailed."""
        self._outputs[run_id] = output
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO outputs (path) VALUES (?)", (output,))
            connection.execute(
                "INSERT OR IGNORE INTO runs (run_id, output) SELECT ?, number FROM outputs WHERE path = ?",
                (run_id, output),
            )

    def add_shard(self, run_id: str, shard: int, journal: Path) -> None:
        """Index the outcomes of one journal. Raises DamagedJournal, DiskFailed."""
        scan = scan_journal(journal)
        if scan.tail.torn_bytes:
            # promise: C2 a torn end in the journal of an abandoned run is reported
            tell_cut(journal, scan.tail.torn_bytes)
        # only up to the end of the last whole group: a run that resumes overwrites the damaged bytes after it
        # promise: C1 a journal counts as indexed only up to its last whole group
        self.add_outcomes(run_id, shard, outcome_lines(scan.entries()), scan.tail.end)

    def add_outcomes(self, run_id: str, shard: int, outcomes: Iterable[OutcomeLine], end: int) -> None:
        """Index the outcomes of a journal, which are all that it has up to the byte `end`. Raises DiskFailed."""
        rows = list(outcomes)  # before the transaction, since reading them may fail
        if not self._knows(run_id):  # another process has emptied the index meanwhile
            self.add_run(run_id, self._outputs[run_id])
        with self._transaction() as connection:
            number, output = connection.execute(
                "SELECT number, output FROM runs WHERE run_id = ?", (run_id,)
            ).fetchone()
            connection.executemany(
                _PUT,
                ((row.key, output, number, shard, row.offset, row.length, row.crc, row.status) for row in rows),
            )
            connection.execute("INSERT OR REPLACE INTO indexed_to VALUES (?, ?, ?)", (number, shard, end))

    def _knows(self, run_id: str) -> bool:
        with self._asking() as connection:
            return connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is not None

    def _missing(self, runs: Iterable[RunFolder]) -> Iterator[tuple[RunFolder, list[tuple[int, Path]]]]:
        """The journals of each run that are not indexed to their end; an indexed one grows when its run resumes.

        If a journal is gone, or shorter than its indexed part (its last group was never synced, and the power was cut),
        the index has answers that no longer exist, so it is emptied. Raises DiskFailed, _IndexAheadOfJournals.
        """
        closed, indexed = self._indexed()
        missing, closing, now_ns = [], [], self._now_ns()
        for run in runs:
            closed_ns = run.closed_ns(now_ns)
            was_closed_ns = closed.pop(run.run_id, None)
            # promise: history: the journals of a closed run are not listed again
            if closed_ns is not None and closed_ns == was_closed_ns:
                continue
            found = self._indexed_of(run.run_id) if was_closed_ns is not None else indexed.pop(run.run_id, {})
            sizes = [(shard, path, path.stat().st_size) for shard, path in list_journals(run.path)]
            there = {shard: size for shard, _, size in sizes}
            if any(there.get(shard, -1) < size for shard, size in found.items()):
                # promise: C1 an index that is ahead of the journals is emptied
                self._empty()
            missing.append((run, [(shard, path) for shard, path, size in sizes if found.get(shard) != size]))
            if closed_ns != was_closed_ns:
                closing.append((closed_ns, run.run_id))
        # promise: C4 the index drops the answers of removed runs
        # promise: history: the removal of a closed run is noticed
        if indexed or closed:  # whole runs are gone
            self._empty()
        yield from missing
        if not closing:
            return
        with self._transaction() as connection:
            connection.executemany("UPDATE runs SET closed_ns = ? WHERE run_id = ?", closing)

    def _indexed(self) -> tuple[dict[str, int], dict[str, dict[int, int]]]:
        """Of closed runs when they were closed; of the others the size of each journal that is indexed."""
        indexed: dict[str, dict[int, int]] = {}
        with self._asking() as connection:
            closed = dict(connection.execute("SELECT run_id, closed_ns FROM runs WHERE closed_ns IS NOT NULL"))
            rows = connection.execute(f"{_SIZES} WHERE closed_ns IS NULL").fetchall()
        for run_id, shard, size in rows:
            indexed.setdefault(run_id, {})[shard] = size
        return closed, indexed

    def _indexed_of(self, run_id: str) -> dict[int, int]:
        with self._asking() as connection:
            rows = connection.execute(f"{_SIZES} WHERE run_id = ?", (run_id,)).fetchall()
        return {shard: size for _, shard, size in rows}

    def _empty(self) -> NoReturn:
        with self._asking() as connection:
            _make_tables(connection, from_scratch=True)
        raise _IndexAheadOfJournals

    def index_new_journals(self, runs: Iterable[RunFolder]) -> None:
        """Index every journal that is not yet indexed. Raises DamagedJournal, DiskFailed, _IndexAheadOfJournals."""
        for run, missing in self._missing(runs):
            if missing:
                settings = read_json(run.path / "job.json") or {}
                self.add_run(run.run_id, settings.get("output", ""))
                for number, journal in missing:
                    self.add_shard(run.run_id, number, journal)

    def find(self, keys: Sequence[bytes], output: str) -> dict[bytes, AnswerLocation]:
        """Return where the outcomes of these keys are; keys without an outcome are left out.

        A paid answer is preferred to a failure, one of this output to one of another, a later one to an earlier one.
        """
        return {key: places[0] for key, places in self.find_all(keys, output).items()}

    def find_all(self, keys: Sequence[bytes], output: str) -> dict[bytes, list[AnswerLocation]]:
        """Return all outcomes of these keys, one per output, in the order in which `find` prefers them."""
        found: dict[bytes, list[AnswerLocation]] = {}
        for at in range(0, len(keys), 500):
            some = keys[at : at + 500]
            marks = ",".join("?" * len(some))
            with self._asking() as connection:
                rows = connection.execute(_FIND.replace("?", marks), some).fetchall()
            for key, *rest in rows:
                found.setdefault(key, []).append(AnswerLocation(*rest))
        for places in found.values():
            if len(places) > 1:
                places.sort(key=lambda location: _rank(location, output), reverse=True)
        return found

    def read(self, places: dict[bytes, AnswerLocation]) -> dict[bytes, Outcome]:
        """Read the outcomes at these places. Raises DamagedJournal if one differs from what was indexed, DiskFailed."""
        outcomes: dict[bytes, Outcome] = {}
        by_file: dict[Path, list[tuple[int, bytes]]] = {}
        for key, location in places.items():
            by_file.setdefault(self.journal(location.run_id, location.shard), []).append((location.offset, key))
        for path, wanted in by_file.items():
            try:
                with path.open("rb") as file:
                    for offset, key in sorted(wanted):
                        line = os.pread(file.fileno(), places[key].length, offset)
                        outcomes[key] = _parse(path, offset, key, line, places[key].crc)
            except FileNotFoundError:
                raise DamagedJournal(
                    f"{path} is missing; it holds the outcomes of {len(wanted)} of the rows. Restore the file from a "
                    "backup: a run without it would pay for its rows again"
                ) from None
            except OSError as error:
                raise DiskFailed(f"cannot read the journal {path}: {error.strerror}") from None
        return outcomes

    def journal(self, run_id: str, shard: int) -> Path:
        """The file of a shard's journal."""
        return self._runs / run_id / "journals" / f"{shard:06d}.journal"

    @contextlib.contextmanager
    def _asking(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                if _is_damage(error):
                    self._remove()
                    raise DiskFailed(
                        f"{self._path} was damaged and has been removed; run again to rebuild it from the journals"
                    ) from None
                raise self._failure(error) from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._asking() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite itself rolls back when the disk is full
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _make_tables(connection: sqlite3.Connection, *, from_scratch: bool = False) -> None:
    if not from_scratch and _version_of(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")  # rolled back with the connection
    # promise: first start: a process keeps an index that another one has just created
    if from_scratch or _version_of(connection) != VERSION:  # another process may have made and filled them meanwhile
        for name in ("answers", "indexed_to", "runs", "outputs"):
            connection.execute(f"DROP TABLE IF EXISTS {name}")
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
    connection.execute("COMMIT")


def _version_of(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _rank(location: AnswerLocation, output: str) -> tuple[bool, bool, str]:
    # promise: C1 the index prefers a paid answer to a failed attempt
    # promise: C1 the index prefers an output's own answer to that of another output
    return location.reusable, location.output == output, location.run_id


def _parse(path: Path, offset: int, key: bytes, line: bytes, crc: int) -> Outcome:
    # promise: C2 an answer whose bytes have changed since indexing is never returned
    if zlib.crc32(line) == crc:
        record = orjson.loads(line)
        if record["key"] == key.hex():
            return Outcome.from_record(record)
    raise damaged(scan_journal(path), offset)


def open_answers(folders: Folders) -> AnswerIndex:
    """Open the index of a state folder, with every journal in it indexed, those of interrupted runs included.

    Raises DamagedJournal, DiskFailed.
    """
    answers = AnswerIndex(folders.state)
    try:
        try:
            answers.index_new_journals(folders.runs())
        except _IndexAheadOfJournals:
            answers.index_new_journals(folders.runs())
    except BaseException:
        answers.close()
        raise
    return answers


def list_journals(run: Path) -> Iterator[tuple[int, Path]]:
    """The (number, file) of each journal that a run has."""
    for path in sorted((run / "journals").glob("*.journal")):
        yield int(path.stem), path


def digest_of_journals(runs: Iterable[RunFolder], but: str) -> str:
    """What changes whenever a run writes a journal, or somebody removes one; the run `but` is left out.

    It also changes once when a run is closed.
    """
    found, now_ns = hashlib.sha256(), time.time_ns()
    for run in runs:
        if run.run_id == but:
            continue
        if (closed_ns := run.closed_ns(now_ns)) is not None:
            found.update(f"{run.run_id} closed {closed_ns}\n".encode())
        else:
            for shard, path in list_journals(run.path):
                # promise: C1 a resumed run looks for new answers if another run's journal has changed
                found.update(f"{run.run_id} {shard} {path.stat().st_size}\n".encode())
    return found.hexdigest()
