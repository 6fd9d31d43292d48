"""The index of answers is a view of the journals, and the journals always decide."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from parquill.tasks.errors import DamagedJournal, DiskFailed
from parquill.tasks.storage.answer_index import AnswerIndex, _IndexAheadOfJournals, list_journals
from parquill.tasks.storage.folders import RunFolder
from parquill.tasks.storage.journal import scan_journal
from tests.tools.many_records import write_journal

KEYS = [number.to_bytes(32) for number in range(130)]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal of run `r`, with 130 rows in three groups."""
    folder = tmp_path / "runs" / "r" / "journals"
    folder.mkdir(parents=True)
    write_journal(folder / "000000.journal", len(KEYS))
    return folder / "000000.journal"


def _index(state: Path, journal: Path) -> AnswerIndex:
    index = AnswerIndex(state)
    index.add_run("r", "out")
    index.add_shard("r", 0, journal)
    return index


def test_it_outlives_a_power_cut(tmp_path: Path) -> None:
    """Answers that SQLite has reported as indexed survive a power cut.

    SQLite syncs its log before it overwrites pages (NORMAL or more).
    """
    index = AnswerIndex(tmp_path)
    assert index._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert index._connection.execute("PRAGMA synchronous").fetchone()[0] >= 1
    index.close()


def test_a_torn_journal_of_the_same_size_is_read_again(tmp_path: Path, journal: Path) -> None:
    """A journal whose last group was damaged and is whole now is indexed again, although its size is the same."""
    whole = journal.read_bytes()
    last = scan_journal(journal).tail.last
    journal.write_bytes(whole[:last] + bytes(len(whole) - last))
    index = _index(tmp_path, journal)
    assert len(index.find(KEYS, "out")) == 128
    journal.write_bytes(whole)
    ((_, missing),) = index._missing([RunFolder(tmp_path / "runs" / "r")])
    for number, path in missing:
        index.add_shard("r", number, path)
    assert len(index.find(KEYS, "out")) == 130
    index.close()


def test_a_file_that_is_no_database_is_made_anew(tmp_path: Path, journal: Path) -> None:
    """A file under the index's name that is not a database is replaced."""
    (tmp_path / "answers.sqlite").write_bytes(b"not a database" * 1000)
    index = _index(tmp_path, journal)
    assert len(index.find(KEYS, "out")) == 130
    index.close()


def test_tables_of_another_version_are_made_anew(tmp_path: Path, journal: Path) -> None:
    """An index from an earlier Parquill is emptied, and filled from the journals."""
    old = sqlite3.connect(tmp_path / "answers.sqlite")
    old.executescript("CREATE TABLE answers (key BLOB PRIMARY KEY, run INTEGER); CREATE TABLE runs (number INTEGER);")
    old.close()
    index = _index(tmp_path, journal)
    assert len(index.find(KEYS, "out")) == 130
    index.close()


def test_damage_that_is_found_later_removes_it(tmp_path: Path, journal: Path) -> None:
    """Damage inside the database stops the run with a clear message, and the next start rebuilds the index."""
    _index(tmp_path, journal).close()
    path = tmp_path / "answers.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    index = AnswerIndex(tmp_path)
    with pytest.raises(DiskFailed, match="rebuild it from the journals"):
        index.find(KEYS, "out")
    index.close()
    index = _index(tmp_path, journal)
    assert len(index.find(KEYS, "out")) == 130
    index.close()


def test_a_full_disk_is_told_as_one(tmp_path: Path, journal: Path) -> None:
    """If there is no room for the index, the error says so, and the index works when there is room again."""
    index = AnswerIndex(tmp_path)
    index.add_run("r", "out")
    index._connection.execute("PRAGMA max_page_count=1")
    with pytest.raises(DiskFailed, match="full"):
        index.add_shard("r", 0, journal)
    index._connection.execute("PRAGMA max_page_count=10000")
    index.add_shard("r", 0, journal)
    assert len(index.find(KEYS, "out")) == 130
    index.close()


