"""One pass of a shard through the batch lane: collect the batches that have ended, then submit the rows that are open.

The journal is always ahead of the service:

1. In one group: the batch's `intent`, and for each of its rows that its request leaves, with its reservation.
2. The file is uploaded (`uploaded`), then the batch is created (`creating` before each try, `created` after it).
3. After the end: the reply of each row, then `collected`.

A start that finds only an intent, or an upload, makes the batch void: it was never created, and its rows are open
again. One that finds `creating` looks for the batch by its metadata first.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from parquill.tasks.llm.attempts import Attempts
from parquill.tasks.llm.batch_calls import PASSING, BatchCalls, BatchUnknown
from parquill.tasks.llm.batch_collector import MIN_ROWS_OF_EVIDENCE, BatchCollector, Fate
from parquill.tasks.llm.batch_input import BatchInput, line_of
from parquill.tasks.llm.batch_results import BatchResults
from parquill.tasks.llm.batch_service import MAX_RESULT_BYTES, BatchRefused, BatchUnclear, FileTooLarge, RemoteBatch
from parquill.tasks.llm.open_batches import OpenBatches
from parquill.tasks.llm.outcomes import TABLE, Rule
from parquill.tasks.llm.protocol import Api
from parquill.tasks.llm.reply_reader import ReplyReader, Result, ended
from parquill.tasks.llm.token_quota import EXCEEDED, TokenQuota
from parquill.tasks.llm.unit import OpenShard, Step, Unit
from parquill.tasks.money.budget import Budget
from parquill.tasks.records import Usage
from parquill.tasks.storage.batch_state import BatchState

T = TypeVar("T")
GROUP_ROWS: Final = 256  # whose records are synced together
WINDOW_S: Final = 86_400.0
MAX_ENVELOPE_BYTES: Final = 500  # of a line, besides the request
# Parquill's own names in the metadata of a batch.
KEY, FINGERPRINT, RUN = "parquill_batch", "parquill_fingerprint", "parquill_run"


@dataclass(frozen=True, slots=True)
class BatchTools:
    """What all passes of a run share. `warn` tells the user; `refuse` ends all submitting, because of the service."""

    run_id: str
    folder: Path
    api: Api
    reader: ReplyReader
    request_path: str
    room: int  # max_output_tokens
    budget: Budget
    attempts: Attempts
    collector: BatchCollector
    calls: BatchCalls
    quota: TokenQuota
    open: OpenBatches
    executor: Executor
    now: Callable[[], float]
    warn: Callable[[str], None]
    refuse: Callable[[Rule, str], None]
    may_submit: Callable[[], bool]

    async def in_executor(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that blocks for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *arguments)


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
        self._number = int(shard.journal.path.stem)
        self._ended: dict[str, _Ended] = {}
        self._draft: BatchInput | None = None
        self._is_full = False  # nothing more can be submitted in this pass
        self.needs_room = False  # rows wait until other batches have ended

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
            # promise: batches: nothing more is submitted after the service has refused a batch
            if self._draft is not None and self._draft.rows and self._tools.may_submit():
                await self._submit(self._draft)
        finally:
            if self._draft is not None:
                self._tools.budget.release(self._draft.reserved_nano)
                await self._tools.in_executor(_discard, self._draft)

    # -- batches of earlier passes

    async def _advance(self, batch: BatchState) -> None:
        """Find out how a batch is; if it has ended, get its replies."""
        tools = self._tools
        tools.quota.open(batch.key, batch.tokens)
        batch_id = batch.batch_id or await self._locate(batch)
        if batch_id is None:
            return
        tools.open.note(self._number, batch_id, batch, "not seen yet")
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
        tools.open.note(self._number, batch_id, batch, remote.status)
        if remote.has_ended:
            await self._end(batch, remote)

    async def _locate(self, batch: BatchState) -> str | None:
        """Return the id of a batch whose creation was cut off; None if it was not created, or if that is unknown."""
        if batch.creating_at is None:
            # promise: M8 a batch that was not created yet is void, and its rows are open again
            await self._void(batch)
            return None
        try:
            # promise: M8 a batch that may have been created is looked for before its rows are sent again
            found = await self._tools.calls.find(
                _metadata(self._tools.run_id, batch), batch.began_at, batch.creating_at
            )
        except BatchUnknown as unknown:  # the next start looks again
            self._tools.refuse(TABLE["bad_gateway"], unknown.sentence)
            return None
        if found is None:
            await self._void(batch)
            return None
        await self._note_created(batch, found)
        return found.id

    async def _end(self, batch: BatchState, remote: RemoteBatch) -> None:
        """Get the replies of a batch that has ended; make it void if the service refused all of it."""
        if remote.status != "failed" or remote.has_begun or remote.result_files:
            await self._download(batch, remote)
            return
        await self._void(batch)
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

    async def _void(self, batch: BatchState) -> None:
        """Record that a batch completed nothing: its rows were never sent, and their money is free."""
        reserved_nano = sum(
            request.reserved_nano
            for row in self._shard.state.rows.values()
            for request in row.submitted.values()
            if request.to == batch.key
        )
        await self._record(batch, "void")
        self._shard.state.apply_batch({"key": batch.key, "step": "void"})
        self._tools.budget.release(reserved_nano, submitted=True)
        self._tools.quota.close(batch.key)
        if batch.batch_id is not None:
            self._tools.open.close(batch.batch_id)

    def _fail(self, batch: BatchState, remote: RemoteBatch) -> None:
        """Learn from a batch that the service refused after it had created it."""
        problem = next(iter(remote.problems), None)
        if problem is not None and problem.code == EXCEEDED:
            self._learn_quota(batch, problem.message)
            return
        reason = f": {problem.code}: {problem.message}" if problem is not None else ""
        rule = TABLE["batch_refused"]
        self._tools.refuse(rule, f"{rule.sentence}{reason}")

    def _learn_quota(self, batch: BatchState, message: str) -> None:
        if batch.rows == 1 and not self._tools.quota.waiting:
            rule = TABLE["rate_limited"]
            sentence = f"the service's quota of enqueued tokens leaves no room for one row: {message}"
            self._tools.refuse(rule, sentence)
        self._tools.quota.learn(batch.tokens, message)

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
                await self._add(step)

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

    async def _add(self, step: Step) -> None:
        """Reserve the step's worst case, and put it into the next batch, if there is room and money."""
        tools = self._tools
        if self._is_full or not tools.may_submit() or await tools.attempts.fail_unsent(step):
            return
        tokens = step.tokens - tools.room
        body = tools.api.body(step.messages, step.parameters, tools.api.limit)
        draft = await self._draft_for(tokens, len(body) + MAX_ENVELOPE_BYTES)
        if draft is None:
            return
        # promise: M1 a row is put into a batch only if its reservation fits the budget
        if not await tools.budget.reserve(step.reserve_nano, wait=False):
            # also money in a batch of an earlier start, which this process has not looked at yet, comes back
            if draft.rows or tools.budget.submitted_nano:
                self._is_full = self.needs_room = True  # replies may cost less than they reserve
            else:
                self._shard.over_budget += 1
            return
        draft.add(step, line_of(draft.key, step.number, tools.request_path, body), tokens)

    async def _draft_for(self, tokens: int, size: int) -> BatchInput | None:
        """Return the file that a request of so many tokens and bytes goes into; None if the quota has no room for it.

        Submits the batch before, if its file is full.
        """
        quota = self._tools.quota
        draft = self._draft
        if draft is not None and draft.rows and not draft.has_room(size):
            await self._submit(draft)
            draft = self._draft
            if self._is_full:
                return None
        is_first = draft is None or not draft.rows
        if not quota.has_room(tokens + (0 if draft is None else draft.tokens), is_first=is_first):
            self._is_full = self.needs_room = True
            return None
        if draft is None:
            key = f"{self._tools.run_id}-{self._number}-{secrets.token_hex(4)}"
            path = self._tools.folder / f"{key}.jsonl"
            draft = self._draft = await self._tools.in_executor(BatchInput, key, path)
        return draft

    # -- the next batch

    async def _submit(self, draft: BatchInput) -> None:
        """Hand a batch over to the service. Raises Stopped."""
        tools, journal = self._tools, self._shard.journal
        fingerprint = await tools.in_executor(draft.close)
        limit = tools.api.limit
        batch = BatchState(draft.key, len(draft.rows), draft.tokens, fingerprint, limit, tools.now())
        # promise: M8 the rows of a batch and their reservations are on disk before anything is uploaded
        intent = self._record(
            batch,
            "intent",
            rows=batch.rows,
            tokens=batch.tokens,
            fingerprint=fingerprint,
            limit=limit,
            at=batch.began_at,
        )
        for row in draft.rows:
            row.state.submit(batch.key, row.reserved_nano)
            record = {"type": "submitted", "row": row.number, "n": row.state.requests, "to": batch.key}
            journal.append({**record, "reserved": row.reserved_nano})
        self._draft = None
        self._shard.state.batches[batch.key] = batch
        tools.budget.submit(draft.reserved_nano)
        tools.quota.open(batch.key, batch.tokens)
        try:
            await intent
            await self._create(batch, draft.path)
        except BatchRefused as refused:
            await self._void(batch)
            if refused.code == EXCEEDED:
                self._learn_quota(batch, refused.sentence)
                self._is_full = self.needs_room = True
            else:
                tools.refuse(refused.rule, refused.sentence)
        except BatchUnknown as unknown:  # the next start looks for it
            tools.refuse(TABLE["bad_gateway"], unknown.sentence)
        finally:
            await tools.in_executor(_discard, draft)

    async def _create(self, batch: BatchState, path: Path) -> None:
        tools = self._tools

        async def note(at: float) -> None:
            await self._record(batch, "creating", at=at)

        file_id = await tools.calls.upload(path, f"{batch.key}.jsonl")
        await self._record(batch, "uploaded", file=file_id)
        metadata = _metadata(tools.run_id, batch)
        created = await tools.calls.create(file_id, tools.request_path, metadata, batch.began_at, note)
        await self._note_created(batch, created)

    async def _note_created(self, batch: BatchState, remote: RemoteBatch) -> None:
        deadline = remote.expires_at or (remote.created_at or self._tools.now()) + WINDOW_S
        await self._record(batch, "created", batch=remote.id, deadline=deadline)
        self._tools.open.note(self._number, remote.id, batch, remote.status)

    def _record(self, state: BatchState, step: str, /, **more: Any) -> asyncio.Future[None]:
        """Append a step of a batch to the journal, and to its state."""
        record = {"type": "batch", "key": state.key, "step": step, **more}
        if step not in {"intent", "void", "collected"}:
            state.apply(record)
        return self._shard.journal.append(record)

    async def _close_ended(self) -> None:
        """Record that the batches are collected, once all their rows have their records; remove their files."""
        tools = self._tools
        await self._shard.journal.flush()
        for batch in self._ended.values():
            await self._record(batch.state, "collected")
            self._check_usage(batch)
            self._shard.state.apply_batch({"key": batch.state.key, "step": "collected"})
            tools.quota.close(batch.state.key)
            if batch.state.batch_id is not None:
                tools.open.close(batch.state.batch_id)
            await tools.in_executor(_remove, batch.paths)
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


def _metadata(run_id: str, batch: BatchState) -> dict[str, str]:
    return {KEY: batch.key, FINGERPRINT: batch.fingerprint, RUN: run_id}


def _discard(draft: BatchInput) -> None:
    draft.close()
    _remove([draft.path])


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
