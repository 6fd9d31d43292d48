"""The journal of a shard: an intent before each request, what became of it after.

A file is a row of groups; each is written and synced as one, and the next is written only after that, so a crash can
leave at most the last one damaged:

    magic "PQJ1" | number u32 | payload bytes u32 | crc32 u32 of number, size and payload | payload

all little-endian, the payload being JSON records a line each (`strings FILE` shows them). The first record is the
header {"journal": 1, "run_id", "shard"}. A damaged last group is cut off and reported; damage anywhere else stops the
run, since skipping it would pay for its rows again.
"""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from parquill.tasks.disk.files import DISK, Disk
from parquill.tasks.errors import DamagedJournal, DiskFailed

VERSION = 1
MAGIC = b"PQJ1"
_HEAD = struct.Struct("<4sIII")
_CHECKED = struct.Struct("<II")


class Entry(NamedTuple):
    """One record: where its line starts in the file, how long it is in bytes, and what it says."""

    offset: int
    length: int
    record: dict[str, Any]


class Tail(NamedTuple):
    """Where the whole groups of a journal end, how many there are, and how many bytes after them are damaged."""

    end: int
    groups: int
    torn_bytes: int


def _group(number: int, payload: bytes) -> bytes:
    checked = zlib.crc32(payload, zlib.crc32(_CHECKED.pack(number, len(payload))))
    return _HEAD.pack(MAGIC, number, len(payload), checked) + payload


def _payload(data: bytes | memoryview, at: int, number: int | None) -> memoryview | None:
    """The payload of the group at an offset, or None if there is no whole one (with that number, if given)."""
    view = memoryview(data)
    if at + _HEAD.size > len(view):
        return None
    magic, found, size, checked = _HEAD.unpack_from(view, at)
    payload = view[at + _HEAD.size : at + _HEAD.size + size]
    if magic != MAGIC or len(payload) != size or (number is not None and found != number):
        return None
    return payload if zlib.crc32(payload, zlib.crc32(_CHECKED.pack(found, size))) == checked else None


def scan_journal(path: Path) -> tuple[bytes, list[tuple[int, int]], Tail]:
    """Read a journal and find its whole groups: (its bytes, [(start, end) of each payload], its tail).

    Raises DamagedJournal when a whole group follows a damaged one, with the offset and the count of safe records.
    """
    data = path.read_bytes()
    spans: list[tuple[int, int]] = []
    at = 0
    while (payload := _payload(data, at, len(spans))) is not None:
        start = at + _HEAD.size
        spans.append((start, start + len(payload)))
        at = start + len(payload)
    later = data.find(MAGIC, at + 1)
    while later != -1:
        if _payload(data, later, None) is not None:
            safe = sum(data.count(b"\n", start, end) for start, end in spans)
            raise DamagedJournal(
                f"{path} is damaged at byte {at}; {safe} records before it are safe. Restore the file from a backup: "
                "going on without it would pay for its rows again"
            )
        later = data.find(MAGIC, later + 1)
    return data, spans, Tail(at, len(spans), len(data) - at)


def read_journal(path: Path) -> Iterator[Entry]:
    """Yield the records of a journal in order, the header left out. Raises DamagedJournal."""
    data, spans, _ = scan_journal(path)
    for number, (start, end) in enumerate(spans):
        at = start
        while at < end:
            stop = data.index(b"\n", at, end)
            record = orjson.loads(memoryview(data)[at:stop])
            if number == 0 and at == start:
                check_version(path, record)
            else:
                yield Entry(at, stop - at, record)
            at = stop + 1


def check_version(path: Path, header: dict[str, Any]) -> None:
    """Refuse a journal of a version that this code does not know (DamagedJournal)."""
    if header.get("journal") != VERSION:
        raise DamagedJournal(f"{path} has the version {header.get('journal')!r}, which this Parquill does not know")


class Journal:
    """Appends records to one file in groups, one unsynced group at a time.

    Lives on one event loop; writing and syncing happen in `executor`. After a failed write or sync every further
    append raises DiskFailed: a sync that failed once is never tried again, since the kernel may have dropped the data.
    """

    def __init__(self, path: Path, header: dict[str, Any], executor: Executor, disk: Disk = DISK) -> None:
        """Open or create `path` and cut a damaged last group. Raises DamagedJournal, DiskFailed."""
        self.path = path
        self.torn_bytes = 0
        self._disk = disk
        self._executor = executor
        self._lines: list[bytes] = []
        self._group_done: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._failed: DiskFailed | None = None
        try:
            self._descriptor, self._number = self._open(path, {"journal": VERSION, **header})
        except OSError as error:
            raise DiskFailed(f"cannot open the journal {path}: {error.strerror}") from None

    def _open(self, path: Path, header: dict[str, Any]) -> tuple[int, int]:
        groups = 0
        if path.exists():
            _, _, tail = scan_journal(path)
            groups, self.torn_bytes = tail.groups, tail.torn_bytes
            if tail.torn_bytes:
                os.truncate(path, tail.end)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if groups == 0:
            try:
                self._disk.write(descriptor, _group(0, orjson.dumps(header) + b"\n"))
                self._disk.sync(descriptor)
                self._disk.sync_folder(path.parent)
            except OSError:
                os.close(descriptor)
                raise
            groups = 1
        return descriptor, groups

    def append(self, record: Any) -> asyncio.Future[None]:
        """Queue one record; the future is done when it lasts. Raises DiskFailed at once after an earlier failure."""
        if self._failed is not None:
            raise self._failed
        self._lines.append(orjson.dumps(record))
        if self._group_done is None:
            self._group_done = asyncio.get_running_loop().create_future()
            # a failure is told to whoever waits; nobody may be waiting any more
            self._group_done.add_done_callback(lambda future: future.cancelled() or future.exception())
        done = self._group_done
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_groups())
        return done

    async def _write_groups(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._lines and self._group_done is not None:
                lines, done = self._lines, self._group_done
                self._lines, self._group_done = [], None
                data = _group(self._number, b"\n".join(lines) + b"\n")
                self._number += 1
                try:
                    await loop.run_in_executor(self._executor, self._write, data)
                except OSError as error:
                    self._fail(error, done)
                    return
                if not done.done():
                    done.set_result(None)
        finally:
            self._writer = None

    def _fail(self, error: OSError, done: asyncio.Future[None]) -> None:
        self._failed = DiskFailed(f"cannot write the journal {self.path}: {error.strerror}")
        for future in (done, self._group_done):
            if future is not None and not future.done():
                future.set_exception(self._failed)
        self._lines, self._group_done = [], None

    def _write(self, data: bytes) -> None:
        self._disk.write(self._descriptor, data)
        self._disk.sync(self._descriptor)

    async def close(self) -> None:
        """Wait until everything queued lasts, then close. Raises DiskFailed."""
        try:
            while self._writer is not None:
                await asyncio.shield(self._writer)
        finally:
            os.close(self._descriptor)
        if self._failed is not None:
            raise self._failed
