"""A journal writes checksummed groups, only one of them unsynced, and distinguishes damage from a torn end."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from parquill.tasks.errors import DamagedJournal, DiskFailed, FolderInUse
from parquill.tasks.records import Outcome
from parquill.tasks.storage.disk import Disk
from parquill.tasks.storage.file_lock import close_locked
from parquill.tasks.storage.journal import Journal, append_groups, outcome_lines, read_journal, scan_journal
from parquill.tasks.storage.replay import replay_shard
from tests.tools.clock import Clock

HEADER = {"run_id": "r", "shard": 0}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def _write(path: Path, threads: ThreadPoolExecutor, groups: int, disk: Disk | None = None) -> None:
    async def run() -> None:
        journal = Journal(path, HEADER, threads, disk or Disk())
        try:
            for number in range(groups):
                await journal.append({"type": "intent", "row": number, "n": 1, "reserved": 5})
        finally:
            await journal.close()

    asyncio.run(run())


def test_what_was_appended_is_read(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """Records are read in the order in which they were appended, also after the file was opened several times."""
    path = tmp_path / "j"
    _write(path, threads, 3)
    _write(path, threads, 2)
    assert [entry.record["row"] for entry in read_journal(path)] == [0, 1, 2, 0, 1]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_knows_where_its_outcomes_are(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """A journal names the place of each synced outcome, also of those from earlier openings and before a torn end."""
    path = tmp_path / "j"

    async def write(first: int) -> Journal:
        journal = Journal(path, HEADER, threads)
        for row in range(first, first + 20):
            outcome = Outcome(row=row, key=f"{row:064x}", status="ok", completion="a" * row)
            for record in ({"type": "intent", "row": row, "n": 1, "reserved": 5}, outcome):
                done = journal.append(record)
            if row % 3 == 0:
                await done
        await journal.close()
        return journal

    for first in (0, 20, 40):
        journal = asyncio.run(write(first))
        scan = scan_journal(path)
        assert journal.outcomes == list(outcome_lines(scan.entries()))
        assert journal.end == scan.tail.end == path.stat().st_size
        assert [place.key[-1] for place in journal.outcomes] == list(range(first + 20))
        with path.open("ab") as file:
            file.write(b"PQJ1 torn")


def test_an_outcome_that_was_not_synced_has_no_place(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """If a sync fails, the outcomes of its group are not named, so no index ever points to them."""

    class FailingDisk(Disk):
        fails = False

        def sync(self, descriptor: int) -> None:
            if self.fails:
                raise OSError(errno.EIO, "no")
            super().sync(descriptor)

    disk = FailingDisk()

    async def write() -> Journal:
        journal = Journal(tmp_path / "j", HEADER, threads, disk)
        await journal.append(Outcome(row=0, key="00", status="ok"))
        disk.fails = True
        with pytest.raises(DiskFailed):
            await journal.append(Outcome(row=1, key="01", status="ok"))
        with pytest.raises(DiskFailed):
            await journal.close()
        return journal

    assert [place.key for place in asyncio.run(write()).outcomes] == [b"\0"]


def test_an_entry_can_be_read_by_its_place(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """The offset and the length of an entry name exactly its JSON in the file."""
    path = tmp_path / "j"
    _write(path, threads, 3)
    data = path.read_bytes()
    for entry in read_journal(path):
        assert data[entry.offset : entry.offset + entry.length].startswith(b'{"type":"intent"')


def test_every_torn_end_is_cut(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """A journal that is cut at any byte keeps every whole group before it, and accepts new records after it."""
    whole = tmp_path / "whole"
    _write(whole, threads, 4)
    data = whole.read_bytes()
    spans = scan_journal(whole).spans
    for length in range(len(data)):
        path = tmp_path / "torn"
        path.write_bytes(data[:length])
        kept = max(0, sum(1 for _, end in spans if end <= length) - 1)
        assert len(list(read_journal(path))) == kept
        if length % 7 == 0:
            _write(path, threads, 1)
            assert len(list(read_journal(path))) == kept + 1


def test_damage_before_the_end_stops_the_run(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """A flipped bit in any group but the last raises an error that names the byte and the number of safe records."""
    path = tmp_path / "j"
    _write(path, threads, 4)
    data = path.read_bytes()
    spans = scan_journal(path).spans
    last = spans[-2][1]
    for offset in range(0, last, 3):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        with pytest.raises(DamagedJournal, match=r"is damaged at byte \d+; \d+ records"):
            list(read_journal(path))


def test_an_unknown_version_is_refused(
    tmp_path: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal of an unknown version is refused."""
    path = tmp_path / "j"
    monkeypatch.setattr("parquill.tasks.storage.journal.VERSION", 99)
    _write(path, threads, 1)
    monkeypatch.undo()
    with pytest.raises(DamagedJournal, match="version 99"):
        list(read_journal(path))


