"""What one shard's batches have in common: the tools of the lane, and their steps in the shard's journal.

The journal is always ahead of the service:

1. In one group: the batch's `intent`, and for each of its rows that its request leaves, with its reservation.
2. The file is uploaded (`uploaded`), then the batch is created (`creating` before each try, `created` after it).
3. After the end: the reply of each row, then `collected`.

A start that finds only an intent, or an upload, makes the batch void: it was never created, and its rows are open
again. One that finds `creating` looks for the batch by its metadata first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from parquill.tasks.llm.attempts import Attempts
from parquill.tasks.llm.batch_calls import BatchCalls
from parquill.tasks.llm.batch_collector import BatchCollector
from parquill.tasks.llm.batch_service import RemoteBatch
from parquill.tasks.llm.open_batches import OpenBatches
from parquill.tasks.llm.outcomes import TABLE, Rule
from parquill.tasks.llm.protocol import Api
from parquill.tasks.llm.reply_reader import ReplyReader
from parquill.tasks.llm.token_quota import TokenQuota
from parquill.tasks.llm.unit import OpenShard
from parquill.tasks.money.budget import Budget
from parquill.tasks.storage.batch_state import BatchState

T = TypeVar("T")
WINDOW_S: Final = 86_400.0
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


class ShardBatches:
    """The batches of one shard in its journal, in the budget and in the quota."""

    def __init__(self, tools: BatchTools, shard: OpenShard) -> None:
        self._tools, self._shard = tools, shard
        self.number = int(shard.journal.path.stem)

    def metadata(self, batch: BatchState) -> dict[str, str]:
        """Return what the service keeps with a batch, by which it is found again."""
        return {KEY: batch.key, FINGERPRINT: batch.fingerprint, RUN: self._tools.run_id}

    def note(self, batch: BatchState, batch_id: str, status: str) -> None:
        """Let the user see how a batch is."""
        self._tools.open.note(self.number, batch_id, batch, status)

    def record(self, state: BatchState, step: str, /, **more: Any) -> asyncio.Future[None]:
        """Append a step of a batch to the journal, and to its state."""
        record = {"type": "batch", "key": state.key, "step": step, **more}
        if step not in {"intent", "void", "collected"}:
            state.apply(record)
        return self._shard.journal.append(record)

    async def note_created(self, batch: BatchState, remote: RemoteBatch) -> None:
        """Record that the service has created a batch, or that one was found."""
        deadline = remote.expires_at or (remote.created_at or self._tools.now()) + WINDOW_S
        await self.record(batch, "created", batch=remote.id, deadline=deadline)
        self.note(batch, remote.id, remote.status)

    async def void(self, batch: BatchState) -> None:
        """Record that a batch completed nothing: its rows were never sent, and their money is free."""
        reserved_nano = sum(
            request.reserved_nano
            for row in self._shard.state.rows.values()
            for request in row.submitted.values()
            if request.to == batch.key
        )
        await self.record(batch, "void")
        self._shard.state.apply_batch({"key": batch.key, "step": "void"})
        self._tools.budget.release(reserved_nano, submitted=True)
        self._forget(batch)

    async def collected(self, batch: BatchState) -> None:
        """Record that the replies of all rows of a batch have their records."""
        await self.record(batch, "collected")
        self._shard.state.apply_batch({"key": batch.key, "step": "collected"})
        self._forget(batch)

    def _forget(self, batch: BatchState) -> None:
        self._tools.quota.close(batch.key)
        if batch.batch_id is not None:
            self._tools.open.close(batch.batch_id)

    def learn_quota(self, batch: BatchState, message: str) -> None:
        """Keep to the quota of enqueued tokens that a batch was too large for."""
        if batch.rows == 1 and not self._tools.quota.waiting:
            rule = TABLE["rate_limited"]
            sentence = f"the service's quota of enqueued tokens leaves no room for one row: {message}"
            self._tools.refuse(rule, sentence)
        self._tools.quota.learn(batch.tokens, message)


def remove(paths: Sequence[Path]) -> None:
    """Remove files with prompts or answers, as far as they are there. Raises OSError."""
    for path in paths:
        path.unlink(missing_ok=True)
