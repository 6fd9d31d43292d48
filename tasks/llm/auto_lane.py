"""The lane of `lane: auto` where batches are the cheap lane: batches, and single requests for what would be late.

Nothing is handed to a new batch once the deadline is near. Open batches are cancelled one after another, the one with
the most rows left first: the live lane takes the rows of one while the others go on at half the price. What a cancelled
batch has completed is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from parquill.tasks.limits.limiter import Stopped
from parquill.tasks.llm.batch_lane import BatchLane
from parquill.tasks.llm.channel import Channel
from parquill.tasks.llm.deadline import Deadline
from parquill.tasks.llm.live_lane import LiveLane
from parquill.tasks.llm.outcomes import Rule
from parquill.tasks.llm.route import NEAR, NO_ROOM, OneChannel, Route
from parquill.tasks.llm.shard_report import ShardReport, StopReason
from parquill.tasks.llm.unit import Units

# "The status of a batch will be `cancelling` for up to 10 minutes" (OpenAI's API reference, "Cancel batch").
CANCELLATION_S: Final = 600.0
LOOK_INTERVAL_S: Final = 60.0
MIN_PAUSE_S: Final = 1.0
DUE_PAUSE_S: Final = 10.0


class _WithDeadline(OneChannel):
    """The live channel. The deadline learns from its answers. The money of rows in batches is reserved already."""

    def __init__(self, channel: Channel, deadline: Deadline, lacks_money: Callable[[], None]) -> None:
        super().__init__(channel)
        self._deadline, self._lacks_money = deadline, lacks_money

    def answered(self, channel: Channel, latency_s: float) -> None:  # noqa: ARG002 - there is only one
        """See Route."""
        self._deadline.observe(latency_s, is_live=True)

    def cannot_pay(self, channel: Channel) -> bool:  # noqa: ARG002 - there is only one
        """See Route."""
        self._lacks_money()
        return False


class AutoLane:
    """Completes units of one run by batches, and in time by single requests. Every method runs on its event loop."""

    def __init__(
        self,
        batches: BatchLane,
        open_live: Callable[[Route], LiveLane],
        live: Channel,
        deadline: Deadline,
        now: Callable[[], float],
    ) -> None:
        """`deadline` counts what batches have completed as done. `now` is in seconds since 1970."""
        self._batches, self._deadline, self._now = batches, deadline, now
        self._live = open_live(_WithDeadline(live, deadline, self._lacks_money))
        self.budget, self.progress = batches.budget, batches.progress
        self.warnings = self._live.warnings = batches.warnings
        self._is_due = self._is_short = False
        self._watching: asyncio.Task[None] | None = None
        batches.moves, batches.between_looks = self._moves, self._pause_s

    def _lacks_money(self) -> None:
        if not self._is_short:
            self._is_short = True
            self._batches.warn(NO_ROOM.format(lane="batch"))

    def _moves(self) -> bool:
        """Whether open rows are sent by the live lane, because it is time or because no batch is made any more."""
        # promise: lanes: rows that the budget cannot pay for in the live lane stay in batches
        if self._is_short:
            return False
        # promise: lanes: rows in no batch move to the live lane in time for finish_by
        if not self._is_due and self._deadline.is_due():
            self._is_due = True
            self._batches.warn(NEAR)
        # promise: lanes: rows continue in the live lane if the service makes no batch
        return self._is_due or self._batches.is_refused

    async def complete(self, units: Units) -> None:
        """Collect the batches of a shard that have ended; submit the open rows, or send them one by one."""
        await self._batches.complete(units)
        if self.stopping or not self._moves():
            return
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            await self._live.complete(units)
        finally:
            if self._live.stopping and not self._batches.stopping:
                self._batches.stop()
        if self._is_short and not self.stopping:
            await self._batches.complete(units)
        if self._watching.done():
            self._watching.result()

    async def _watch(self) -> None:
        """Look at the batches while the live lane sends, so that the next one is cancelled in time."""
        with contextlib.suppress(Stopped):
            while not self.stopping and self._batches.open.are_left:
                await self._batches.look()
                await self._cancel_in_time()
                await self._batches.rest(LOOK_INTERVAL_S)

    async def _cancel_in_time(self) -> None:
        """Cancel the batch with the most rows left, once the live lane would have too little time for them."""
        if not self._moves() or not self._deadline.is_due():
            return
        # what the live lane has to do until the rows of another batch come
        open_batches = self._batches.open
        backlog = max(0, self.progress.left - open_batches.rows_done - open_batches.rows_left)
        backlog_s = self._deadline.live_time_s(backlog)
        if backlog_s <= self._deadline.live_time_s(0) + CANCELLATION_S:
            # promise: lanes: batches that would be late are cancelled in time
            await open_batches.cancel_largest()

    async def _pause_s(self, pause_s: float) -> float:
        """Cancel what would be late; return how long to wait until the next look."""
        await self._cancel_in_time()
        if self._is_short:
            return pause_s
        return DUE_PAUSE_S if self._is_due else min(pause_s, max(MIN_PAUSE_S, self._deadline.slack_s()))

    async def wait(self, reports: Sequence[ShardReport], stay_s: float | None = None) -> set[int] | None:
        """See Lane."""
        return await self._batches.wait(reports, stay_s)

    @property
    def due_at(self) -> float | None:
        """See Lane."""
        return self._now() + (LOOK_INTERVAL_S if self._is_due else max(0.0, self._deadline.slack_s()))

    async def cancel(self) -> None:
        """See Lane."""
        await self._batches.cancel()

    @property
    def announced(self) -> Mapping[str, tuple[int | None, int | None]]:
        """See Lane."""
        return self._live.announced

    @property
    def waiting_for(self) -> str | None:
        """See Lane."""
        return self._live.waiting_for or self._batches.waiting_for

    @property
    def stopping(self) -> bool:
        """See Lane."""
        return self._batches.stopping or self._live.stopping

    @property
    def stop_reason(self) -> StopReason | None:
        """See Lane."""
        return self._live.stop_reason or self._batches.stop_reason

    def stop(self, rule: Rule | None = None, message: str | None = None) -> None:
        """See Lane."""
        self._live.stop(rule, message)
        self._batches.stop(rule, message)

    async def drain(self, grace_s: float, *, cancels: bool = True) -> set[int]:
        """See Lane."""
        self.stop()
        _, ended = await asyncio.gather(self._live.drain(grace_s), self._batches.drain(grace_s, cancels=cancels))
        return ended
