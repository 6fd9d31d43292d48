"""Simulated time for whole event loops, and a lender in it that keeps its buckets as Prefect's server does."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from parquill.tasks.limits.lending import LenderAwayError, NoBucketError
from parquill.tasks.limits.shares import Bucket

_T = TypeVar("_T")


class _NoWaiting(selectors.SelectSelector):
    """Instead of waiting for the next timer it moves the clock there."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "every coroutine waits for ever"
        self.now += max(0.0, timeout)
        return []  # there is nothing outside of the simulation that could happen


def simulate(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on a loop whose clock moves only while nothing can be done."""
    selector = _NoWaiting()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(work)
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.wait(pending))
        loop.close()


class SimulatedLender:
    """Global concurrency limits with their decay, floor and refusals, and an answer that takes 13 ms."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.asked = 0
        self.lent: Counter[str] = Counter()  # slots by kind
        self.away = False
        self.ahead_s = 5_000.0  # its clock is not that of the processes
        self._updated: dict[str, float] = {}

    async def _answer(self) -> float:
        self.asked += 1
        await asyncio.sleep(0.0065)
        if self.away:
            raise LenderAwayError("ConnectError")
        return asyncio.get_running_loop().time()

    def _now(self, kind: str, now: float) -> Bucket:
        bucket = self.buckets[kind]
        decayed = math.floor(bucket.per_second * (now - self._updated[kind]))
        return replace(bucket, taken=max(0, bucket.taken - decayed), changed_at=self._updated[kind] + self.ahead_s)

    def put(self, kind: str, bucket: Bucket, now: float) -> None:
        """Change a bucket as a person in the UI does."""
        self.buckets[kind], self._updated[kind] = bucket, now

    async def read(self, kind: str) -> Bucket | None:
        now = await self._answer()
        return self._now(kind, now) if kind in self.buckets else None

    async def create(self, kind: str, bucket: Bucket) -> None:
        now = await self._answer()
        if kind not in self.buckets:
            self.put(kind, replace(bucket, taken=bucket.capacity), now)

    async def reshape(self, kind: str, bucket: Bucket) -> None:
        self.put(kind, replace(bucket, taken=max(bucket.capacity, bucket.taken)), await self._answer())

    async def take(self, kind: str, slots: int, capacity: int) -> bool:
        now = await self._answer()
        if kind not in self.buckets:
            raise NoBucketError
        bucket = self._now(kind, now)
        if slots > bucket.capacity:
            raise NoBucketError
        if bucket.taken + slots > bucket.capacity:
            return False
        self.put(kind, replace(bucket, taken=bucket.taken + slots), now)
        self.lent[kind] += slots
        await asyncio.sleep(0.0065)
        if bucket.capacity != capacity:
            raise NoBucketError
        return True

    async def close(self) -> None:
        pass
