"""A lane: a way to buy completions. Each lane reserves, journals and settles alike; they differ in how they send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from parquill.tasks.llm.outcomes import Rule
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.shard_report import StopReason
from parquill.tasks.llm.unit import Unit


class Lane(Protocol):
    """Completes units of one run. Every method runs on the event loop of the run's sender.

    The outcomes go through a `Settlement` into the journals of the units' shards. A lane may hand a request to the
    service and end before its reply: then it journals a record of the type `submitted` (see `storage.replay`), and
    another call continues.
    """

    progress: Progress
    warnings: list[str]  # about the service, for users who see no log

    async def complete(self, units: AsyncIterator[Unit]) -> None:
        """Complete the steps that have no outcome yet.

        Raises DiskFailed or LedgerFailed; after that nothing more is sent for any shard.
        """

    def stop(self, rule: Rule | None = None, message: str | None = None) -> None:
        """Send nothing more, but let requests under way end. `rule` and `message` are set if the service is why."""

    async def drain(self, grace_s: float) -> None:
        """Stop, and give requests under way `grace_s` seconds; those cut off then are in doubt."""

    @property
    def is_waiting(self) -> bool:
        """Whether requests wait until a failing service answers again."""

    @property
    def stopping(self) -> bool:
        """Whether nothing more is sent."""

    @property
    def stop_reason(self) -> StopReason | None:
        """Why nothing more is sent; None while the lane sends."""
