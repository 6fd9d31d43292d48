"""The first runs of all, started at the same moment: one process makes the shared files, and none of them fails."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from parquill.tasks.money.ledger_database import LedgerDatabase
from parquill.tasks.storage.answer_index import AnswerIndex

AT_ONCE = 8
TRIES = 60  # the fault shows about once in ten tries, with this many threads at once


def _race(work: Callable[[int], None]) -> list[BaseException]:
    barrier, failed = threading.Barrier(AT_ONCE), []

    def go(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - the test compares the list of errors
            failed.append(error)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def test_a_ledger_is_made_by_many_at_once(tmp_path: Path) -> None:
    """If several processes open a new ledger at the same moment, one makes it and none fails."""
    for n in range(TRIES):
        address = f"sqlite:///{tmp_path / f'{n}.sqlite'}"

        def make(_: int, address: str = address) -> None:
            LedgerDatabase(address).close()

        assert _race(make) == []


def test_an_index_is_made_by_many_at_once(tmp_path: Path) -> None:
    """Jobs that share a new state folder and start together all have their runs in its index."""
    for n in range(TRIES):
        state = tmp_path / str(n)
        state.mkdir()

        def register(number: int, state: Path = state) -> None:
            index = AnswerIndex(state)
            index.add_run(f"run-{number}", f"output-{number}")
            index.close()

        assert _race(register) == []
        index = AnswerIndex(state)
        found = index._connection.execute("SELECT count(*) FROM runs").fetchone()
        index.close()
        assert found == (AT_ONCE,)


@pytest.mark.parametrize("name", ["index", "ledger"])
def test_a_process_waits_for_the_one_that_creates_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """SQLite refuses a switch to write-ahead logging at once while another process writes. The second process waits."""
    path = tmp_path / ("answers.sqlite" if name == "index" else "ledger.sqlite")
    first = sqlite3.connect(path, isolation_level=None)
    first.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def wait(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 3:  # the first process is done
            first.execute("COMMIT")
            first.close()

    monkeypatch.setattr(time, "sleep", wait)
    (AnswerIndex(tmp_path) if name == "index" else LedgerDatabase(f"sqlite:///{path}")).close()
    assert len(waits) == 3
