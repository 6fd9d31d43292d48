"""The calls of a batch, repeated while they fail for a reason that passes, and never so that a batch is made twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from parquill.tasks.llm.batch_service import BatchRefused, BatchService, BatchUnclear, RemoteBatch
from parquill.tasks.llm.outcomes import TABLE, Retry
from parquill.tasks.llm.retry import backoff_s

T = TypeVar("T")
PASSING: Final = frozenset({Retry.OUTAGE, Retry.THROTTLE, Retry.AGAIN})
# How long a new batch may be missing in the service's list. After that time it was not created.
LIST_LAG_S: Final = 180.0
_LOOK_PAUSES_S: Final = (1.0, 4.0, 10.0, 15.0, 30.0)
# A service may answer 404 for an object that it has just made.
MISSING_PAUSES_S: Final = (5.0, 15.0, 40.0, 120.0)


class BatchUnknown(Exception):
    """It cannot be found out whether a batch was created."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = f"{sentence}; it is unknown whether a batch was created"


class BatchCalls:
    """Calls of one run's lane. `rest` sleeps, and raises Stopped as soon as the run stops."""

    def __init__(
        self,
        service: BatchService,
        patience_s: float,
        rest: Callable[[float], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self.service = service
        self._patience_s, self._rest, self._now = patience_s, rest, now

    async def upload(self, path: Path, name: str) -> str:
        """Upload a file and return its id. A file costs nothing, so this may be repeated. Raises BatchRefused."""
        return await self._patiently(lambda: self.service.upload(path, name))

    async def create(
        self,
        file_id: str,
        path: str,
        metadata: Mapping[str, str],
        began_at: float,
        note: Callable[[float], Awaitable[None]],
    ) -> RemoteBatch:
        """Create a batch exactly once. `note` records the time of each try before it is made.

        If the reply is lost, the batch is looked for before it is created again. Raises BatchRefused if it was
        certainly not created, BatchUnknown if that cannot be found out.
        """

        async def attempt() -> RemoteBatch:
            at = self._now()
            # promise: M8 each try to create a batch is on disk before it is made
            await note(at)
            try:
                return await self.service.create(file_id, path, metadata)
            except BatchUnclear:
                found = await self.find(metadata, began_at, at)
                if found is None:  # certainly not created
                    raise
                return found

        return await self._patiently(attempt)

    async def find(self, metadata: Mapping[str, str], began_at: float, tried_at: float) -> RemoteBatch | None:
        """Return the batch with this metadata; None once it is certain that the try at `tried_at` created none.

        Raises BatchUnknown if the service does not list its batches in time.
        """
        pauses, failed_s = iter(_LOOK_PAUSES_S), 0.0
        while True:
            late = self._now() >= tried_at + LIST_LAG_S
            pause_s = next(pauses, _LOOK_PAUSES_S[-1])
            try:
                found = await self.service.find(metadata, began_at)
            except BatchUnclear as error:
                failed_s += pause_s
                if failed_s > self._patience_s:
                    raise BatchUnknown(error.sentence) from None
            except BatchRefused as error:
                failed_s += pause_s
                if error.rule.retry not in PASSING or failed_s > self._patience_s:
                    raise BatchUnknown(error.sentence) from None
            else:
                # promise: M8 a batch is created again only if the service lists none after a while
                if found is not None or late:
                    return found
            await self._rest(pause_s)

    async def look(self, batch_id: str) -> RemoteBatch | None:
        """Return a batch as it is now; None if the service has it no more. Raises BatchRefused, BatchUnclear."""
        return await self._unless_missing(lambda: self.service.look(batch_id))

    async def download(self, file_id: str, path: Path, max_bytes: int) -> bool:
        """Download a result file; False if the service has it no more. Raises BatchRefused, FileTooLarge, OSError."""

        async def call() -> bool:
            await self._patiently(lambda: self.service.download(file_id, path, max_bytes))
            return True

        return await self._unless_missing(call) or False

    async def _unless_missing(self, call: Callable[[], Awaitable[T]]) -> T | None:
        for pause_s in (*MISSING_PAUSES_S, None):
            try:
                return await call()
            except BatchRefused as refused:
                if refused.rule.code != "not_found":
                    raise
            # promise: M8 a batch counts as lost only after several 404 replies
            if pause_s is not None:
                await self._rest(pause_s)
        return None

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call that may be repeated, while it fails for a reason that passes. Raises BatchRefused."""
        tries, waited_s = 0, 0.0
        while True:
            try:
                return await call()
            except BatchUnclear as unclear:
                error = BatchRefused(TABLE["bad_gateway"], unclear.sentence)
            except BatchRefused as refused:
                if refused.rule.retry not in PASSING:
                    raise
                error = refused
            if waited_s > self._patience_s:
                raise error
            tries += 1
            pause_s = backoff_s(tries + 1)
            waited_s += pause_s
            await self._rest(pause_s)
