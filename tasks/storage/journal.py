"""The journal of a shard: an intent before each request, and its outcome after it.

A file is a sequence of groups. Each is written and synced as one, and the next is written only after that, so a crash
can damage only the last one:

    magic "PQJ1" | number u32 | payload bytes u32 | crc32 u32 of number, size and payload | payload

all little-endian. The payload is JSON records, one per line (`strings FILE` shows them). The first record is the
header {"journal": 1, "run_id", "shard"}. A damaged last group is cut off and reported. Damage anywhere else stops the
run, since skipping it would pay for its rows again.

The writer of a journal holds its lock: two writers would mix their groups and pay for each row twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from parquill.tasks.errors import DamagedJournal, DiskFailed, FolderInUse
from parquill.tasks.records import Outcome, to_json
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.file_lock import LOCK_CHECK_INTERVAL_S, close_locked, register_locked, try_lock

_log = logging.getLogger("parquill.journal")

VERSION = 1
MAGIC = b"PQJ1"
LOCK_TIMEOUT_S = 30.0  # longer than a stopped worker waits for its last requests
_HEAD = struct.Struct("<4sIII")
_CHECKED = struct.Struct("<II")


class JournalRecord(NamedTuple):
    """One record: the offset and the length of its line in bytes, the line, and the parsed record."""

    offset: int
    length: int
    line: memoryview
    record: dict[str, Any]


class OutcomeLine(NamedTuple):
    """Where an outcome is in its journal: its request key, the place and the checksum of its line, and its status."""

    key: bytes
    offset: int
    length: int
    crc: int
    status: str


class Tail(NamedTuple):
    """Where the last whole group begins and ends, the number of whole groups, and the damaged bytes after them."""

    last: int
    end: int
    groups: int
    torn_bytes: int


class Scan(NamedTuple):
    """A journal as it was read: its bytes, (start, end) of the payload of each whole group, and its tail."""

    path: Path
    data: bytes
    spans: list[tuple[int, int]]
    tail: Tail

    def entries(self) -> Iterator[JournalRecord]:
        """Yield the records in order, without the header. Raises DamagedJournal for an unknown version."""
        view = memoryview(self.data)
        for number, (start, end) in enumerate(self.spans):
            at = start
            while at < end:
                stop = self.data.index(b"\n", at, end)
                line = view[at:stop]
                record = orjson.loads(line)
                if number == 0 and at == start:
                    check_version(self.path, record)
                else:
                    yield JournalRecord(at, stop - at, line, record)
                at = stop + 1


def outcome_lines(records: Iterable[JournalRecord]) -> Iterator[OutcomeLine]:
    """Yield where the outcomes among the records are."""
    for each in records:
        record = each.record
        if record["type"] == "outcome":
            crc = zlib.crc32(each.line)
            yield OutcomeLine(bytes.fromhex(record["key"]), each.offset, each.length, crc, record["status"])


def _group(number: int, payload: bytes) -> bytes:
    checked = zlib.crc32(payload, zlib.crc32(_CHECKED.pack(number, len(payload))))
    return _HEAD.pack(MAGIC, number, len(payload), checked) + payload


def _payload(data: bytes | memoryview, at: int, number: int | None) -> memoryview | None:
    """Return the payload of the group at an offset; None if no whole group (with that number, if given) is there."""
    view = memoryview(data)
    if at + _HEAD.size > len(view):
        return None
    magic, found, size, checked = _HEAD.unpack_from(view, at)
    payload = view[at + _HEAD.size : at + _HEAD.size + size]
    if magic != MAGIC or len(payload) != size or (number is not None and found != number):
        return None
    # promise: C2 a journal group with a wrong checksum is not accepted
    return payload if zlib.crc32(payload, zlib.crc32(_CHECKED.pack(found, size))) == checked else None


def scan_journal(path: Path) -> Scan:
    """Read a journal and find its whole groups.

    Raises DamagedJournal, with the offset and the count of safe rows, if a whole group follows a damaged one;
    DiskFailed if the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DiskFailed(f"cannot read the journal {path}: {error.strerror}") from None
    spans: list[tuple[int, int]] = []
    at = 0
    while (payload := _payload(data, at, len(spans))) is not None:
        start = at + _HEAD.size
        spans.append((start, start + len(payload)))
        at = start + len(payload)
    later = data.find(MAGIC, at + 1)
    while later != -1:
        # promise: C2 damage before the last group of a journal stops the run
        if _payload(data, later, None) is not None:
            raise damaged(Scan(path, data, spans, Tail(at, at, len(spans), len(data) - at)), at)
        later = data.find(MAGIC, later + 1)
    last = spans[-1][0] - _HEAD.size if spans else 0
    return Scan(path, data, spans, Tail(last, at, len(spans), len(data) - at))


