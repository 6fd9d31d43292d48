"""Crash: runs whose shards are sent by several processes, which stop when the process that leads the run is gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.llm.open_senders import complete_in_this_process, open_senders
from parquill.tasks.llm.run_sender import RunSender
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.run_lock import RunLock, RunMember
from tests.deployed.live_stack import LiveStack
from tests.fakes.running import ROOT, FakeService
from tests.tools.answering import Answering
from tests.tools.direct import job_of, results, run_steps
from tests.tools.pool import WORKERS

AT_ONCE = 8  # of each worker
ROWS = 600  # six shards, and many times what is under way


@contextmanager
def _pool(folder: Path, settings: dict[str, Any], times: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """Run the leader of a run; at the end it is killed, and its workers with it."""
    (folder / "workers").mkdir()
    (folder / "job.yaml").write_bytes(orjson.dumps(settings))
    command = [sys.executable, "-m", "tests.tools.pool", str(folder / "job.yaml"), str(folder / "workers")]
    command += [str(times)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        yield process
    finally:
        for pid in [process.pid, *_workers(folder)]:
            if _is_running(pid):
                os.kill(pid, 9)
        process.wait()


def _workers(folder: Path) -> list[int]:
    return [int(path.name) for path in (folder / "workers").iterdir()]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def settings(service: FakeService, tmp_path: Path) -> dict[str, Any]:
    """Return a job that takes half a minute: a test that kills it is done long before."""
    service.configure(latency_ms=800)
    texts = [f"text {number}" for number in range(ROWS)]
    return job_of(tmp_path, texts, service.url, limits={"max_at_once": AT_ONCE}, budget={"run_usd": 1})


def test_each_request_asks_for_the_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C7: A process that joined a run sends no request once the leader's lock is gone.
    It does not wait for its next regular check.
    """
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    monkeypatch.setattr("parquill.tasks.llm.run_sender.LEADER_CHECK_INTERVAL_S", 3_600.0)
    texts = [f"text {number}" for number in range(200)]
    limits = {"max_at_once": AT_ONCE}
    job, options = resolve_job(
        make_job(job_of(tmp_path, texts, "http://127.0.0.1:9/v1", limits=limits)), None, None, ()
    )
    Folders.of(job.output, job.state).create()
    run = prepare_run(job, options)
    assert run is not None
    leader = RunLock(run.folder)

    def delay_s(_: str) -> float:
        if service.billed.total() == 50:
            leader.close()
        return 0.0

    service = Answering(delay_s)
    member = RunMember(run.folder)
    joined = RunSender(run, [None], service.open, member=member)
    assert not joined.complete(run.shards[0]).is_done
    joined.close(grace_s=0)
    assert 50 <= service.billed.total() <= 50 + AT_ONCE


def test_workers_stop_when_their_leader_was_killed(
    service: FakeService, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """C7: After `kill -9` of the leader, no worker sends another request, what is in flight is kept, and workers end.
    The next start resumes the run and pays for no answered row again.
    """
    with _pool(tmp_path, settings) as leader:
        LiveStack.wait("requests", lambda: service.stats()["requests"] > 4 * AT_ONCE, 120)
        leader.kill()
        leader.wait()
        sent = service.stats()["requests"]
        LiveStack.wait("the end of the workers", lambda: not any(map(_is_running, _workers(tmp_path))), 120)
        assert len(_workers(tmp_path)) == WORKERS
    figures = service.stats()
    # at most the requests that were let through when the lock went; without the check there would be one for each row
    assert sent <= figures["requests"] <= sent + WORKERS * AT_ONCE
    assert figures["billed"] == figures["requests"]
    service.configure(latency_ms=0)
    assert run_steps(settings) is not None
    assert [row["status"] for row in results(settings)] == ["ok"] * ROWS
    assert service.stats()["billed_twice"] == []


def test_workers_do_a_runs_work(service: FakeService, tmp_path: Path, settings: dict[str, Any]) -> None:
    """M2: Workers complete a run's shards while it is led, and end with it.

    A task that runs twice at the same time in two processes pays once: a shard is locked while a process completes it,
    and a finished shard returns at once.
    """
    service.configure(latency_ms=5)
    with _pool(tmp_path, settings, times=2) as leader:
        assert leader.wait(120) == 0, (tmp_path / "output").read_text()
        assert not any(map(_is_running, _workers(tmp_path)))
    assert service.stats()["billed"] == ROWS
    assert run_steps(settings) is not None  # this start only writes
    assert (service.stats()["requests"], service.stats()["billed_twice"]) == (ROWS, [])
    assert [row["status"] for row in results(settings)] == ["ok"] * ROWS


def test_a_killed_workers_shard_is_completed_by_another(
    service: FakeService, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """C10: After `kill -9` of a worker, another process completes its shard while the run is led.
    Answers are kept, and only what was in flight is sent again.
    """
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    job, options = resolve_job(make_job(settings), None, None, ())
    Folders.of(job.output, job.state).create()
    run = prepare_run(job, options)
    assert run is not None
    shard = run.shards[0]
    code = [
        "from pathlib import Path",
        "from parquill.tasks.llm.open_senders import complete_in_this_process",
        "from parquill.tasks.records import ShardRef",
        f"complete_in_this_process(Path({str(run.folders.state)!r}), {run.run_id!r}, {shard!r})",
    ]
    with contextlib.closing(RunLock(run.folder)):
        worker = subprocess.Popen([sys.executable, "-c", "\n".join(code)], cwd=ROOT)
        LiveStack.wait("requests", lambda: service.stats()["requests"] > 4 * AT_ONCE, 120)
        worker.kill()
        worker.wait()
        service.configure(latency_ms=0)
        report = complete_in_this_process(run.folders.state, run.run_id, shard)
    assert (report.is_done, report.totals.statuses) == (True, {"ok": shard.rows})
    assert service.stats()["billed"] <= shard.rows + AT_ONCE
    assert len(service.stats()["billed_twice"]) <= AT_ONCE
    LiveStack.wait("the end of this process' part", lambda: not open_senders(), 120)
