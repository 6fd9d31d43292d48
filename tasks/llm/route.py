"""Which channel sends a request: the only one, or the cheapest that is fast enough. For endpoints see `by_weight`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple, Protocol

from parquill.tasks.llm.channel import Channel
from parquill.tasks.llm.deadline import Deadline
from parquill.tasks.llm.outcomes import Retry, Rule
from parquill.tasks.llm.spare_money import SpareMoney

# How long no row is offered to the live lane after the budget had no room for one there.
SHORT_OF_MONEY_S: Final = 60.0
NEAR: Final = "finish_by is near: rows that are left are sent in the live lane, at the standard price"
NO_ROOM: Final = (
    "the budget has no room for the price of the live lane: the rows that are left stay in the {lane} lane, and may "
    "not be done by finish_by"
)


class Way(NamedTuple):
    """The channel of a request. While the request waits there, `is_rerouted` says whether it is to choose again."""

    channel: Channel
    is_rerouted: Callable[[], bool] | None = None


class Route(Protocol):
    """Chooses the channel of each request. `channels` are all there are; `warn` gets lines for people."""

    channels: Sequence[Channel]
    warn: Callable[[str], None]

    def choose(self, tokens: int, failed: Channel | None = None, refused: Collection[Channel] = ()) -> Way:
        """Return the way of a request that may leave now. It has just failed at `failed`; `refused` have refused it."""

    def has_another(self, refused: Collection[Channel]) -> bool:
        """Whether another channel may take a request that these have refused."""

    def answered(self, channel: Channel, latency_s: float) -> None:
        """Learn from an answer."""

    def affords(self, channel: Channel, amount_nano: int) -> bool:
        """Whether so much may be reserved for a row in a channel, if the budget has room for it."""

    def cannot_pay(self, channel: Channel) -> bool:
        """Take note that the budget has no room for a row in a channel. Returns whether to try another channel."""

    def give_up(self, channel: Channel, rule: Rule, message: str) -> bool:
        """Use a channel no more, since the service takes nothing there. Returns whether another one is left."""

    @property
    def is_down(self) -> bool:
        """Whether a request that leaves now fails, as far as is known."""


class OneChannel:
    """Every request takes the same channel."""

    def __init__(self, channel: Channel) -> None:
        self.channels: Sequence[Channel] = (channel,)
        self.warn: Callable[[str], None] = lambda _: None
        self._way = Way(channel)

    def choose(self, tokens: int, failed: Channel | None = None, refused: Collection[Channel] = ()) -> Way:  # noqa: ARG002 - there is only one
        """See Route."""
        return self._way

    def has_another(self, refused: Collection[Channel]) -> bool:  # noqa: ARG002 - there is only one
        """See Route."""
        return False

    def answered(self, channel: Channel, latency_s: float) -> None:
        """See Route."""

    def affords(self, channel: Channel, amount_nano: int) -> bool:  # noqa: ARG002 - there is only one
        """See Route."""
        return True

    def cannot_pay(self, channel: Channel) -> bool:  # noqa: ARG002 - there is only one
        """See Route."""
        return False

    def give_up(self, channel: Channel, rule: Rule, message: str) -> bool:  # noqa: ARG002 - there is only one
        """See Route."""
        return False

    @property
    def is_down(self) -> bool:
        """See Route."""
        return self._way.channel.breaker.is_open


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

    def choose(self, tokens: int, failed: Channel | None = None, refused: Collection[Channel] = ()) -> Way:  # noqa: ARG002 - time decides
        """See Route."""
        channel = self._choose()
        return Way(channel, lambda: self._choose() is not channel)

    def has_another(self, refused: Collection[Channel]) -> bool:  # noqa: ARG002 - both are of one service
        """See Route."""
        return False

    def _choose(self) -> Channel:
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

    def give_up(self, channel: Channel, rule: Rule, message: str) -> bool:
        """See Route."""
        # what is wrong with the key or the account is wrong in every lane
        # promise: lanes: a lane that the service refuses is left, if another one can complete the rows
        if channel is not self._cheap or rule.retry is Retry.STOP:
            return False
        self._has_cheap = False
        self.warn(f"the {channel.lane} lane is not used any more: {message}")
        channel.close()
        return True

    @property
    def is_down(self) -> bool:
        """See Route."""
        return self._choose().breaker.is_open
