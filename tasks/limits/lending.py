"""Who keeps the buckets that processes lease from (see `shares`): Prefect's server, or a simulated one."""

from __future__ import annotations

from typing import Protocol

from parquill.tasks.limits.shares import Bucket


class LenderAwayError(Exception):
    """The lender does not answer; its text is the kind of the fault."""


class NoBucketError(Exception):
    """The bucket is not there, or not any more, or of another shape."""


class Lender(Protocol):
    """Keeps a bucket for each kind (`requests`, `tokens`). Every method raises LenderAwayError."""

    async def read(self, kind: str) -> Bucket | None:
        """Give a bucket as it is now, None if there is none."""

    async def create(self, kind: str, bucket: Bucket) -> None:
        """Make a bucket, full at first; one that somebody else made meanwhile stays."""

    async def reshape(self, kind: str, bucket: Bucket) -> None:
        """Give a bucket another shape and count it as full (or fuller, if more is `taken`), in one step."""

    async def take(self, kind: str, slots: int, capacity: int) -> bool:
        """Take slots of the bucket of that capacity, False if they do not fit now. Raises NoBucketError.

        What is taken of a bucket of another shape is nobody's: its leases live for another time.
        """

    async def close(self) -> None:
        """Let go of what it holds open."""
