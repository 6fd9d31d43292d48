"""The senders that are open in this process: opened by a run, joined by its tasks, stopped together by a signal."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import httpx

from parquill.tasks.job.api_key import read_keys
from parquill.tasks.job.lanes import LaneName
from parquill.tasks.limits.lease_client import LogFn
from parquill.tasks.llm.client import aiohttp_transport
from parquill.tasks.llm.pace import REAL, Pace
from parquill.tasks.llm.run_sender import GRACE_TIMEOUT_S, RunSender
from parquill.tasks.llm.shard_report import ShardReport
from parquill.tasks.prompts.run import Run, done_totals, load_run
from parquill.tasks.records import ShardRef
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.folders import RunFolder
from parquill.tasks.storage.run_lock import RunLock, RunMember

# A process that joined a run keeps its sender for the next shard. If none comes, it gives back its reserved money and
# its share of the limits.
IDLE_TIMEOUT_S: Final = 2.0
SHARDS_AT_ONCE: Final = 4  # one that ends, one that begins, two for a margin; all of them share one set of limits
_open: dict[str, RunSender] = {}
latest: list[RunSender] = []  # that of the latest run that this process led, also after its end
_joined: dict[str, _Joined] = {}
_mutex = threading.Lock()
stop_requested = threading.Event()


@contextlib.contextmanager
def open_sender(
    run: Run,
    transport: Callable[[], httpx.AsyncBaseTransport] = aiohttp_transport,
    disk: Disk = DISK,
    log: LogFn | None = None,
    *,
    lane: LaneName | None = None,
    pace: Pace = REAL,
    is_abandoned: bool = False,
    coordinates: bool = False,
) -> Iterator[RunSender]:
    """Open the sender of a run for this process. On an error or a cancellation, requests under way get a grace time.

    With `coordinates`, other processes complete the run, and stop as soon as this one is asked to stop.
    `log` gets messages about shared limits. `lane` is how to send, by default the job's lane. Raises BadJob if the key
    cannot be read, or if a request is too large for a shared limit.
    """
    keys = read_keys(run.job)
    with contextlib.closing(RunLock(run.folder)) as lock:
        run_sender = RunSender(
            run,
            keys,
            transport,
            disk,
            log,
            coordinates=coordinates,
            lane=lane,
            pace=pace,
            is_abandoned=is_abandoned,
            on_stop=lock.close if coordinates else lambda: None,
        )
        with _mutex:
            _open[run.run_id] = run_sender
            latest[:] = [run_sender]
        with _closed_at_the_end(run.run_id, run_sender):
            yield run_sender


@contextlib.contextmanager
def _closed_at_the_end(run_id: str, run_sender: RunSender) -> Iterator[None]:
    try:
        if stop_requested.is_set():
            run_sender.request_stop(0)
        yield
    except BaseException as error:
        # a second request to stop takes effect at once
        try:
            # batches go on after a failure of this machine, for the next start to collect
            cancels = not isinstance(error, Exception)
            run_sender.close(grace_s=0 if stop_requested.is_set() else GRACE_TIMEOUT_S, cancels=cancels)
        except BaseException:  # Prefect turns the second SIGTERM into an exception, during the grace time
            # promise: C7 a second interrupt ends the grace period at once
            run_sender.close(grace_s=0)
            raise
        raise
    else:
        run_sender.close()
    finally:
        with _mutex:
            _open.pop(run_id, None)


def complete_in_this_process(state: Path, run_id: str, shard: ShardRef, log: LogFn | None = None) -> ShardReport:
    """Complete a shard with this process' sender of the run; a process without one joins the run.

    Returns at once for a shard that is done, even if no process leads the run any more. Raises what
    `RunSender.complete` raises, and Interrupted if no process leads the run.
    """
    totals = done_totals(RunFolder(state / "runs" / run_id), shard)
    # promise: C10 a finished shard returns without joining the run
    if totals is not None:
        return ShardReport(shard.number, is_done=True, totals=totals)
    with _sender_for(state, run_id, log) as run_sender:
        return run_sender.complete(shard)


def complete_part(
    state: Path, run_id: str, shards: Sequence[ShardRef], begin: int, at_once: int, log: LogFn | None = None
) -> list[ShardReport]:
    """Complete those of a run's shards that no other process completes, `at_once` of them, from number `begin` on.

    Each of several processes begins elsewhere, and goes on with what the others have left. Returns how its shards
    ended. Raises what `RunSender.complete` raises, and Interrupted if no process leads the run.
    """
    order = iter([*shards[begin:], *shards[:begin]])
    mutex, reports = threading.Lock(), list[ShardReport]()

    def take() -> ShardRef | None:
        with mutex:
            return next(order, None)

    def work(run_sender: RunSender) -> None:
        while not run_sender.lane.stopping and (shard := take()) is not None:
            report = None if is_done(shard) else run_sender.complete_if_free(shard)
            if report is not None:
                reports.append(report)

    def is_done(shard: ShardRef) -> bool:
        return done_totals(RunFolder(state / "runs" / run_id), shard) is not None

    with _sender_for(state, run_id, log) as run_sender, ThreadPoolExecutor(at_once) as threads:
        for working in [threads.submit(work, run_sender) for _ in range(at_once)]:
            working.result()
    return reports


@dataclass(slots=True)
class _Joined:
    """A sender of a run that another process leads, the number of tasks that use it, and the timer that closes it."""

    run_sender: RunSender
    users: int = 0
    closing: threading.Timer | None = None


@contextlib.contextmanager
def _sender_for(state: Path, run_id: str, log: LogFn | None) -> Iterator[RunSender]:
    with _mutex:
        if run_id not in _open or _open[run_id].is_closed:
            _open[run_id] = _join(load_run(state, run_id), log)
            _joined[run_id] = _Joined(_open[run_id])
        run_sender, joined = _open[run_id], _joined.get(run_id)
        if joined is not None:
            joined.users += 1
            _keep(joined)
    try:
        yield run_sender
    finally:
        if joined is not None:
            _leave(run_id, joined)


def _leave(run_id: str, joined: _Joined) -> None:
    """End one use. The last one closes the sender: at once after the run's last shard, else if no other shard comes."""
    with _mutex:
        joined.users -= 1
        if joined.users:
            return
        # promise: C10 a worker gives its lease back after the run's last shard
        if joined.run_sender.has_work:
            _keep(joined)
            # not a daemon: the process waits for it before it exits, and leaves nothing reserved
            joined.closing = threading.Timer(IDLE_TIMEOUT_S, _close_idle, (run_id, joined))
            # promise: C10 a worker that gets no other shard closes after an idle timeout
            joined.closing.start()
            return
    _close_idle(run_id, joined)


def _keep(joined: _Joined) -> None:
    if joined.closing is not None:
        joined.closing.cancel()
        joined.closing = None


def _close_idle(run_id: str, joined: _Joined) -> None:
    with _mutex:
        if joined.users or _joined.get(run_id) is not joined:
            return
        del _joined[run_id], _open[run_id]
    joined.run_sender.close()


def _join(run: Run, log: LogFn | None) -> RunSender:
    run = replace(run, job=run.job.one_part())
    keys, member = read_keys(run.job), RunMember(run.folder)
    try:
        return RunSender(run, keys, aiohttp_transport, log=log, member=member)
    except BaseException:
        member.close()
        raise


def _forget_in_child() -> None:
    """Let a forked child join its parent's runs: the child does not have the threads of the parent's senders."""
    global _mutex  # noqa: PLW0603 - another thread may have held it at the fork
    _mutex = threading.Lock()
    _open.clear()
    _joined.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def request_stop_all() -> None:
    """Ask every open sender of this process to stop; for signal handlers."""
    stop_requested.set()
    for run_sender in list(_open.values()):
        run_sender.request_stop()


def open_senders() -> list[RunSender]:
    """Return the senders that are open now, to show their progress."""
    return list(_open.values())
