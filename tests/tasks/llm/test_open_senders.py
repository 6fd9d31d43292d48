"""Tasks complete shards with their process's sender, even if they run twice, run late or in a process that joined."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from parquill.tasks.errors import Interrupted
from parquill.tasks.job.load import make_job
from parquill.tasks.llm import open_senders as module
from parquill.tasks.llm.open_senders import complete_in_this_process, complete_part, open_sender, open_senders
from parquill.tasks.llm.shard_report import StopReason
from parquill.tasks.prompts import input_parquet, prepare
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.run_lock import RunLock
from tests.tools.answering import Answering
from tests.tools.direct import job_of, results, run_steps

pytestmark = pytest.mark.integration
ROWS, SHARD_ROWS = 60, 20
HANGS_S = 30.0


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A job of three shards with its own ledger."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    monkeypatch.setattr(prepare, "MIN_SHARD", SHARD_ROWS)
    monkeypatch.setattr(input_parquet, "BATCH_ROWS", SHARD_ROWS)
    texts = [f"text {number}" for number in range(ROWS)]
    return job_of(tmp_path, texts, "http://127.0.0.1:9/v1", limits={"max_at_once": 4}, budget={"run_usd": 1})


@pytest.fixture
def run(settings: dict[str, Any]) -> Run:
    """The planned run of that job."""
    job, options = resolve_job(make_job(settings), None, None, ())
    Folders.of(job.output, job.state).create()
    planned = prepare_run(job, options)
    assert planned is not None
    assert len(planned.shards) == ROWS // SHARD_ROWS
    return planned


def test_a_task_that_runs_twice_at_once_pays_once(run: Run, settings: dict[str, Any]) -> None:
    """While one task completes a shard, a second task for it waits, sends nothing and returns the same report."""
    service = Answering(lambda _: 0.01)
    with open_sender(run, service.open) as run_sender, ThreadPoolExecutor(6) as threads:
        shards = [shard for shard in run.shards for _ in range(2)]
        reports = list(threads.map(run_sender.complete, shards))
    assert set(service.billed.values()) == {1}
    assert all(report.is_done for report in reports)
    assert [report.totals for report in reports[::2]] == [report.totals for report in reports[1::2]]
    assert sum(report.totals.statuses["ok"] for report in reports[::2]) == ROWS
    again = Answering()
    assert run_steps(settings, transport=again.open) is not None  # it only writes results
    assert not again.billed
    assert [row["status"] for row in results(settings)] == ["ok"] * ROWS


def test_a_task_that_waits_ends_with_the_stop(run: Run) -> None:
    """If the run is stopped, a task does not wait for another process that completes its shard."""
    service = Answering()
    with (
        open_sender(run, service.open) as run_sender,
        ThreadPoolExecutor(1) as threads,
        run.folder.journal(0).open("wb") as others,
    ):
        fcntl.flock(others, fcntl.LOCK_EX)
        waiting = threads.submit(run_sender.complete, run.shards[0])
        with pytest.raises(TimeoutError):
            waiting.result(0.3)  # it waits
        run_sender.request_stop(0).result(HANGS_S)
        report = waiting.result(HANGS_S)
    assert (report.is_done, report.stop) == (False, StopReason())
    assert not service.billed


def test_a_shard_that_is_done_needs_no_leader(run: Run, settings: dict[str, Any]) -> None:
    """If an engine repeats a task after the run's end, the task returns at once; a shard with rows left is refused."""
    with pytest.raises(Interrupted, match="no process leads run"):
        complete_in_this_process(run.folders.state, run.run_id, run.shards[0])
    run_steps(settings, transport=Answering().open)
    report = complete_in_this_process(run.folders.state, run.run_id, run.shards[0])
    assert (report.is_done, report.totals.statuses) == (True, {"ok": SHARD_ROWS})
    assert open_senders() == []


@pytest.fixture
def joined(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    """The service of a process that joins; this process also leads the run."""
    service = Answering()

    def transport() -> httpx.AsyncBaseTransport:
        return service

    monkeypatch.setattr(module, "aiohttp_transport", transport)
    leader = RunLock(run.folder)
    yield service
    leader.close()


def _complete(run: Run, number: int) -> None:
    assert complete_in_this_process(run.folders.state, run.run_id, run.shards[number]).is_done


def _leases(folder: Path) -> int:
    engine = sa.create_engine(f"sqlite:///{folder / 'ledger.sqlite'}")
    with engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        assert "parquill_leases" in names
        found = connection.execute(sa.text("SELECT count(*) FROM parquill_leases")).scalar_one()
    engine.dispose()
    return int(found)


def test_a_process_that_joined_closes_after_the_last_shard(run: Run, joined: Answering, tmp_path: Path) -> None:
    """A process that joined keeps its sender between shards and returns its money and thread after the last one."""
    _complete(run, 0)
    (first,) = open_senders()
    _complete(run, 1)
    assert open_senders() == [first]
    _complete(run, 2)
    assert open_senders() == []
    assert first.is_closed
    assert _leases(tmp_path) == 0
    assert "parquill-io" not in {thread.name for thread in threading.enumerate()}
    assert joined.billed.total() == ROWS


def test_a_process_that_joined_closes_when_no_shard_comes(
    run: Run, joined: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that gets no further shard returns its money to the others and can join again."""
    monkeypatch.setattr(module, "IDLE_TIMEOUT_S", 0.0)
    _complete(run, 0)
    deadline = time.monotonic() + HANGS_S
    while open_senders() or _leases(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    monkeypatch.setattr(module, "IDLE_TIMEOUT_S", HANGS_S)
    _complete(run, 1)
    assert len(open_senders()) == 1
    _complete(run, 2)
    assert open_senders() == []
    assert joined.billed.total() == ROWS


def test_a_joined_process_ends_when_its_leader_is_gone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """C7: if the leader is gone, a process that joined gives hanging requests a grace period and then ends."""
    service = Answering(lambda _: 3_600.0)

    def transport() -> httpx.AsyncBaseTransport:
        return service

    monkeypatch.setattr(module, "aiohttp_transport", transport)
    monkeypatch.setattr("parquill.tasks.llm.run_sender.LEADER_CHECK_INTERVAL_S", 0.01)
    monkeypatch.setattr("parquill.tasks.llm.run_sender.GRACE_TIMEOUT_S", 0.01)
    leader = RunLock(run.folder)
    with ThreadPoolExecutor(1) as threads:
        report = threads.submit(complete_in_this_process, run.folders.state, run.run_id, run.shards[0])
        while service.billed.total() < 4:
            time.sleep(0.001)
        leader.close()
        assert not report.result(HANGS_S).is_done
    deadline = time.monotonic() + HANGS_S
    while open_senders():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_parts_complete_each_shard_once(run: Run, joined: Answering) -> None:
    """Parts that begin at different shards complete all of them together: none twice, none that another one holds."""
    shards, state = list(run.shards), run.folders.state
    with run.folder.journal(len(shards) - 1).open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as by a process that completes it
        with ThreadPoolExecutor(2) as threads:
            parts = [threads.submit(complete_part, state, run.run_id, shards, begin, 2) for begin in (0, 2)]
            reports = [report for part in parts for report in part.result(HANGS_S)]
    assert sorted(report.number for report in reports) == list(range(len(shards) - 1))
    assert all(report.is_done for report in reports)
    assert set(joined.billed.values()) == {1}
    assert joined.billed.total() == ROWS - SHARD_ROWS
    (last,) = complete_part(state, run.run_id, shards, 1, 1)
    assert (last.number, last.is_done) == (len(shards) - 1, True)
    assert joined.billed.total() == ROWS
