"""How the work on shards ended: the report of each task, and the result that the flow derives from all reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from parquill.tasks.errors import Interrupted
from parquill.tasks.records import ShardRef, Totals


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why nothing more is sent. `rule` is a code of the table of outcomes; None if the stop was requested."""

    rule: str | None = None
    message: str | None = None


class Waiting(NamedTuple):
    """What open rows of a shard wait for: the end of a batch; with None, for the money or the quota of any batch."""

    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class ShardReport:
    """How the work on one shard ended: all that the flow knows, since the task may have run in another process.

    `totals` are of all starts of the run. `over_budget` counts the rows whose worst case did not fit the budget.
    `stop` says why this process sends nothing more; None if it still sends. If the rows that are left wait for
    something, `waiting` says for what: then the shard is to be completed again.
    """

    number: int
    is_done: bool
    totals: Totals
    over_budget: int = 0
    stop: StopReason | None = None
    waiting: tuple[Waiting, ...] = ()


@dataclass(frozen=True, slots=True)
class SendResult:
    """How sending ended for the whole run.

    If the service stopped the run, `rule` is the code of the outcome and `message` says why.
    """

    over_budget: int = 0
    rule: str | None = None
    message: str | None = None

    @classmethod
    def of(
        cls, shards: Sequence[ShardRef], reports: Sequence[ShardReport], stop: StopReason | None = None
    ) -> SendResult:
        """Combine the reports of these shards. Raises Interrupted if a stop was requested and rows are left.

        `stop` says why shards that wait are not completed.
        """
        # for a finished shard it does not matter why its process sends nothing more
        # promise: C10 a finished shard does not count as an interruption
        left_open = [report for report in reports if not report.is_done]
        stops = [each for report in left_open if (each := report.stop or (stop if report.waiting else None))]
        by_service = next((stop for stop in stops if stop.rule is not None), None)
        # promise: C10 the end of a run adds up the reports of all shards
        over_budget = sum(report.over_budget for report in reports)
        if by_service is not None:
            return cls(over_budget, by_service.rule, by_service.message)
        if stops:
            ended = sum(sum(report.totals.statuses.values()) for report in reports)
            left = sum(shard.to_send for shard in shards) - ended
            raise Interrupted(f"interrupted with {left:,} rows left; run again to resume")
        return cls(over_budget)

    @property
    def is_stop(self) -> bool:
        """Whether rows are left for another start."""
        return bool(self.over_budget) or self.rule is not None