def damaged(scan: Scan, at: int) -> DamagedJournal:
    """The error for damage at byte `at` of a journal, which says what is safe and what to do."""
    safe = [entry.record for entry in scan.entries() if entry.offset < at]
    rows = len({record["row"] for record in safe if record["type"] == "outcome"})
    return DamagedJournal(
        f"{scan.path} is damaged at byte {at}; {len(safe)} records before it, with the outcomes of {rows} rows, are "
        "safe. Restore the file from a backup: a run without it would pay for its rows again"
    )


def read_journal(path: Path) -> Iterator[JournalRecord]:
    """Yield the records of a journal in order, without the header. Raises DamagedJournal, DiskFailed."""
    yield from scan_journal(path).entries()


def tell_cut(path: Path, torn_bytes: int) -> None:
    """Report the damaged last group of a journal, which was being written when its run was interrupted."""
    _log.warning("%s: the last %d bytes are an unfinished write; they are cut off", path, torn_bytes)


def check_version(path: Path, header: dict[str, Any]) -> None:
    """Refuse a journal of an unknown version. Raises DamagedJournal."""
    # promise: C8 a journal of an unknown version is refused
    if header.get("journal") != VERSION:
        raise DamagedJournal(
            f"{path} has the version {header.get('journal')!r}, which this Parquill does not know; use the Parquill "
            "that wrote it"
        )


class _Opened(NamedTuple):
    descriptor: int
    number: int  # of the next group
    end: int  # of the last group
    found: Scan  # what the file held


def _lock(path: Path) -> int:
    """Open or create a journal and lock it for its only writer. Raises FolderInUse, OSError."""
    # promise: S3 only the owner can read a journal file
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    register_locked(descriptor)
    try:
        is_ours = try_lock(descriptor)
    except OSError:
        close_locked(descriptor)
        raise
    # promise: C10 a shard has only one writer at a time
    if not is_ours:
        close_locked(descriptor)
        raise FolderInUse(f"another process writes the journal {path}; wait until it ends, and run again")
    return descriptor


def _open(path: Path, header: dict[str, Any], disk: Disk) -> _Opened:
    """Lock a journal and cut off its damaged end. Raises FolderInUse, DamagedJournal, OSError."""
    descriptor = _lock(path)
    try:
        scan = scan_journal(path)  # under the lock: before it another writer could append
        tail = scan.tail
        whole = scan.data[tail.last : tail.end]
        if tail.groups == 0:
            whole = _group(0, orjson.dumps({"journal": VERSION, **header}) + b"\n")
        if tail.torn_bytes:
            # promise: C2 a torn end of a journal is reported
            tell_cut(path, tail.torn_bytes)
            # promise: C2 a torn end of a journal is cut off
            disk.truncate(descriptor, tail.end)
        # Rewrite an existing last group too: if its sync failed, the kernel takes its bytes for written, and no later
        # sync writes them. All groups before it were synced before it was begun.
        os.lseek(descriptor, tail.last, os.SEEK_SET)
        # promise: C5 after a failed sync, the next start writes the last group again
        disk.write(descriptor, whole)
        disk.sync(descriptor)
        # promise: C1 the folder entry of a journal is synced
        disk.sync_folder(path.parent)
    except BaseException:
        close_locked(descriptor)
        raise
    return _Opened(descriptor, max(1, tail.groups), tail.last + len(whole), scan)


def _open_in_turn(
    path: Path, header: dict[str, Any], disk: Disk, clock: Callable[[], float], sleep: Callable[[float], None]
) -> _Opened:
    """`_open` once no other process writes the journal: a worker of an earlier start may still finish its last rows."""
    deadline = clock() + LOCK_TIMEOUT_S
    while True:
        try:
            return _open(path, header, disk)
        except FolderInUse:
            if clock() >= deadline:
                raise
        sleep(LOCK_CHECK_INTERVAL_S)


