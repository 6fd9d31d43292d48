"""One pass of a shard through the batch lane: collect the batches that have ended, then submit the rows that are open.

`batch_records` says which steps of a batch the shard's journal has, and `next_batch` submits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from parquill.tasks.llm.batch_calls import PASSING, BatchUnknown
from parquill.tasks.llm.batch_collector import MIN_ROWS_OF_EVIDENCE, Fate
from parquill.tasks.llm.batch_records import BatchTools, ShardBatches, remove
from parquill.tasks.llm.batch_results import BatchResults
from parquill.tasks.llm.batch_service import MAX_RESULT_BYTES, BatchRefused, BatchUnclear, FileTooLarge, RemoteBatch
from parquill.tasks.llm.next_batch import NextBatch
from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.reply_reader import Result, ended
from parquill.tasks.llm.token_quota import EXCEEDED
from parquill.tasks.llm.unit import OpenShard, Step, Unit
from parquill.tasks.records import Usage
from parquill.tasks.storage.batch_state import BatchState

GROUP_ROWS: Final = 256  # whose records are synced together


@dataclass(slots=True)
class _Ended:
    """A batch that has ended: its replies (None if the service has lost them), its files, and what it adds up to."""

    state: BatchState
    results: BatchResults | None
    paths: list[Path]
    remote: RemoteBatch | None
    is_ours: bool
    booked: Usage = field(default_factory=Usage)  # what its rows report

    @property
    def is_evidence(self) -> bool:
        """Whether no row was answered, of enough to show that none will be."""
        return self.results is not None and not self.results.answered and self.state.rows >= MIN_ROWS_OF_EVIDENCE


class BatchPass:
    """One pass of one shard."""

    def __init__(self, tools: BatchTools, shard: OpenShard) -> None:
        self._tools, self._shard = tools, shard
        self._batches = ShardBatches(tools, shard)
        self._next = NextBatch(tools, shard, self._batches)
        self._ended: dict[str, _Ended] = {}

    @property
    def number(self) -> int:
        """The number of the shard."""
        return self._batches.number

    @property
    def needs_room(self) -> bool:
        """Whether rows wait until other batches have ended."""
        return self._next.needs_room

    async def complete(self, first: Unit, units: AsyncIterator[Unit]) -> None:
        """Take all units of the shard, of which `first` is the first. Raises Stopped, DiskFailed, OSError."""
        self._shard.over_budget = 0  # rows that did not fit before may fit now
        try:
            for batch in list(self._shard.state.batches.values()):
                await self._advance(batch)
            if not self._ended and not self._tools.may_submit():
                return
            group = [first]
            async for unit in units:
                if len(group) == GROUP_ROWS:
                    await self._take(group)
                    group.clear()
                group.append(unit)
            await self._take(group)
            await self._close_ended()
            await self._next.submit_rest()
        finally:
            await self._next.discard()

    # -- batches of earlier passes

    async def _advance(self, batch: BatchState) -> None:
        """Find out how a batch is; if it has ended, get its replies."""
        tools = self._tools
        tools.quota.open(batch.key, batch.tokens)
        batch_id = batch.batch_id or await self._locate(batch)
        if batch_id is None:
            return
        self._batches.note(batch, batch_id, "not seen yet")
        try:
            remote = await tools.calls.look(batch_id)
        except (BatchUnclear, BatchRefused) as error:
            # promise: M8 a look at a batch that fails changes nothing
            if isinstance(error, BatchUnclear) or error.rule.retry in PASSING:
                return
            raise
        if remote is None:
            tools.warn(f"the service no longer has the batch {batch_id}: its {batch.rows:,} rows are in doubt")
            self._ended[batch.key] = _Ended(batch, None, [], None, is_ours=False)
            return
        self._batches.note(batch, batch_id, remote.status)
        if remote.has_ended:
            await self._end(batch, remote)

    async def _locate(self, batch: BatchState) -> str | None:
        """Return the id of a batch whose creation was cut off; None if it was not created, or if that is unknown."""
        if batch.creating_at is None:
            # promise: M8 a batch that was not created yet is void, and its rows are open again
            await self._batches.void(batch)
            return None
        try:
            # promise: M8 a batch that may have been created is looked for before its rows are sent again
            found = await self._tools.calls.find(self._batches.metadata(batch), batch.began_at, batch.creating_at)
        except BatchUnknown as unknown:  # the next start looks again
            self._tools.refuse(TABLE["bad_gateway"], unknown.sentence)
            return None
        if found is None:
            await self._batches.void(batch)
            return None
        await self._batches.note_created(batch, found)
        return found.id

    async def _end(self, batch: BatchState, remote: RemoteBatch) -> None:
        """Get the replies of a batch that has ended; make it void if the service refused all of it."""
        if remote.status != "failed" or remote.has_begun or remote.result_files:
            await self._download(batch, remote)
            return
        await self._batches.void(batch)
        self._fail(batch, remote)

    async def _download(self, batch: BatchState, remote: RemoteBatch) -> None:
        """Get both result files, whatever the state in which the batch has ended."""
        tools, paths = self._tools, []
        most = min(MAX_RESULT_BYTES, batch.rows * 2 * tools.reader.max_bytes)
        for number, file_id in enumerate(remote.result_files):
            path = tools.folder / f"{batch.key}.{number}.results"
            try:
                # promise: M8 both result files of a batch are read, whatever its state
                if await tools.calls.download(file_id, path, most):
                    paths.append(path)
            except FileTooLarge:
                tools.warn(f"a result file of the batch {remote.id} is larger than any answers can be; it is not read")
        results = await tools.in_executor(BatchResults, batch.key, paths, tools.reader)
        if results.foreign:
            tools.warn(f"the batch {remote.id} has {results.foreign:,} lines that belong to none of its rows")
        self._ended[batch.key] = _Ended(batch, results, paths, remote, is_ours=tools.open.is_ours(remote.id))

    def _fail(self, batch: BatchState, remote: RemoteBatch) -> None:
        """Learn from a batch that the service refused after it had created it."""
        problem = next(iter(remote.problems), None)
        if problem is not None and problem.code == EXCEEDED:
            self._batches.learn_quota(batch, problem.message)
            return
        reason = f": {problem.code}: {problem.message}" if problem is not None else ""
        rule = TABLE["batch_refused"]
        self._tools.refuse(rule, f"{rule.sentence}{reason}")

    # -- rows

    async def _take(self, units: Sequence[Unit]) -> None:
        """Collect the replies to these rows, and put those that are open into the next batch."""
        steps = [step for unit in units if (step := unit.next_step()) is not None]
        for step in steps:
            step.state = self._shard.state.rows.setdefault(step.number, step.state)
        found = await self._tools.in_executor(self._read, steps)
        await asyncio.gather(*(self._collect(step, result) for step, result in found))
        for step in steps:
            if step.outcome is None and not step.state.submitted:
                await self._next.add(step)

    def _read(self, steps: Sequence[Step]) -> list[tuple[Step, Result]]:
        """Read the replies of the batches that have ended."""
        found = []
        for step in steps:
            for request in step.state.submitted.values():
                if (batch := self._ended.get(request.to)) is None:
                    continue
                if batch.results is None:
                    found.append((step, ended("batch_lost")))
                    continue
                sent = step.messages + (step.parameters or "")
                result = batch.results.result_of(step.number, sent, batch.state.limit, len(sent.encode()))
                found.append((step, result))
        return found

    async def _collect(self, step: Step, result: Result) -> None:
        (request,) = step.state.submitted.values()
        batch = self._ended[request.to]
        batch.booked = batch.booked + result.usage
        fate = Fate(batch.state.limit, is_evidence=batch.is_evidence, is_ours=batch.is_ours)
        await self._tools.collector.collect(step, result, fate)

    async def _close_ended(self) -> None:
        """Record that the batches are collected, once all their rows have their records; remove their files."""
        tools = self._tools
        await self._shard.journal.flush()
        for batch in self._ended.values():
            self._check_usage(batch)
            await self._batches.collected(batch.state)
            await tools.in_executor(remove, batch.paths)
            if batch.state.file_id is not None:
                # Azure keeps at most 500 files
                with contextlib.suppress(BatchRefused, BatchUnclear):
                    await tools.calls.service.remove(batch.state.file_id)
        self._ended.clear()

    def _check_usage(self, batch: _Ended) -> None:
        """Warn if the usage that a batch reports is not the sum of what its rows report."""
        reported, booked = batch.remote.usage if batch.remote is not None else None, batch.booked
        if reported is not None and (reported.prompt, reported.completion) != (booked.prompt, booked.completion):
            self._tools.warn(
                f"the batch {batch.state.batch_id} reports {reported.prompt:,} prompt tokens and "
                f"{reported.completion:,} completion tokens, and its rows {booked.prompt:,} and {booked.completion:,}; "
                "what the rows report is booked"
            )
