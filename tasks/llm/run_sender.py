"""The one sending thread of a process: it owns the event loop, the client, the limits and the money of a run.

The tasks of the shards run in their own threads; each hands its shard over and waits. Nothing of a run is shared
between loops, so nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import httpx

from parquill.tasks.errors import Interrupted
from parquill.tasks.job.key import Key
from parquill.tasks.job.lanes import LaneName
from parquill.tasks.limits.lease_client import LogFn
from parquill.tasks.limits.shared import SharedLimits
from parquill.tasks.llm.batch_service import MAX_RESULT_BYTES
from parquill.tasks.llm.client import aiohttp_transport
from parquill.tasks.llm.lane import Lane
from parquill.tasks.llm.member_figures import MemberFigures, MemberFile, forget_members, read_members
from parquill.tasks.llm.open_lane import LaneOpener
from parquill.tasks.llm.pace import REAL, Pace
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.shard_report import ShardReport
from parquill.tasks.llm.shard_work import ShardWork
from parquill.tasks.money.budget_lease import LEDGER_TIMEOUT_S
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import open_budget
from parquill.tasks.records import ShardRef
from parquill.tasks.storage.answer_index import AnswerIndex
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.run_lock import RunMember

STOPPED = "the run was stopped; run again to resume"
STOP_TIMEOUT_S = 5.0
FINISH_TIMEOUT_S = 5.0
LEADER_CHECK_INTERVAL_S = 0.5  # each request checks for the leader anyway
FOLLOW_INTERVAL_S = 0.5
GRACE_TIMEOUT_S = 10.0  # less than the 30 s after which Prefect kills a cancelled run


def file_transport() -> httpx.AsyncBaseTransport:
    """Return the transport of the batch lane, whose replies may be result files."""
    return aiohttp_transport(MAX_RESULT_BYTES)


class RunSender:
    """A run's sender on its own thread. Many threads may call `complete` at once."""

    def __init__(
        self,
        run: Run,
        keys: Sequence[Key | None],
        transport: Callable[[], httpx.AsyncBaseTransport],
        disk: Disk = DISK,
        log: LogFn | None = None,
        *,
        member: RunMember | None = None,
        coordinates: bool = False,
        lane: LaneName | None = None,
        pace: Pace = REAL,
        is_abandoned: bool = False,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the sender. A process that joins a run which another process leads passes `member`.

        With `coordinates`, this process leads a run that others complete: it sends nothing, and leases no limits.
        `on_stop` is called as soon as a stop is requested.
        `keys` has the key of each endpoint of the job.
        `lane` is how to send, by default as the job's `lane` says. `pace` is the time between looks at a batch.
        `is_abandoned` is True for a run whose batches are only collected.
        """
        self._run, self._keys, self._transport, self._disk = run, keys, transport, disk
        self._lane_name, self._pace, self._is_abandoned = lane, pace, is_abandoned
        self._loop = _new_loop()
        self._member, self._coordinates, self._on_stop = member, coordinates, on_stop
        self._file = MemberFile(run.folder) if member is not None else None
        self._members, self._joined_with = MemberFigures(), Progress()
        self._watching: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._shards: set[asyncio.Task[Any]] = set()  # the shards under way
        self._submit_lock = threading.RLock()  # a signal may interrupt the thread that holds it
        # Two threads may close the sender; if both ended the loop, one would wait for it forever. A second signal calls
        # close again within the close of the first.
        self._close_lock = threading.RLock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="parquill-io", daemon=True)
        self._disk_threads = concurrent.futures.ThreadPoolExecutor(8, thread_name_prefix="parquill-disk")
        self._answers = AnswerIndex(run.folders.state)
        self._answers.add_run(run.run_id, run.job.output)
        self._lease = open_budget(run, self._disk_threads, is_first=member is None)
        self.budget, self.soft_limits = self._lease.budget, self._lease.soft_limits
        self._shared = [
            SharedLimits(run, job.limits, self._in_executor, log, within_run=self._limits_of_endpoint(number))
            for number, job in enumerate(run.job.each_endpoint)
        ]
        self._thread.start()
        try:
            self.lane: Lane = self._call(self._start())
            self._work = ShardWork(run, self.lane, self._answers, self._disk_threads, disk)
            if member is not None:
                self._joined_with = replace(self.lane.progress)
                self._call(self._begin_watching(member))
            elif coordinates:
                forget_members(run.folder)
                self._call(self._begin_following())
        except BaseException:
            self._end(STOP_TIMEOUT_S)
            raise

    def _limits_of_endpoint(self, number: int) -> str | None:
        """Return the name under which the processes of the run share an endpoint's limits; None for one process."""
        return None if self._run.job.parts == 1 else f"run-{self._run.run_id}-{number}"

    async def _start(self) -> Lane:
        for shared in self._shared if not self._coordinates else ():
            await shared.begin()
        self._lease.begin()
        # promise: batches: a result file may be larger than any reply of a model
        self._wire = file_transport() if self._takes_files else self._transport()
        # promise: C7 a worker checks for its leader before each request
        is_led = self._member.is_led if self._member is not None else lambda: True
        opener = LaneOpener(
            self._run,
            self._keys,
            self._wire,
            self.budget,
            self._shared,
            self._disk_threads,
            self._disk,
            self._pace,
            is_led,
            leads=self._member is None,
            is_abandoned=self._is_abandoned,
        )
        return opener.open(self._lane_name)

    @property
    def _takes_files(self) -> bool:
        return (self._lane_name or self._run.lane) == "batch" and self._transport is aiohttp_transport

    async def _in_executor(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._disk_threads, function, *arguments)

    async def _begin_watching(self, member: RunMember) -> None:
        self._watching = self._loop.create_task(self._watch_leader(member))

    async def _watch_leader(self, member: RunMember) -> None:
        """Close this process' part of the run if the leader ended it or was killed, or if another leader took over."""
        while True:
            await asyncio.sleep(LEADER_CHECK_INTERVAL_S)
            await self._in_executor(self._write_figures)
            # promise: C7 a worker closes its part of the run once its leader is gone
            if not member.is_led():
                break
        self.lane.stop()
        threading.Thread(target=self._leave, name="parquill-leave").start()

    def _write_figures(self) -> None:
        """Write what this process has done of the run, for the process that leads it."""
        if self._file is not None:
            now, before = self.lane.progress, self._joined_with
            self._file.write(
                MemberFigures(
                    now.done - before.done,
                    now.not_ok - before.not_ok,
                    now.done_before - before.done_before,
                    *self._lease.spent_here,
                    tuple(self.lane.warnings),
                )
            )

    async def _begin_following(self) -> None:
        self._watching = self._loop.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_INTERVAL_S)
            await self._look_at_members()

    async def _look_at_members(self) -> None:
        """Read what the processes that joined the run have done, and warn as if it were done here."""
        found = await self._in_executor(read_members, self._run.folder)
        self.lane.warnings += [text for text in found.warnings if text not in self._members.warnings]
        self._members = found
        self.soft_limits.check(self.settled_nano + self.in_doubt_nano)

    @property
    def progress(self) -> Progress:
        """How far the run is, with all processes that complete it."""
        return self.lane.progress.with_members(self._members)

    @property
    def settled_nano(self) -> int:
        """What the run has spent, with all processes that complete it, in nano-dollars."""
        return self.budget.settled_nano + self._members.settled_nano

    @property
    def in_doubt_nano(self) -> int:
        """What the run has in doubt, with all processes that complete it, in nano-dollars."""
        return self.budget.in_doubt_nano + self._members.in_doubt_nano

    def _leave(self) -> None:
        self.close(grace_s=GRACE_TIMEOUT_S)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        with self._submit_lock:
            # promise: C7 a task that starts after the stop does not wait
            if self._is_closed:  # a loop that has stopped would never answer
                work.close()
                raise Interrupted(STOPPED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Interrupted(STOPPED) from None

    def _call_last(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` as a part of a close; does nothing once the thread has ended, since a second stop closes twice."""
        if not self._thread.is_alive():
            work.close()
            return None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def limit_messages(self) -> list[str]:
        """What was said about shared limits, for people who see no log."""
        return [message for shared in self._shared for message in shared.messages]

    @property
    def is_closed(self) -> bool:
        """Whether the sender is closed and sends nothing any more."""
        return self._is_closed

    @property
    def has_work(self) -> bool:
        """Whether another shard may come: the run has one that is not done, and is not stopped."""
        return not self.lane.stopping and not all(map(self._run.is_done, self._run.shards))

    def complete(self, shard: ShardRef, only: Collection[int] | None = None) -> ShardReport:
        """Complete the open rows of a shard, unless another task has done that, and report how it ended.

        `only` names the rows of the shard that a pilot wants. Raises DiskFailed, DamagedJournal, LedgerFailed;
        Interrupted if this sender is closed.
        """
        report: ShardReport = self._call(self._complete(shard, only))
        return report

    async def _complete(self, shard: ShardRef, only: Collection[int] | None) -> ShardReport:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        self._shards.add(task)
        task.add_done_callback(self._shards.discard)
        return await self._work.complete(shard, only)

    def complete_if_free(self, shard: ShardRef) -> ShardReport | None:
        """Complete a shard as `complete` does; None if another task completes it now, perhaps in another process."""
        report: ShardReport | None = self._call(self._work.complete_if_free(shard))
        return report

    def cancel_batches(self) -> None:
        """Cancel the batches that are at the service; their replies are still collected. Raises DiskFailed."""
        self._call(self.lane.cancel())

    def wait(self, reports: Sequence[ShardReport], stay_s: float | None = None) -> set[int] | None:
        """Wait until shards with such reports can continue, and return their numbers; see `Lane.wait`."""
        with contextlib.suppress(Interrupted):
            ready: set[int] | None = self._call(self._wait(reports, stay_s))
            return ready
        return set()

    async def _wait(self, reports: Sequence[ShardReport], stay_s: float | None) -> set[int] | None:
        ready = await self.lane.wait(reports, stay_s)
        if self._draining is not None:
            # promise: C7 a stopped run ends after its cancelled batches are collected, or the grace time is over
            await asyncio.wait([self._draining])
        return ready

    def request_stop(
        self, grace_s: float = GRACE_TIMEOUT_S, *, cancels: bool = True
    ) -> concurrent.futures.Future[None]:
        """Send nothing more; requests under way get `grace_s` seconds. Any thread or signal handler may call this.

        With `cancels`, also cancel batches, and collect what they have completed if they end in that time.
        """
        with self._submit_lock:
            if self._is_closed:
                nothing: concurrent.futures.Future[None] = concurrent.futures.Future()
                nothing.set_result(None)
                return nothing
            return asyncio.run_coroutine_threadsafe(self._drain(grace_s, cancels=cancels), self._loop)

    async def _drain(self, grace_s: float, *, cancels: bool) -> None:
        # promise: engines: a stop reaches every process of the run
        self._on_stop()
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain_lane(grace_s, cancels=cancels))
        else:  # a second stop may give less time
            await self.lane.drain(grace_s, cancels=False)
        await asyncio.wait([self._draining], timeout=grace_s)

    async def _drain_lane(self, grace_s: float, *, cancels: bool) -> None:
        ended = await self.lane.drain(grace_s, cancels=cancels)
        for shard in self._run.shards:
            if shard.number in ended:
                # promise: C7 what cancelled batches have completed is collected
                await self._work.complete(shard, after_stop=True)

    def close(self, *, grace_s: float | None = None, cancels: bool = True) -> None:
        """Close the client and end the thread; with `grace_s`, stop the requests under way first.

        See `request_stop` for `cancels`.
        """
        with self._close_lock:
            if grace_s is not None:
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    self.request_stop(grace_s, cancels=cancels).result(grace_s + 5)
            with self._submit_lock:
                self._is_closed = True
            self._call_last(self._end_watching())
            self._write_figures()
            # promise: C7 a shard that is still being read ends when the run stops
            self._call_last(self._end_shards())
            self._call_last(self._wire.aclose())
            # a stop does not wait a minute for a database; the next start books what was spent
            self._end(LEDGER_TIMEOUT_S if grace_s is None else STOP_TIMEOUT_S)
        if self._member is not None:
            # promise: C7 a worker process ends once its parent process is gone
            _end_orphan()

    def _end(self, patience_s: float) -> None:
        try:
            for shared in self._shared:
                self._call_last(shared.end())
            self._call_last(self._lease.close(patience_s))
        finally:
            self._call_last(self._loop.shutdown_asyncgens())
            # promise: C7 a second stop request while the run closes is not an error
            if not self._loop.is_closed():  # a second signal may come when only the files are still open
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            self._loop.close()
            self._disk_threads.shutdown(wait=False)
            self._answers.close()
            if self._member is not None:
                self._member.close()

    async def _end_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._coordinates:
            await self._look_at_members()

    async def _end_shards(self) -> None:
        """Wait for shards that had not begun to send before the stop; threads that wait for them need a result."""
        if self._shards:
            self.lane.stop()
            _, late = await asyncio.wait(set(self._shards), timeout=FINISH_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _end_orphan() -> None:
    """End a pool worker whose parent is gone: it would wait forever for work."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(Interrupted.exit_code)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
