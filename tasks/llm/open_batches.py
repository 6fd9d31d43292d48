"""The batches of one run that are at the service: their states, and the ones that this run has cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from parquill.tasks.llm.batch_service import BatchRefused, BatchService, BatchUnclear
from parquill.tasks.llm.outcomes import Retry
from parquill.tasks.storage.batch_state import BatchState
from parquill.tasks.storage.disk import DISK, Disk, read_json

# Azure does not end a batch at its deadline. So Parquill cancels it, if it still runs this long after it.
OVERDUE_S: Final = 1_800.0
CANCEL_CHECK_INTERVAL_S: Final = 1.0
_log = logging.getLogger("parquill.service")


class OpenBatch(NamedTuple):
    """A batch at the service: its shard, its rows, since and until when it may run, its state, and the rows done."""

    shard: int
    rows: int
    since: float
    deadline: float
    status: str
    done: int = 0


class OpenBatches:
    """The batches of one run that have not ended, as far as this process knows; times in seconds since 1970."""

    def __init__(self, service: BatchService, now: Callable[[], float], path: Path, disk: Disk = DISK) -> None:
        """`path` keeps the ids of the batches that this run has cancelled."""
        self._service, self._now, self._path, self._disk = service, now, path, disk
        self._batches: dict[str, OpenBatch] = {}
        self._cancelled: set[str] = set((read_json(path) or {}).get("cancelled", []))
        self._cancelled_elsewhere: set[str] = set()

    def note(self, shard: int, batch_id: str, batch: BatchState, status: str) -> None:
        """Note that a batch is at the service, and its state there."""
        deadline = batch.deadline or self._now()
        done = self._batches[batch_id].done if batch_id in self._batches else 0
        self._batches[batch_id] = OpenBatch(shard, batch.rows, batch.began_at, deadline, status, done)

    def close(self, batch_id: str) -> None:
        """Note that the replies of a batch are collected."""
        self._batches.pop(batch_id, None)

    def is_ours(self, batch_id: str) -> bool:
        """Whether this run cancelled the batch, and not a person or another program."""
        return batch_id in self._cancelled

    async def has_ended(self, batch_id: str) -> bool:
        """Whether a batch has ended or is gone; a look that fails changes nothing.

        Raises BatchRefused if the service will answer no look, for example for a bad key.
        """
        try:
            remote = await self._service.look(batch_id)
        except BatchUnclear:
            return False
        except BatchRefused as refused:
            if refused.rule.retry is Retry.STOP:
                raise
            return refused.rule.code == "not_found"
        known = self._batches.get(batch_id)
        if known is not None:
            self._batches[batch_id] = known._replace(status=remote.status, done=min(known.rows, remote.rows_done))
        if remote.has_ended:
            return True
        # promise: M8 a batch that the service does not end in time is cancelled, and its replies are collected
        if known is not None and self._now() > known.deadline + OVERDUE_S and remote.status != "cancelling":
            _log.warning("the batch %s is overdue; it is cancelled, and what it completed is kept", batch_id)
            await self.cancel([batch_id])
        return False

    @property
    def are_left(self) -> bool:
        """Whether any batch is not collected."""
        return bool(self._batches)

    @property
    def rows_done(self) -> int:
        """Rows that the service has completed and that are not collected."""
        return sum(batch.done for batch in self._batches.values())

    @property
    def rows_left(self) -> int:
        """Rows that are in batches and not completed, without those of batches that this run has cancelled."""
        return sum(batch.rows - batch.done for key, batch in self._batches.items() if key not in self._cancelled)

    async def look(self) -> None:
        """Ask the service for the state of every batch. Raises BatchRefused as `has_ended` does."""
        for batch_id in list(self._batches):
            await self.has_ended(batch_id)

    async def cancel_largest(self) -> None:
        """Cancel the batch with the most rows left, of those that this run has not cancelled. Raises DiskFailed."""
        left = {key: each.rows - each.done for key, each in self._batches.items() if key not in self._cancelled}
        if left:
            await self.cancel([max(left, key=lambda key: left[key])])

    async def cancel(self, batch_ids: Collection[str]) -> None:
        """Cancel batches; what they have completed stays. Raises DiskFailed."""
        self._cancelled.update(batch_ids)
        self._disk.write_own(self._path, {"cancelled": sorted(self._cancelled)})

        async def one(batch_id: str) -> None:
            with contextlib.suppress(BatchRefused, BatchUnclear):  # it has ended, or the next start looks at it
                await self._service.cancel(batch_id)

        await asyncio.gather(*map(one, batch_ids))

    async def cancel_open(self) -> None:
        """Cancel every batch that this run has not cancelled before. Raises DiskFailed."""
        left = [batch_id for batch_id in self._batches if batch_id not in self._cancelled]
        if left:
            await self.cancel(left)

    async def cancel_all(self, grace_s: float, sleep: Callable[[float], Awaitable[None]]) -> set[int]:
        """Cancel every batch, and return the shards of those that have ended within `grace_s` seconds."""
        asked: set[str] = set()
        ended: dict[str, int] = {}
        with contextlib.suppress(TimeoutError, BatchRefused):
            async with asyncio.timeout(grace_s):
                # a pass that is under way may note further batches, and close those that it collects
                while not self._batches.keys() <= ended.keys():
                    if fresh := self._batches.keys() - asked:
                        asked |= fresh
                        # promise: C7 a stop cancels the batches of the run
                        await self.cancel(fresh)
                    for batch_id, batch in list(self._batches.items()):
                        if batch_id not in ended and await self.has_ended(batch_id):
                            ended[batch_id] = batch.shard
                    if not self._batches.keys() <= ended.keys():
                        await sleep(CANCEL_CHECK_INTERVAL_S)
        return set(ended.values())

    @property
    def sentence(self) -> str | None:
        """What the run waits for, for people; None if no batch is at the service."""
        if not self._batches:
            return None
        rows = sum(batch.rows for batch in self._batches.values())
        states = Counter(batch.status.replace("_", " ") for batch in self._batches.values())
        shown = ", ".join(f"{count} {status}" for status, count in sorted(states.items()))
        earliest = datetime.fromtimestamp(min(batch.since for batch in self._batches.values()), UTC)
        latest = datetime.fromtimestamp(max(batch.deadline for batch in self._batches.values()), UTC)
        count = len(self._batches)
        what = "1 batch" if count == 1 else f"{count:,} batches"
        times = f"since {earliest:%Y-%m-%d %H:%M}, until {latest:%Y-%m-%d %H:%M} UTC at the latest"
        return f"{what} with {rows:,} rows ({shown}), {times}"
