"""Which channel sends a request: the only one, or the cheapest that is fast enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from parquill.tasks.llm.channel import Channel
from parquill.tasks.llm.deadline import Deadline
from parquill.tasks.llm.spare_money import SpareMoney

# How long no row is offered to the live lane after the budget had no room for one there.
SHORT_OF_MONEY_S: Final = 60.0
NEAR: Final = "finish_by is near: rows that are left are sent in the live lane, at the standard price"
NO_ROOM: Final = (
    "the budget has no room for the price of the live lane: the rows that are left stay in the {lane} lane, and may "
    "not be done by finish_by"
)


class Route(Protocol):
    """Chooses the channel of each request. `channels` are all there are; `warn` gets lines for people."""

    channels: Sequence[Channel]
    warn: Callable[[str], None]

    def choose(self) -> Channel:
        """Return the channel for a request that may leave now."""

    def watch(self, channel: Channel) -> Callable[[], bool] | None:
        """Return what tells whether a request that waits in a channel is to leave it; None if that never happens."""

    def answered(self, channel: Channel, latency_s: float) -> None:
        """Learn from an answer."""

    def affords(self, channel: Channel, amount_nano: int) -> bool:
        """Whether so much may be reserved for a row in a channel, if the budget has room for it."""

    def cannot_pay(self, channel: Channel) -> bool:
        """Take note that the budget has no room for a row in a channel. Returns whether to try another channel."""

    def give_up(self, channel: Channel) -> bool:
        """Use a channel no more, since the service takes nothing there. Returns whether another one is left."""


class OneChannel:
    """Every request takes the same channel."""

    def __init__(self, channel: Channel) -> None:
        self.channels: Sequence[Channel] = (channel,)
        self.warn: Callable[[str], None] = lambda _: None
        self._channel = channel

    def choose(self) -> Channel:
        """See Route."""
        return self._channel

    def watch(self, channel: Channel) -> None:
        """See Route."""

    def answered(self, channel: Channel, latency_s: float) -> None:
        """See Route."""

    def affords(self, channel: Channel, amount_nano: int) -> bool:  # noqa: ARG002 - there is only one
        """See Route."""
        return True

    def cannot_pay(self, channel: Channel) -> bool:  # noqa: ARG002 - there is only one
        """See Route."""
        return False

    def give_up(self, channel: Channel) -> bool:  # noqa: ARG002 - there is only one
        """See Route."""
        return False


class InTime:
    """Takes the cheap channel as long as the live one can still complete what is left by the deadline."""

    def __init__(
        self, cheap: Channel, live: Channel, deadline: Deadline, spare: SpareMoney, clock: Callable[[], float]
    ) -> None:
        self.channels: Sequence[Channel] = (cheap, live)
        self._cheap, self._live, self._deadline, self._spare, self._clock = cheap, live, deadline, spare, clock
        self.warn: Callable[[str], None] = lambda _: None
        self._has_cheap = True
        self._has_moved = self._is_short = False
        self._short_until = -math.inf

    def choose(self) -> Channel:
        """See Route."""
        if not self._has_cheap:
            return self._live
        if self._clock() < self._short_until:
            return self._cheap
        # promise: lanes: rows move to the live lane in time for finish_by
        if not self._deadline.is_due():
            return self._cheap
        if not self._has_moved:
            self._has_moved = True
            self.warn(NEAR)
        return self._live

    def watch(self, channel: Channel) -> Callable[[], bool]:
        """See Route."""
        return lambda: self.choose() is not channel

    def answered(self, channel: Channel, latency_s: float) -> None:
        """See Route."""
        self._deadline.observe(latency_s, is_live=channel is self._live)

    def affords(self, channel: Channel, amount_nano: int) -> bool:
        """See Route."""
        # promise: lanes: rows move from flex only with money that the others do not need there
        return channel is self._cheap or not self._has_cheap or self._spare.covers(amount_nano)

    def cannot_pay(self, channel: Channel) -> bool:
        """See Route."""
        if channel is not self._live or not self._has_cheap:
            return False
        self._short_until = self._clock() + SHORT_OF_MONEY_S
        if not self._is_short:
            self._is_short = True
            self.warn(NO_ROOM.format(lane=self._cheap.lane))
        return True

    def give_up(self, channel: Channel) -> bool:
        """See Route."""
        if channel is not self._cheap:
            return False
        self._has_cheap = False
        return True
