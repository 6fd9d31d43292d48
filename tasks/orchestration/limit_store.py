"""Prefect's global concurrency limits as buckets to lease from (see `limits.leases`).

What Prefect 3.9.1 does, and what follows from it:

- An acquire is granted if `active_slots - floor(slot_decay_per_second * seconds since the last change)` and the new
  slots are within `limit`, in one UPDATE on the clock of the database, so processes and servers may race. The fraction
  that `floor` drops is lost with each acquire: single slots starve, slots of a thousandth of a request hardly lose any.
- A refused acquire changes nothing (its transaction is rolled back), so `updated` is the last grant or change, on the
  clock of the database.
- Of acquires at the same moment a server on SQLite answers some with 503 ("database is locked"), after which its client
  would sleep for two seconds, longer than a lease lives. So who asks is told at once, and asks again.
- An acquire of a limit that does not exist succeeds, so the answer must name the limit. It also tells the limit's size,
  by which another shape is known: it is read just before the slots are taken, and a new shape begins full. One of a
  limit that is switched off succeeds too; `read` tells, and what a process may send then is its own limit, which holds
  at all times.
- Leases with a holder (`increment-with-lease`) are kept in the server's memory by default, and after a restart their
  slots are never given back; decay needs nobody to give anything back, whoever died.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import MissingContextError, ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL

from parquill.tasks.job.settings import Job
from parquill.tasks.limits.leases import LogFn
from parquill.tasks.limits.lending import LenderAwayError, NoBucketError
from parquill.tasks.limits.shared import ALONE, Sharing
from parquill.tasks.limits.shares import Bucket

EMBEDDED = "PARQUILL_EMBEDDED_SERVER"  # the address of a server that nobody else knows


class PrefectLender:
    """Buckets in Prefect, one global concurrency limit a kind. Used on one event loop."""

    def __init__(self, name: str) -> None:
        self._prefix = f"parquill-{name}"
        self._stack = contextlib.AsyncExitStack()
        self._client: PrefectClient | None = None

    async def _open(self) -> PrefectClient:
        if self._client is None:
            hooks = {"response": [_refuse_busy]}
            self._client = await self._stack.enter_async_context(get_client(httpx_settings={"event_hooks": hooks}))
        return self._client

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[PrefectClient]:
        try:
            yield await self._open()
        except (ObjectNotFound, NoBucketError, LenderAwayError):
            raise
        except httpx.HTTPStatusError as error:
            raise LenderAwayError(f"status {error.response.status_code}") from None
        except Exception as error:  # noqa: BLE001 - whatever the server or its client does, the run goes on
            raise LenderAwayError(type(error).__name__) from None

    def name(self, kind: str) -> str:
        """The name of the global concurrency limit."""
        return f"{self._prefix}-{kind}"

    async def read(self, kind: str) -> Bucket | None:
        """See Lender."""
        try:
            async with self._asking() as client:
                found = await client.read_global_concurrency_limit_by_name(self.name(kind))
        except ObjectNotFound:
            return None
        changed_at = found.updated.timestamp() if found.updated else 0.0
        return Bucket(found.limit, found.slot_decay_per_second, found.active_slots, found.active, changed_at)

    async def create(self, kind: str, bucket: Bucket) -> None:
        """See Lender."""
        async with self._asking() as client:
            with contextlib.suppress(ObjectAlreadyExists):
                made = GlobalConcurrencyLimitCreate(name=self.name(kind), **_shape(bucket))
                await client.create_global_concurrency_limit(made)

    async def reshape(self, kind: str, bucket: Bucket) -> None:
        """See Lender."""
        try:
            async with self._asking() as client:
                changed = GlobalConcurrencyLimitUpdate(**_shape(bucket))
                await client.update_global_concurrency_limit(self.name(kind), changed)
        except ObjectNotFound:
            raise LenderAwayError("the limit is gone") from None

    async def take(self, kind: str, slots: int, capacity: int) -> bool:
        """See Lender."""
        name = self.name(kind)
        async with self._asking() as client:
            try:
                answer = await client.increment_concurrency_slots([name], slots, "rate_limit")
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.LOCKED:
                    return False
                if error.response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:  # narrower than it was, or no decay
                    raise NoBucketError from None
                raise
            if (name, capacity) not in {(limit["name"], limit["limit"]) for limit in answer.json()}:
                raise NoBucketError
            return True

    async def close(self) -> None:
        """See Lender."""
        with contextlib.suppress(Exception):
            await self._stack.aclose()


async def _refuse_busy(response: httpx.Response) -> None:
    """Raise what Prefect's client would wait and try again for."""
    if response.is_server_error or response.status_code in {408, 429}:
        raise LenderAwayError(f"status {response.status_code}")


def _shape(bucket: Bucket) -> dict[str, Any]:
    return {
        "limit": bucket.capacity,
        "active_slots": max(bucket.capacity, bucket.taken),
        "slot_decay_per_second": bucket.per_second,
    }


def is_shared_server() -> bool:
    """Whether others know the server too: their runs, and people before its UI."""
    address = PREFECT_API_URL.value()
    return bool(address) and address != os.environ.get(EMBEDDED)


def sharing_of(job: Job) -> Sharing:
    """How a job shares its limits: by the server that others know too, told in the log of this flow or task run."""
    say: LogFn = ALONE.say
    with contextlib.suppress(MissingContextError):
        say = get_run_logger().log
    if job.limits.shared is None or not is_shared_server():
        return Sharing(None, say)
    return Sharing(PrefectLender(job.limits.shared), say)
