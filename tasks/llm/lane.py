"""A lane: a way to buy completions. Each lane reserves, journals and settles alike; they differ in how they send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from parquill.tasks.llm.outcomes import Rule
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.shard_report import ShardReport, StopReason
from parquill.tasks.llm.unit import Units


class Lane(Protocol):
    """Completes units of one run. Every method runs on the event loop of the run's sender.

    The outcomes go through a `Settlement` into the journals of the units' shards. A lane may hand a request to the
    service and end before its reply: then it journals a record of the type `submitted` (see `storage.replay`), says so
    in the shard's `waiting`, and another call continues.
    """

    progress: Progress
    warnings: list[str]  # about the service, for users who see no log

    async def complete(self, units: Units) -> None:
        """Complete the steps of a shard that have no outcome yet.

        Raises DiskFailed or LedgerFailed; after that nothing more is sent for any shard.
        """

    def stop(self, rule: Rule | None = None, message: str | None = None) -> None:
        """Send nothing more, but let requests under way end. `rule` and `message` are set if the service is why."""

    async def drain(self, grace_s: float, *, cancels: bool = True) -> set[int]:
        """Stop, and give requests under way `grace_s` seconds; those cut off then are in doubt.

        With `cancels`, also cancel what waits at the service. Returns the shards that have replies to collect.
        """

    async def cancel(self) -> None:
        """Cancel what waits at the service; its replies are still collected. Raises DiskFailed."""

    async def wait(self, reports: Sequence[ShardReport], stay_s: float | None = None) -> set[int] | None:
        """Wait until shards with such reports can continue, and return their numbers; none if no shard ever can.

        Returns None if nothing has changed after `stay_s` seconds.
        """

    @property
    def due_at(self) -> float | None:
        """When to look again at the latest while the lane waits, in seconds since 1970; None for no such time."""

    @property
    def announced(self) -> Mapping[str, tuple[int | None, int | None]]:
        """The requests and the tokens a minute that the service's headers name, by the label of the endpoint."""

    @property
    def waiting_for(self) -> str | None:
        """What the run waits for, for people: a service that fails, or its batches; None if it sends."""

    @property
    def stopping(self) -> bool:
        """Whether nothing more is sent."""

    @property
    def stop_reason(self) -> StopReason | None:
        """Why nothing more is sent; None while the lane sends."""
