"""When rows must move to the live lane, so that a run with `lane: auto` is done by its `finish_by`.

The run stays in the cheap lane until the time that is left is the time that the live lane needs for what is left:

    slack = time left - SAFETY * live time - tail

The live time follows from the limits of the job and of the service, and from `max_at_once` and the latency of answers
(see `money.duration`). Nothing is decided for good: once the live lane has won enough time, rows return to the cheap
lane. So few rows pay the standard price. They do not return for a moment of slack, since a request that finds no
capacity in the cheap lane uses up the limits that both lanes share.

A request of the cheap lane is not cut off, since it may be billed. So none is sent later than its own usual time before
the deadline: for flex the longest of the latest answers, for a batch the time that its cancellation may take. Meanwhile
it holds one of the `max_at_once` places. So far as the live lane needs all places, that time is lost to it too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.money.duration import least_duration
from parquill.tasks.records import Estimate

SAFETY: Final = 1.15
# Of a request, before any answer: services answer in a second or in ten.
ASSUMED_LATENCY_S: Final = 10.0
TAIL_LATENCIES: Final = 4
MIN_TAIL_S: Final = 60.0  # limits count by the minute
RETURN_FRACTION: Final = 0.1  # of the live time: slack from which rows return to the cheap lane
CHEAP_TAIL: Final = 1.2  # times the longest of the latest answers
LATEST_ANSWERS: Final = 500
WINDOW_FRACTION: Final = 0.25
LOOK_INTERVAL_S: Final = 0.25
_WEIGHT: Final = 0.05  # of a new latency in the mean


class Deadline:
    """The deadline of one run. Lives on the event loop of its lane."""

    def __init__(
        self,
        finish_at: float,
        job: ResolvedJob,
        estimate: Estimate,
        left: Callable[[], int],
        announced: Callable[[], tuple[int | None, int | None]],
        now: Callable[[], float],
        *,
        cheap_timeout_s: float = 0.0,
        cheap_tail_s: float | None = None,
    ) -> None:
        """`finish_at` and `now` are in seconds since 1970. `job` is that of the live lane.

        `left` returns the rows that are not completed. `announced` returns the requests and the tokens per minute that
        the service itself has named. `cheap_tail_s` is how long before the deadline the cheap lane must end, by
        default as its answers show: at first `cheap_timeout_s`, the most that one of its requests may take.
        """
        self._finish_at, self._job, self._estimate = finish_at, job, estimate
        self._left, self._announced, self._now = left, announced, now
        self._live_s = self._cheap_s = estimate.latency_s
        self._is_live_known = False
        self._longest: deque[float] = deque(maxlen=LATEST_ANSWERS)
        self._fixed_tail_s = cheap_tail_s
        # a short window must still have room for the cheap lane
        self._first_tail_s = min(cheap_timeout_s, WINDOW_FRACTION * max(0.0, finish_at - now()))
        self._looked_at, self._needed_s, self._slack_s, self._is_due = float("-inf"), 0.0, 0.0, False

    def observe(self, latency_s: float, *, is_live: bool) -> None:
        """Learn from an answer."""
        if not is_live:
            self._longest.append(latency_s)
            self._cheap_s = _mean(self._cheap_s, latency_s)
            return
        self._live_s = _mean(self._live_s if self._is_live_known else None, latency_s)
        self._is_live_known = True

    def is_due(self) -> bool:
        """Whether a request that leaves now must take the live lane."""
        slack_s = self.slack_s()
        # promise: lanes: rows do not return to the cheap lane for a moment of slack
        least_s = RETURN_FRACTION * self._needed_s if self._is_due else 0.0
        self._is_due = slack_s <= least_s
        return self._is_due

    def slack_s(self) -> float:
        """Return for how many seconds rows may stay in the cheap lane, if none of them is completed meanwhile."""
        now = self._now()
        if not 0 <= now - self._looked_at < LOOK_INTERVAL_S:
            self._looked_at = now
            rows = self._left()
            # promise: lanes: the live lane is given the time in which flex requests still hold their places
            held_s = self._places_share(rows) * self._held_s
            self._needed_s = max(self.live_time_s(rows) + held_s, self._cheap_tail_s + self._tail_s)
            self._slack_s = self._finish_at - now - self._needed_s
        return self._slack_s

    def live_time_s(self, rows: int) -> float:
        """Return how long before the deadline so many rows must begin to move to the live lane, in seconds."""
        return SAFETY * self._least_s(rows) + (self._fixed_tail_s or 0.0) + self._tail_s

    def _least_s(self, rows: int) -> float:
        requests, tokens = self._announced()
        limits = self._job.limits
        given = {
            "requests_per_minute": _least(limits.requests_per_minute, requests),
            "tokens_per_minute": _least(limits.tokens_per_minute, tokens),
        }
        job = self._job.model_copy(update={"limits": limits.model_copy(update=given)})
        found = least_duration(job, replace(self._estimate, lane="live", latency_s=self._latency_s), rows)
        return 0.0 if found is None else found.seconds

    def _places_share(self, rows: int) -> float:
        """Return the share of the places that the live lane keeps busy while it completes so many rows, from 0 to 1."""
        least_s = self._least_s(rows)
        at_once = self._job.limits.max_at_once
        return min(1.0, rows * self._latency_s / at_once / least_s) if least_s else 0.0

    @property
    def _held_s(self) -> float:
        """How long requests of the cheap lane may hold their places once rows move; batches hold none."""
        return 0.0 if self._fixed_tail_s is not None else self._cheap_tail_s

    @property
    def _latency_s(self) -> float:
        # the live lane is no slower than the cheap one
        return self._live_s or self._cheap_s or ASSUMED_LATENCY_S

    @property
    def _tail_s(self) -> float:
        return max(MIN_TAIL_S, TAIL_LATENCIES * self._latency_s)

    @property
    def _cheap_tail_s(self) -> float:
        if self._fixed_tail_s is not None:
            return self._fixed_tail_s
        return CHEAP_TAIL * max(self._longest) if self._longest else self._first_tail_s


def _mean(before: float | None, value: float) -> float:
    return value if before is None else before + _WEIGHT * (value - before)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
