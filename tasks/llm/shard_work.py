"""The work on one shard: fence it, send its open rows, and record that it is done.

A task that completes a shard holds the lock of its journal, in whatever process it runs. So an engine may run the task
of a shard twice, even at the same time: the second one waits, finds the shard done, and sends nothing.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

from parquill.tasks.errors import FolderInUse
from parquill.tasks.llm.lane import Lane
from parquill.tasks.llm.shard_report import ShardReport
from parquill.tasks.llm.unit import OpenShard, Step, Unit
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import ShardRef, Totals
from parquill.tasks.storage.answer_index import AnswerIndex
from parquill.tasks.storage.disk import Disk
from parquill.tasks.storage.journal import Journal
from parquill.tasks.storage.replay import ShardState, replay_records, replay_shard

T = TypeVar("T")
FENCE_CHECK_INTERVAL_S: Final = 0.1


class ShardWork:
    """Completes shards of one run on the event loop of its lane."""

    def __init__(
        self,
        run: Run,
        lane: Lane,
        answers: AnswerIndex,
        executor: Executor,
        disk: Disk,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`executor` reads and writes files, so that the event loop never waits for a disk."""
        self._run, self._lane, self._answers = run, lane, answers
        self._executor, self._disk, self._sleep = executor, disk, sleep
        self._counted: set[int] = set()  # shards whose earlier outcomes are in the progress

    async def complete(
        self, shard: ShardRef, only: Collection[int] | None = None, *, after_stop: bool = False
    ) -> ShardReport:
        """Complete the open rows of a shard, unless another task has done that, and report how it ended.

        `only` names the rows of the shard that a pilot wants. `after_stop` collects replies that wait at the service
        although the run stops. Raises DiskFailed, DamagedJournal, LedgerFailed; after
        that nothing more is sent for any shard.
        """
        return await self._stopping_on_error(self._complete(shard, self._fence(shard, after_stop=after_stop), only))

    async def complete_if_free(self, shard: ShardRef) -> ShardReport | None:
        """Complete a shard as `complete` does; None if another task completes it now, perhaps in another process."""
        try:
            return await self._stopping_on_error(self._complete(shard, self._in_executor(self._open, shard)))
        except FolderInUse:
            return None

    async def _stopping_on_error(self, work: Awaitable[ShardReport]) -> ShardReport:
        try:
            return await work
        except FolderInUse:
            raise
        except BaseException:
            # promise: C5 an error in a shard outside its rows stops all other sending
            self._lane.stop()
            raise

    async def _complete(
        self, shard: ShardRef, fencing: Awaitable[Journal | None], only: Collection[int] | None = None
    ) -> ShardReport:
        journal = await fencing
        if journal is None:
            work, totals = None, await self._in_executor(self._run.totals_of, shard)
        else:
            try:
                work = OpenShard(journal, await self._in_executor(_replay, journal))
                await self._send(shard, only, work)
                await journal.flush()
                totals = await self._in_executor(self._record, shard, work)
            finally:
                await journal.close()
        is_done = sum(totals.statuses.values()) == shard.to_send
        over_budget, waiting = (0, ()) if work is None else (work.over_budget, tuple(work.waiting))
        return ShardReport(shard.number, is_done, totals, over_budget, self._lane.stop_reason, waiting)

    async def _fence(self, shard: ShardRef, *, after_stop: bool) -> Journal | None:
        """Open the shard's journal, which locks it; None if the shard is done or the run stops."""
        # promise: C10 a task that waits for a shard ends when the run stops
        while after_stop or not self._lane.stopping:
            try:
                return await self._in_executor(self._open, shard)
            except FolderInUse:  # another task completes the shard, perhaps in another process
                await self._sleep(FENCE_CHECK_INTERVAL_S)
        return None

    def _open(self, shard: ShardRef) -> Journal | None:
        run = self._run
        if run.is_done(shard):
            return None
        run.check_journal(shard.number)
        header = {"run_id": run.run_id, "shard": shard.number}
        return Journal(run.folder.journal(shard.number), header, self._executor, self._disk)

    async def _send(self, shard: ShardRef, only: Collection[int] | None, work: OpenShard) -> None:
        """Send the rows without an outcome."""
        if only is None and shard.number not in self._counted:
            self._counted.add(shard.number)
            self._lane.progress.done += len(work.state.outcomes)
            self._lane.progress.done_before += len(work.state.outcomes)
        # promise: C1 a shard's journal is marked as begun before its first request
        await self._in_executor(self._run.mark_begun, shard.number, self._disk)
        if len(work.state.outcomes) < shard.to_send:
            await self._lane.complete(functools.partial(self._units, shard, only, work))

    def _record(self, shard: ShardRef, work: OpenShard) -> Totals:
        """Index the shard's outcomes, and mark it as done if it has all of them. Returns its totals.

        All records are synced by now, so what is in memory is on disk.
        """
        journal = work.journal
        self._answers.add_outcomes(self._run.run_id, shard.number, journal.outcomes, journal.end)
        if len(work.state.outcomes) < shard.to_send:
            # rows that were cut off have requests in doubt, which only the journal knows
            return replay_shard(journal.path).totals()
        self._run.finish_shard(shard, work.state, self._disk)
        return work.state.totals()

    async def _in_executor(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def _units(self, shard: ShardRef, only: Collection[int] | None, work: OpenShard) -> AsyncIterator[Unit]:
        # in the executor: the check of its checksum reads the whole file
        with await self._in_executor(self._run.open_shard, shard) as planned:
            batches = planned.pending(only)
            while (batch := await self._in_executor(next, batches, None)) is not None:
                for row in batch:
                    step = Step(
                        work,
                        row.number,
                        row.key.hex(),
                        row.messages,
                        row.parameters,
                        row.tokens,
                        row.worst_nano,
                        row.expected_prompt_tokens,
                        row.prior,
                    )
                    yield Unit((step,))


def _replay(journal: Journal) -> ShardState:
    return replay_records(journal.path, journal.take_found())
