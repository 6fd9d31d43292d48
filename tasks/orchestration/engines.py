"""Where a run's shards are completed: in threads of the flow, or in several processes.

With processes, each of them gets one task, a part, and takes shards that no other process has, until none is left. So
none waits while another one has work. A process that dies is replaced, and its shards are completed by the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, Protocol

from prefect import Task, unmapped
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ProcessPoolTaskRunner

from parquill.tasks.errors import Interrupted
from parquill.tasks.llm.open_senders import SHARDS_AT_ONCE, open_senders, request_stop_all
from parquill.tasks.llm.run_sender import GRACE_TIMEOUT_S, RunSender
from parquill.tasks.llm.shard_report import ShardReport, StopReason
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import ShardRef

MAX_DEATHS: Final = 3  # in a row, between which no shard was completed


class Engine(Protocol):
    """Completes shards of one run."""

    def complete(self, shards: Sequence[ShardRef]) -> Iterable[ShardReport]:
        """Complete shards and report how each ended. Raises the error of a task."""


class Threads:
    """Completes each shard as a task in a thread of the flow."""

    def __init__(self, run: Run, complete_shard: Task[..., ShardReport]) -> None:
        self._run, self._complete_shard = run, complete_shard

    def complete(self, shards: Sequence[ShardRef]) -> Iterable[ShardReport]:
        """See Engine."""
        state = self._run.folders.state
        return self._complete_shard.map(unmapped(state), unmapped(self._run.run_id), shards).result()


class Processes:
    """Completes shards in processes of this machine, each of which has a part as its task."""

    def __init__(self, run: Run, run_sender: RunSender, complete_part: Task[..., list[ShardReport]]) -> None:
        self._run, self._run_sender, self._complete_part = run, run_sender, complete_part

    def complete(self, shards: Sequence[ShardRef]) -> Iterable[ShardReport]:
        """See Engine. Raises Interrupted if the processes keep dying."""
        reports: dict[int, ShardReport] = {}
        left, deaths = list(shards), 0
        while left and deaths < MAX_DEATHS and not self._run_sender.lane.stopping:
            found, has_died = self._complete_once(left)
            reports |= found
            before = len(left)
            left = [shard for shard in left if shard.number not in reports and not self._is_done(shard)]
            if not has_died:
                break
            deaths = deaths + 1 if len(left) == before else 0
        if deaths >= MAX_DEATHS:
            raise Interrupted(
                f"the processes of the run died {deaths} times, perhaps for lack of memory; what was answered is kept. "
                "Set a smaller `engine.workers`, and run again to resume"
            )
        return [reports.get(shard.number) or self._report_of(shard) for shard in shards]

    def _complete_once(self, shards: list[ShardRef]) -> tuple[dict[int, ShardReport], bool]:
        """Complete shards until none is left, or a process has died; return the reports, and whether one has died."""
        parts = min(self._run.job.parts, len(shards))
        state, run_id = self._run.folders.state, self._run.run_id
        # no process takes so many shards that another one has none
        fixed = {
            "state": state,
            "run_id": run_id,
            "shards": shards,
            "at_once": min(SHARDS_AT_ONCE, len(shards) // parts),
        }
        reports: dict[int, ShardReport] = {}
        has_died = False
        # the pool waits for its processes at its end: they have to be stopped before
        with ProcessPoolTaskRunner(max_workers=parts, initializer=begin_process) as pool, self._stopping_on_error():
            with _sigint_blocked():
                futures: list[PrefectFuture[list[ShardReport]]] = [
                    pool.submit(self._complete_part, {**fixed, "begin": part * len(shards) // parts})
                    for part in range(parts)
                ]
            for future in as_completed(futures):
                try:
                    reports |= {report.number: report for report in future.result()}
                # promise: engines: the shards of a process that died are completed by another one
                except BrokenProcessPool:
                    has_died = True
                except Interrupted:  # the process began after a stop
                    if not self._run_sender.lane.stopping:
                        raise
        return reports, has_died

    @contextlib.contextmanager
    def _stopping_on_error(self) -> Iterator[None]:
        """Stop the processes on an error. Otherwise they would complete the whole run before the error is reported."""
        try:
            yield
        except BaseException as error:
            # promise: engines: an error in one process stops the others
            self._run_sender.request_stop(cancels=not isinstance(error, Exception))
            raise

    def _is_done(self, shard: ShardRef) -> bool:
        return self._run.is_done(shard)

    def _report_of(self, shard: ShardRef) -> ShardReport:
        """Report how a shard is that no living process has reported."""
        is_done = self._is_done(shard)
        stop = None if is_done else self._run_sender.lane.stop_reason or StopReason()
        return ShardReport(shard.number, is_done, self._run.totals_of(shard), stop=stop)


def engine_of(
    run: Run,
    run_sender: RunSender,
    complete_shard: Task[..., ShardReport],
    complete_part: Task[..., list[ShardReport]],
) -> Engine:
    """Return the engine that the job names."""
    return Threads(run, complete_shard) if run.job.parts == 1 else Processes(run, run_sender, complete_part)


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT in processes that begin meanwhile: Ctrl-C reaches all processes of a terminal.

    A process inherits the mask of the thread that starts it, and a thread that of the one that creates it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_process() -> None:
    """Prepare a process of the pool: the process that leads the run decides when it stops.

    If another process of the pool died, Python terminates this one. What is under way is still awaited for a while.
    """
    signal.signal(signal.SIGTERM, _end_process)


def _end_process(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_drain_and_exit).start()


def _drain_and_exit() -> None:
    request_stop_all()
    for run_sender in open_senders():
        run_sender.close(grace_s=GRACE_TIMEOUT_S)
    os._exit(Interrupted.exit_code)
