"""Which of several endpoints gets a request: by weight among those that can take it soonest.

Each endpoint that is up earns credit in proportion to its weight, and each request costs the endpoint that gets it one
credit. Of those that can take the request soonest, the one with the most credit gets it. So the shares follow the
weights, also if an endpoint had no room for a while, and no limit of one endpoint leaves another one idle.

All endpoints share the places of requests under way. One that is slow, or hangs, gets no more than its share of them as
long as another one has room.

An endpoint is down

- while its breaker is open: it fails at every request, or does not answer at all. The breaker decides when one request
  at a time may try it again.
- if it takes nothing more: its key is refused, its quota is used up, or it refuses every request for the same reason.
  Then it rests, and one request tries it again after FIRST_REST_S, and then at intervals that double.

A request that failed at one endpoint is sent to another one, if that is up. One that an endpoint refused goes to each
other endpoint before its row fails. The run stops if no endpoint is left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from parquill.tasks.limits.meters import MIN_WAIT_S
from parquill.tasks.llm.channel import Channel
from parquill.tasks.llm.outcomes import Rule
from parquill.tasks.llm.route import SHORT_OF_MONEY_S, Way

FIRST_REST_S: Final = 60.0
MAX_REST_S: Final = 900.0
MAX_CATCH_UP: Final = 100  # requests that an endpoint may get in a row, since it had no room before
_MAX_CREDIT: Final = MAX_CATCH_UP / 2


@dataclass(slots=True)
class _Endpoint:
    """An endpoint and how it stands; times are seconds of the clock."""

    channel: Channel
    share: float
    places: int  # its share of the requests under way
    credit: float = 0.0
    is_resting: bool = False
    rests_since: float = -math.inf
    next_try_at: float = -math.inf
    rest_s: float = FIRST_REST_S
    too_expensive_until: float = -math.inf

    @property
    def has_its_places(self) -> bool:
        # promise: endpoints: an endpoint that is slow or hangs leaves the others their places
        return self.channel.breaker.under_way >= self.places

    @property
    def is_up(self) -> bool:
        return not self.is_resting and not self.channel.breaker.is_open


class ByWeight:
    """The route of a job with several endpoints; each channel is one endpoint in the lane of the job."""

    def __init__(
        self, channels: Sequence[Channel], weights: Sequence[float], at_once: int, clock: Callable[[], float]
    ) -> None:
        """`at_once` is how many requests may be under way at all endpoints together."""
        self.channels = channels
        self.warn: Callable[[str], None] = lambda _: None
        self._clock = clock
        shares = [weight / sum(weights) for weight in weights]
        self._endpoints = [
            _Endpoint(channel, share, max(1, math.ceil(share * at_once)))
            for channel, share in zip(channels, shares, strict=True)
        ]
        self._of = {id(each.channel): each for each in self._endpoints}

    def choose(self, tokens: int, failed: Channel | None = None, refused: Collection[Channel] = ()) -> Way:
        """See Route."""
        now = self._clock()
        for each in self._endpoints:
            if each.channel is not failed and each.channel not in refused and self._may_try(each, now, tokens):
                return Way(each.channel, functools.partial(self._gives_way, each, tokens))
        candidates = self._candidates(failed, refused)
        chosen = self._by_credit(candidates, tokens) if candidates else self._least_bad()
        return Way(chosen.channel, lambda: self._leaves(chosen, tokens, failed, refused))

    def has_another(self, refused: Collection[Channel]) -> bool:
        """See Route."""
        return any(each.is_up and each.channel not in refused for each in self._endpoints)

    def _candidates(self, failed: Channel | None, refused: Collection[Channel]) -> list[_Endpoint]:
        """Return the endpoints that may get a request which has failed elsewhere; none if all are down."""
        up = [each for each in self._endpoints if each.is_up]
        able = [each for each in up if each.channel not in refused] or up
        # promise: endpoints: a request that failed at one endpoint is sent to another one
        others = [each for each in able if each.channel is not failed] or able
        now = self._clock()
        return [each for each in others if each.too_expensive_until <= now] or others

    def _may_try(self, each: _Endpoint, now: float, tokens: int) -> bool:
        """Whether a request may find out if an endpoint that is down is up again."""
        if each.is_resting:
            # promise: endpoints: an endpoint that took nothing more is tried again after a while
            if now < each.next_try_at:
                return False
            each.rest_s = min(MAX_REST_S, 2 * each.rest_s)
            each.next_try_at = now + each.rest_s
            return True
        # promise: endpoints: an endpoint that fails at every request is tried again by single requests
        return (
            each.channel.breaker.is_open
            and not self._is_tried(each, now, tokens)
            and each.channel.limits.wait_s(tokens) <= 0
        )

    @staticmethod
    def _is_tried(each: _Endpoint, now: float, tokens: int) -> bool:
        """Whether another request tries an endpoint that is down, or it is too early for the next one."""
        breaker = each.channel.breaker
        return breaker.is_full(now) or breaker.wait_s(now, tokens) > 0

    def _gives_way(self, each: _Endpoint, tokens: int) -> bool:
        """Whether a request that was to try an endpoint that is down is better off elsewhere."""
        # promise: endpoints: only one request waits for an endpoint that is down
        return self._is_tried(each, self._clock(), tokens) and any(
            other.is_up for other in self._endpoints if other is not each
        )

    def _by_credit(self, candidates: Sequence[_Endpoint], tokens: int) -> _Endpoint:
        for each in self._endpoints:
            if each.is_up:
                each.credit = min(_MAX_CREDIT, each.credit + each.share)
        waits = [self._wait_s(each, tokens) for each in candidates]
        # promise: endpoints: the limit of one endpoint does not hold back requests that another one can take
        soonest = [each for each, wait_s in zip(candidates, waits, strict=True) if wait_s <= min(waits)]
        # promise: endpoints: requests are shared by weight
        chosen = max(soonest, key=lambda each: each.credit)
        chosen.credit = max(-_MAX_CREDIT, chosen.credit - 1)
        return chosen

    def _wait_s(self, each: _Endpoint, tokens: int) -> float:
        wait_s = each.channel.limits.wait_s(tokens)
        return max(wait_s, MIN_WAIT_S) if each.has_its_places else wait_s

    def _least_bad(self) -> _Endpoint:
        """Return the endpoint to wait for while all are down: one that fails, else one that rests."""
        return min(self._endpoints, key=lambda each: (each.is_resting, each.next_try_at))

    def _leaves(self, chosen: _Endpoint, tokens: int, failed: Channel | None, refused: Collection[Channel]) -> bool:
        """Whether a request that waits for `chosen` is to choose again. Then it has cost that endpoint nothing."""
        if not self._is_better_elsewhere(chosen, tokens, self._candidates(failed, refused)):
            return False
        chosen.credit += 1
        return True

    def _is_better_elsewhere(self, chosen: _Endpoint, tokens: int, candidates: Sequence[_Endpoint]) -> bool:
        # only those that it may choose: else it would leave and come back without end
        others = [each for each in candidates if each is not chosen]
        if not others:
            return False
        if not chosen.is_up:
            # promise: endpoints: requests that wait for an endpoint leave it once it is down
            return True
        if chosen.channel.limits.head_wait_s <= 0 and not chosen.has_its_places:
            return False
        return any(self._wait_s(each, tokens) <= 0 for each in others)

    def answered(self, channel: Channel, latency_s: float) -> None:
        """See Route."""
        each = self._of[id(channel)]
        # an answer to a request from before the rest says nothing of what came after
        if each.is_resting and self._clock() - latency_s >= each.rests_since:
            each.is_resting, each.rest_s = False, FIRST_REST_S
            self.warn(f"the endpoint {channel.label} answers again")

    def affords(self, channel: Channel, amount_nano: int) -> bool:  # noqa: ARG002 - the budget decides
        """See Route."""
        return True

    def cannot_pay(self, channel: Channel) -> bool:
        """See Route."""
        now = self._clock()
        self._of[id(channel)].too_expensive_until = now + SHORT_OF_MONEY_S
        # promise: endpoints: rows that the budget cannot pay for at one endpoint go to a cheaper one
        return any(each.is_up and each.too_expensive_until <= now for each in self._endpoints)

    def give_up(self, channel: Channel, rule: Rule, message: str) -> bool:  # noqa: ARG002 - whatever the rule is
        """See Route."""
        each = self._of[id(channel)]
        if not each.is_resting:
            each.is_resting, each.rests_since = True, self._clock()
            each.next_try_at, each.rest_s = each.rests_since + FIRST_REST_S, FIRST_REST_S
            # promise: endpoints: the run stops if no endpoint takes anything more
            if all(other.is_resting for other in self._endpoints):
                return False
            self.warn(
                f"the endpoint {channel.label} gets no requests for now, the other endpoints take over: {message}. It "
                f"is tried again after {FIRST_REST_S:.0f} s, and then at longer intervals"
            )
        channel.release_waiting()
        return True

    @property
    def is_down(self) -> bool:
        """See Route."""
        return not any(each.is_up for each in self._endpoints)