def test_an_answer_that_is_not_what_was_indexed(tmp_path: Path, journal: Path) -> None:
    """An answer that has changed since it was indexed is never returned, even if it is still an answer."""
    index = _index(tmp_path, journal)
    data = journal.read_bytes()
    journal.write_bytes(data.replace(b'"completion":"xx', b'"completion":"xy', 1))
    with pytest.raises(DamagedJournal, match=r"is damaged at byte \d+; 0 records before it"):
        index.read(index.find(KEYS[:1], "out"))
    index.close()


def test_a_journal_that_is_gone(tmp_path: Path, journal: Path) -> None:
    """A missing journal counts as damage: the message names it and says what to do."""
    index = _index(tmp_path, journal)
    journal.unlink()
    with pytest.raises(DamagedJournal, match=r"000000\.journal is missing"):
        index.read(index.find(KEYS, "out"))
    index.close()


@pytest.fixture
def closed(tmp_path: Path, journal: Path) -> RunFolder:
    """The run `r`, whose journals were created a day ago."""
    day_ago = time.time() - 86_400
    os.utime(journal.parent, (day_ago, day_ago))
    return RunFolder(tmp_path / "runs" / "r")


def _open(state: Path, run: RunFolder) -> AnswerIndex:
    index = AnswerIndex(state)
    index.index_new_journals([run])
    return index


def test_a_closed_run_is_not_looked_through_again(
    tmp_path: Path, closed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journals of a closed run are listed once, and its answers are found at every later start."""
    listed: list[Path] = []

    def counted(run: Path) -> Iterator[tuple[int, Path]]:
        listed.append(run)
        return list_journals(run)

    monkeypatch.setattr("parquill.tasks.storage.answer_index.list_journals", counted)
    for _ in range(3):
        index = _open(tmp_path, closed)
        assert len(index.find(KEYS, "")) == 130
        index.close()
    assert listed == [closed.path]


def test_a_journal_of_a_closed_run_that_is_gone_is_noticed(tmp_path: Path, closed: RunFolder, journal: Path) -> None:
    """The index drops the answers of a closed run when its journal, or the whole run, was removed."""
    _open(tmp_path, closed).close()
    journal.rename(tmp_path / "kept")
    index = AnswerIndex(tmp_path)
    with pytest.raises(_IndexAheadOfJournals):
        index.index_new_journals([closed])
    assert index.find(KEYS, "") == {}
    (tmp_path / "kept").rename(journal)
    index.index_new_journals([closed])
    assert len(index.find(KEYS, "")) == 130
    day_ago = time.time() - 86_400
    os.utime(journal.parent, (day_ago, day_ago))
    index.index_new_journals([closed])
    with pytest.raises(_IndexAheadOfJournals):
        index.index_new_journals([])
    assert index.find(KEYS, "") == {}
    index.close()


def test_a_run_is_closed_when_nothing_writes_its_journals(closed: RunFolder, journal: Path) -> None:
    """A run that has shards or workers, or that was written within the last hour, is not closed."""
    now_ns = time.time_ns()
    assert closed.closed_ns(now_ns) == journal.parent.stat().st_mtime_ns
    for sign in (closed.path / "shards", closed.workers_lock):
        sign.mkdir()
        assert closed.closed_ns(now_ns) is None
        sign.rmdir()
    (journal.parent / "000001.journal").touch()
    assert closed.closed_ns(now_ns) is None
    assert RunFolder(closed.path / "none").closed_ns(now_ns) is None


def test_a_closed_run_that_grows_is_read_again(tmp_path: Path, closed: RunFolder, journal: Path) -> None:
    """A journal that is added to a closed run, for example from a backup, is indexed."""
    index = _open(tmp_path, closed)
    write_journal(journal.with_name("000001.journal"), 200)
    index.index_new_journals([closed])
    assert len(index.find([number.to_bytes(32) for number in range(200)], "")) == 200
    index.close()