class FailingDisk(Disk):
    """A disk on which one call fails, counted over writes and syncs."""

    def __init__(self, fail_at: int) -> None:
        self.calls = 0
        self.syncs_after_failure = 0
        self.fail_at = fail_at

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, descriptor: int, data: bytes) -> None:
        self._count()
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        if self.calls >= self.fail_at:
            self.syncs_after_failure += 1
        self._count()
        super().sync(descriptor)


@pytest.mark.parametrize("fail_at", range(1, 13))
def test_a_failed_disk_stops_everything(tmp_path: Path, threads: ThreadPoolExecutor, fail_at: int) -> None:
    """After a failed write or sync no append succeeds, no sync is tried again, and the file stays readable."""
    path, disk = tmp_path / "j", FailingDisk(fail_at)

    async def run() -> None:
        journal = Journal(path, HEADER, threads, disk)
        with pytest.raises(DiskFailed):
            for number in range(20):
                await journal.append({"type": "intent", "row": number, "n": 1, "reserved": 5})
        for number in range(20, 23):  # like rows that are under way when the record of another one fails
            with pytest.raises(DiskFailed):
                await journal.append({"type": "intent", "row": number, "n": 1, "reserved": 5})
        await journal.close()

    with pytest.raises(DiskFailed):
        asyncio.run(run())
    assert disk.syncs_after_failure == 0
    assert [entry.record["row"] for entry in read_journal(path)] == list(range(len(list(read_journal(path)))))


class ForgetfulDisk(Disk):
    """A disk that remembers the file's length at the last sync, which is all that a power cut leaves."""

    def __init__(self) -> None:
        self.synced = 0

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):  # the folder is synced too, but its size does not matter
            self.synced = found.st_size


def test_what_was_awaited_survives_a_power_cut(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """When `append` is done, the record is in the synced part of the file."""
    path, disk = tmp_path / "j", ForgetfulDisk()

    async def run() -> None:
        journal = Journal(path, HEADER, threads, disk)
        for number in range(5):
            await journal.append({"type": "intent", "row": number, "n": 1, "reserved": 5})
            cut = tmp_path / "cut"
            cut.write_bytes(path.read_bytes()[: disk.synced])
            assert [entry.record["row"] for entry in read_journal(cut)] == list(range(number + 1))
        await journal.close()

    asyncio.run(run())


def test_replay_tells_money_and_doubt(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """An intent without an end is in doubt at its reservation; an outcome settles its row."""
    path = tmp_path / "j"

    async def run() -> None:
        journal = Journal(path, HEADER, threads)
        await journal.append({"type": "intent", "row": 0, "n": 1, "reserved": 70})
        await journal.append({"type": "attempt", "row": 0, "n": 1, "fate": "unpaid", "code": "rate_limited"})
        await journal.append({"type": "intent", "row": 0, "n": 2, "reserved": 70})
        await journal.append(Outcome(row=0, key="00", status="ok", cost_nano=30, attempts=2, resolves=2))
        await journal.append({"type": "intent", "row": 1, "n": 1, "reserved": 50})
        await journal.close()

    asyncio.run(run())
    state = replay_shard(path)
    assert set(state.outcomes) == {0}
    totals = state.totals()
    assert (totals.sent, totals.throttled, totals.retried, totals.in_doubt) == (3, 1, 0, 1)
    assert (totals.settled_nano, totals.in_doubt_nano) == (30, 50)


def test_a_journal_has_one_writer(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """C10: while a writer has a journal open, no other can open it; after the writer closes it, the next one can."""

    async def run() -> None:
        path = tmp_path / "j"
        first = Journal(path, HEADER, threads)
        await first.append({"type": "intent", "row": 0, "n": 1, "reserved": 5})
        with pytest.raises(FolderInUse, match="another process writes the journal"):
            Journal(path, HEADER, threads)
        await first.append({"type": "intent", "row": 1, "n": 1, "reserved": 5})
        await first.close()
        await Journal(path, HEADER, threads).close()
        assert [entry.record["row"] for entry in read_journal(path)] == [0, 1]

    asyncio.run(run())


def test_groups_are_appended_when_the_writer_is_gone(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """C10: an appender waits for a writer that finishes its last rows, and gives up after half a minute."""
    path, clock = tmp_path / "j", Clock()
    record = {"type": "intent", "row": 0, "n": 1, "reserved": 5}

    async def run() -> None:
        writer = Journal(path, HEADER, threads)

        def release(seconds: float) -> None:
            clock.sleep(seconds)
            if clock() > 5:
                close_locked(writer._descriptor)

        with pytest.raises(FolderInUse):
            append_groups(path, HEADER, [[record]], clock=clock, sleep=clock.sleep)
        assert clock() >= 30
        clock.now = 0.0
        assert append_groups(path, HEADER, [[record]], clock=clock, sleep=release) == 1

    asyncio.run(run())
    assert [entry.record["row"] for entry in read_journal(path)] == [0]
