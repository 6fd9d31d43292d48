"""The next batch of a shard: rows are added while there is room, money and quota; then it is handed to the service."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from parquill.tasks.llm.batch_calls import BatchUnknown
from parquill.tasks.llm.batch_input import BatchInput, line_of
from parquill.tasks.llm.batch_records import BatchTools, ShardBatches, remove
from parquill.tasks.llm.batch_service import BatchRefused
from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.token_quota import EXCEEDED
from parquill.tasks.llm.unit import OpenShard, Step
from parquill.tasks.storage.batch_state import BatchState

MAX_ENVELOPE_BYTES: Final = 500  # of a line, besides the request


class NextBatch:
    """The batch that a pass fills. A pass may submit several, one after another."""

    def __init__(self, tools: BatchTools, shard: OpenShard, batches: ShardBatches) -> None:
        self._tools, self._shard, self._batches = tools, shard, batches
        self._draft: BatchInput | None = None
        self._is_full = False  # nothing more can be submitted in this pass
        self.needs_room = False  # rows wait until other batches have ended

    async def submit_rest(self) -> None:
        """Submit what was added and is not submitted yet. Raises Stopped, OSError."""
        # promise: batches: nothing more is submitted after the service has refused a batch
        if self._draft is not None and self._draft.rows and self._tools.may_submit():
            await self._submit(self._draft)

    async def discard(self) -> None:
        """Drop what is not submitted, and its reservations. Raises OSError."""
        if self._draft is not None:
            # promise: M1 rows that were not submitted give their reservations back
            self._tools.budget.release(self._draft.reserved_nano)
            await self._tools.in_executor(_discard, self._draft)

    async def add(self, step: Step) -> None:
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
            key = f"{self._tools.run_id}-{self._batches.number}-{secrets.token_hex(4)}"
            path = self._tools.folder / f"{key}.jsonl"
            draft = self._draft = await self._tools.in_executor(BatchInput, key, path)
        return draft

    async def _submit(self, draft: BatchInput) -> None:
        """Hand a batch over to the service. Raises Stopped."""
        tools, journal = self._tools, self._shard.journal
        fingerprint = await tools.in_executor(draft.close)
        limit = tools.api.limit
        batch = BatchState(draft.key, len(draft.rows), draft.tokens, fingerprint, limit, tools.now())
        # promise: M8 the rows of a batch and their reservations are on disk before anything is uploaded
        intent = self._batches.record(
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
            await self._batches.void(batch)
            if refused.code == EXCEEDED:
                self._batches.learn_quota(batch, refused.sentence)
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
            await self._batches.record(batch, "creating", at=at)

        file_id = await tools.calls.upload(path, f"{batch.key}.jsonl")
        await self._batches.record(batch, "uploaded", file=file_id)
        metadata = self._batches.metadata(batch)
        created = await tools.calls.create(file_id, tools.request_path, metadata, batch.began_at, note)
        await self._batches.note_created(batch, created)


def _discard(draft: BatchInput) -> None:
    draft.close()
    remove([draft.path])