def append_groups(
    path: Path,
    header: dict[str, Any],
    groups: Iterable[Sequence[Any]],
    disk: Disk = DISK,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Append groups of records to a journal, synced, and return the number of records; creates it for the first group.

    Raises FolderInUse if another process still writes the journal after LOCK_TIMEOUT_S seconds, DamagedJournal,
    DiskFailed.
    """
    count, descriptor, number = 0, None, 0
    try:
        try:
            for records in filter(None, groups):
                if descriptor is None:
                    descriptor, number, *_ = _open_in_turn(path, header, disk, clock, sleep)
                # promise: C1 a reused answer is written to the journal of the run that reuses it
                disk.write(
                    descriptor,
                    _group(number, b"".join(orjson.dumps(each, default=to_json) + b"\n" for each in records)),
                )
                disk.sync(descriptor)
                count, number = count + len(records), number + 1
        finally:
            if descriptor is not None:
                close_locked(descriptor)
    except OSError as error:
        raise DiskFailed(f"cannot write the journal {path}: {error.strerror}") from None
    return count


class Journal:
    """Appends records to one file in groups, one unsynced group at a time, and holds its lock until it is closed.

    Create it in any thread, since that reads and syncs the file; then use it on one event loop. It writes and syncs in
    `executor`. `outcomes` says where each synced outcome is, up to the byte `end`. After a failed write or sync every
    further append raises DiskFailed: a failed sync is never tried again, since the kernel may have dropped the data.
    """

    def __init__(self, path: Path, header: dict[str, Any], executor: Executor, disk: Disk = DISK) -> None:
        """Open or create `path` and cut off a damaged last group.

        Raises FolderInUse if another process, or another task of this one, writes it; DamagedJournal, DiskFailed.
        """
        self.path = path
        self._disk = disk
        self._executor = executor
        self._lines: list[bytes] = []
        self._outcomes: list[tuple[int, Outcome]] = []  # among the lines: their index and the outcome
        self._group_done: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._failed: DiskFailed | None = None
        try:
            self._descriptor, self._number, self.end, scan = _open(path, header, disk)
        except OSError as error:
            raise DiskFailed(f"cannot open the journal {path}: {error.strerror}") from None
        self.torn_bytes = scan.tail.torn_bytes
        try:
            self._found = list(scan.entries())
        except BaseException:
            close_locked(self._descriptor)
            raise
        self.outcomes = list(outcome_lines(self._found))

    def take_found(self) -> list[JournalRecord]:
        """Return the records that the journal held when it was opened, and drop them from memory."""
        found, self._found = self._found, []
        return found

    def append(self, record: Any) -> asyncio.Future[None]:
        """Queue one record; the future is done when it is synced. Raises DiskFailed after an earlier failure."""
        # promise: C5 a journal accepts no record after a failed write or sync
        if self._failed is not None:
            raise self._failed
        if isinstance(record, Outcome):
            self._outcomes.append((len(self._lines), record))
        self._lines.append(orjson.dumps(record, default=to_json))
        if self._group_done is None:
            self._group_done = asyncio.get_running_loop().create_future()
            # retrieve the exception: without a waiting caller asyncio would log it as never retrieved
            self._group_done.add_done_callback(lambda future: future.cancelled() or future.exception())
        done = self._group_done
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_groups())
        return done

    async def _write_groups(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._lines and self._group_done is not None:
                lines, outcomes, done = self._lines, self._outcomes, self._group_done
                self._lines, self._outcomes, self._group_done = [], [], None
                data = _group(self._number, b"\n".join(lines) + b"\n")
                self._number += 1
                try:
                    await loop.run_in_executor(self._executor, self._write, data)
                except OSError as error:
                    self._fail(error, done)
                    return
                # promise: C1 only a synced outcome has a place in its journal
                self.outcomes.extend(_places(self.end + _HEAD.size, lines, outcomes))
                self.end += len(data)
                if not done.done():
                    done.set_result(None)
        finally:
            self._writer = None

    def _fail(self, error: OSError, done: asyncio.Future[None]) -> None:
        self._failed = DiskFailed(f"cannot write the journal {self.path}: {error.strerror}")
        for future in (done, self._group_done):
            if future is not None and not future.done():
                future.set_exception(self._failed)
        self._lines, self._outcomes, self._group_done = [], [], None

    def _write(self, data: bytes) -> None:
        # promise: C1 an awaited append returns only after its record is synced
        # promise: C1 a group is synced before its records count as written
        self._disk.write(self._descriptor, data)
        self._disk.sync(self._descriptor)

    async def flush(self) -> None:
        """Wait until all queued records are synced. Raises DiskFailed."""
        while self._writer is not None:
            await asyncio.shield(self._writer)
        if self._failed is not None:
            raise self._failed

    async def close(self) -> None:
        """Wait until all queued records are synced, then close the file, which releases its lock. Raises DiskFailed."""
        try:
            await self.flush()
        finally:
            close_locked(self._descriptor)


def _places(start: int, lines: Sequence[bytes], outcomes: Iterable[tuple[int, Outcome]]) -> Iterator[OutcomeLine]:
    """Yield where the outcomes of a group are, whose payload begins at the byte `start`."""
    index = 0
    for number, outcome in outcomes:
        # promise: C1 the place of an outcome is where its line is in the file
        start += sum(len(line) + 1 for line in lines[index:number])
        index, line = number, lines[number]
        yield OutcomeLine(bytes.fromhex(outcome.key), start, len(line), zlib.crc32(line), outcome.status)
