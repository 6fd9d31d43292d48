"""Tells failures of single rows from failures that hit every row, and slows or stops the run for the latter.

A circuit breaker with three causes. Each counts consecutive failures, without an answer in between:

- **Outage.** The first requests of OUTAGE_ROWS rows fail (5xx, time-outs, connections). The failures cost no row an
  attempt. One request at a time leaves as a probe, at growing intervals. The first answer ends the outage, and requests
  are let through in growing numbers. After `patience_s` without an answer the run stops and can be resumed.
- **Refusals.** MAX_REFUSALS requests are refused for the same reason (a parameter, the model, the key's rights). Then
  a few rows from farther on are probed, since a block of rows may be at fault. If these are refused too, the run stops.
  The refused rows have no outcome until an answer shows that only these rows were at fault.
- **Unreadable replies.** Several replies cannot be read or hold no answer yet. Each may be billed, so the run stops.

Until the first answer only FIRST_AT_ONCE requests are under way, so that a failure of every row hits few of them.
There are more only while the service sends no reply at all.
Two kinds of failures are no evidence: a row that is tried again (a start that only retries failed rows must end), and a
request that left before one that was answered (the slow rows at the end of a run must end too).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from parquill.tasks.llm.outcomes import Retry, Rule

OUTAGE_ROWS = 12
MAX_REFUSALS = 20
MAX_REFUSAL_PROBES = 10
REFUSAL_PROBES_AT_ONCE = 2
MAX_FIRST_UNREADABLE, MAX_UNREADABLE = 10, 20  # before and after the first answer
FIRST_AT_ONCE = 10
FIRST_GROWTH_INTERVAL_S = 1.0
FIRST_PROBE_INTERVAL_S, MAX_PROBE_INTERVAL_S = 1.0, 15.0
MAX_STREAK = 1_000  # failures that are remembered, and taken back if they turn out to be an outage
# Refusals of the key or the address: without any answer so far, fewer than MAX_REFUSALS are enough to stop.
_OF_ALL_ROWS = frozenset({"forbidden", "not_found"})


class Attempted(Protocol):
    """A row that was charged an attempt for a failed request."""

    @property
    def is_first_try(self) -> bool:
        """Whether this was the row's first request ever. Only then is a failure evidence: a bad row fails each time."""

    def uncharge(self) -> None:
        """Give one attempt back, since the row was not at fault."""


class _Failure(NamedTuple):
    """One failed request of a streak."""

    sent_at: float
    row: Attempted
    is_evidence: bool


@dataclass(slots=True)
class _Pending:
    """A row that waits for the verdict whether it is at fault itself."""

    retry: Retry
    sent_at: float
    verdict: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Breaker:
    """The breaker of one run in one process, and the brake of its limits (see `limits.meters`). Lives on one loop."""

    def __init__(
        self,
        max_at_once: int,
        *,
        patience_s: float,
        clock: Callable[[], float],
        warn: Callable[[str], None] = lambda _: None,
        stop: Callable[[Rule, str], None] = lambda _rule, _message: None,
        service: str = "the service",
    ) -> None:
        """`warn` gets one line when an outage begins or ends; `stop` stops the run with a rule and the reason.

        `service` is what people call what it is about: the service, or one of several endpoints.
        """
        self._service = service
        self._max, self._patience_s, self._clock = max_at_once, patience_s, clock
        self.warn, self.stop_run = warn, stop
        self.under_way = self._waiting = 0
        self._has_answered = False
        self._last_answered = -math.inf  # when the latest answered request left
        self._quiet_since: float | None = None  # when the last reply came, or the first request left
        self._allowed = max_at_once
        self._pending: list[_Pending] = []
        self._streak: deque[_Failure] = deque(maxlen=MAX_STREAK)
        self._failing_since: float | None = None
        self.is_open = False
        self._opened_at = self._probe_at = 0.0
        self._interval_s = FIRST_PROBE_INTERVAL_S
        self._signature: object = None
        self._refusals: deque[float] = deque(maxlen=MAX_STREAK)  # when each request of a streak left
        self._probes = 0
        self.is_probing = False
        self._probing_since = 0.0
        self._last_refusal: tuple[Rule, str] | None = None
        self._unreadable = 0
        self._is_stopped = False

    # ---- a meter

    def wait_s(self, now: float, tokens: int) -> float:  # noqa: ARG002 - a meter like the others
        """Seconds until the next probe of an outage, 0 without one."""
        # promise: outage: the run waits between two probes
        return max(0.0, self._probe_at - now) if self.is_open else 0.0

    def take(self, now: float, tokens: int) -> None:  # noqa: ARG002 - a meter like the others
        """A request leaves."""
        self._quiet_since = now if self._quiet_since is None else self._quiet_since
        self.under_way += 1

    def leave(self) -> None:
        """A request has ended; its result was reported before."""
        self.under_way -= 1
        self._judge_if_idle()

    def is_full(self, now: float) -> bool:
        """Whether no further request may leave until one that is under way has ended."""
        return self.under_way >= self._most(now)

    @property
    def growth_interval_s(self) -> float | None:
        """Seconds after which `is_full` may change without the end of a request; None if it cannot."""
        return None if self._has_answered or self.is_open or self.is_probing else FIRST_GROWTH_INTERVAL_S

    def _most(self, now: float) -> int:
        # promise: outage: only one probe at a time is sent
        if self.is_open:
            return 1
        if self.is_probing:
            return REFUSAL_PROBES_AT_ONCE
        if self._has_answered:
            return self._allowed
        # a service with a slow first answer is no reason to wait
        quiet_s = 0.0 if self._quiet_since is None else now - self._quiet_since
        # promise: A5 only a few requests are sent before the first answer
        return int(min(self._max, FIRST_AT_ONCE * 2 ** min(20, quiet_s // FIRST_GROWTH_INTERVAL_S)))

    def arrive(self) -> None:
        """A row is being read, or a request waits for its permit; either may bring evidence."""
        self._waiting += 1

    def depart(self) -> None:
        """The row is read, or the request has its permit or gave up waiting."""
        self._waiting -= 1
        self._judge_if_idle()

    # ---- what requests meet

    def answered(self, sent_at: float) -> None:
        """The service answered a request that left at `sent_at`, so earlier failures are their rows' own."""
        self._has_answered = True
        self._last_answered = max(self._last_answered, sent_at)
        self._unreadable = 0
        if self._allowed < self._max:
            self._allowed = min(self._max, self._allowed * 2)
        if self._failing_since is not None:
            self._end_outage(sent_at)
        while self._refusals and self._refusals[0] <= sent_at:
            self._refusals.popleft()
        if self.is_probing and sent_at >= self._probing_since:
            self._refusals.clear()
            self.is_probing = False
        self._judge(own=True, until=sent_at)

    def failed(self, row: Attempted, rule: Rule, message: str, sent_at: float) -> bool:
        """A request failed by an OUTAGE rule. Returns True if it is part of an outage and not charged to the row."""
        now = self._clock()
        self._quiet_since = now
        self._failing_since = now if self._failing_since is None else self._failing_since
        if not self.is_open:
            # if a request that left later was answered, this one was slow or bad by itself
            # promise: outage: a row that failed earlier is no evidence of an outage
            is_evidence = row.is_first_try and sent_at > self._last_answered
            self._streak.append(_Failure(sent_at, row, is_evidence))
            if sum(failure.is_evidence for failure in self._streak) < OUTAGE_ROWS:
                return False
            self._begin_outage(now, message)
            return True
        # promise: outage: a failure during an outage uses up no attempt
        row.uncharge()
        # requests that left together fail together: one interval for all of them
        if now >= self._probe_at:
            self._interval_s = min(MAX_PROBE_INTERVAL_S, 2 * self._interval_s)
            self._probe_at = now + self._interval_s
        if now - self._failing_since > self._patience_s:
            minutes = (now - self._failing_since) / 60
            self.stop_run(rule, f"every request to {self._service} has failed for {minutes:,.0f} minutes: {message}")
        return True

    def refused(self, row: Attempted, rule: Rule, signature: object, message: str, sent_at: float) -> None:
        # promise: refusals: a refusal counts as a reply and stops the ramp-up of first requests
        """A request was refused by a REFUSAL rule. `signature` is equal for refusals that are alike."""
        self._quiet_since = self._clock()
        self._end_outage(sent_at)  # a service that refuses is up
        self._judge(own=True, only=Retry.OUTAGE, until=sent_at)
        if not row.is_first_try or sent_at <= self._last_answered:
            return
        # promise: refusals: only refusals with the same signature count together
        if signature != self._signature:
            self._signature, self.is_probing = signature, False
            self._refusals.clear()
        self._refusals.append(sent_at)
        self._last_refusal = (rule, message)
        if self.is_probing:
            # requests from before the probes are of the same block of rows
            # promise: refusals: only requests sent after probing began count as probes
            self._probes += sent_at >= self._probing_since
            # promise: refusals: the run stops after a fixed number of refused probes
            if self._probes >= MAX_REFUSAL_PROBES:
                self._stop_for_refusals()
        elif len(self._refusals) >= MAX_REFUSALS:
            self.is_probing = True  # the sender now takes rows from farther on
            self._probing_since, self._probes = self._clock(), 0

    def unreadable(self, rule: Rule, message: str, sent_at: float) -> None:
        """A 2xx reply could not be read, or holds no answer that Parquill understands."""
        self._quiet_since = self._clock()
        self._end_outage(sent_at)
        self._unreadable += 1
        # promise: A5 a series of unreadable replies stops the run
        if self._unreadable >= (MAX_UNREADABLE if self._has_answered else MAX_FIRST_UNREADABLE):
            self.stop_run(rule, f"{self._unreadable} replies in a row hold no answer: {message}")

    async def is_own(self, retry: Retry, sent_at: float) -> bool:
        """Wait for the verdict on a failure of this kind: True if it is the row's own, False if it hits every row."""
        if self._is_stopped:
            return False
        pending = _Pending(retry, sent_at)
        self._pending.append(pending)
        self._judge_if_idle()
        return await pending.verdict

    def release(self) -> None:
        """Release rows that wait for a verdict, with False: they are sent elsewhere, or not at all."""
        self._judge(own=False)

    def stop(self) -> None:
        """Release rows that wait for a verdict, and give each later one False: nothing more is sent."""
        self._is_stopped = True
        self.release()

    # ---- verdicts

    def _begin_outage(self, now: float, message: str) -> None:
        self.is_open = True
        self._opened_at, self._interval_s = now, FIRST_PROBE_INTERVAL_S
        self._probe_at = now + self._interval_s
        self._allowed = 1
        for failure in self._streak:
            # promise: outage: the failures that reveal an outage use up no attempts
            failure.row.uncharge()
        self._streak.clear()
        self._judge(own=False, only=Retry.OUTAGE)
        self.warn(
            f"every request to {self._service} fails: {message}. The run tries it again every few seconds for up to "
            f"{self._patience_s / 60:,.0f} minutes (retry.patience_s)"
        )

    def _end_outage(self, sent_at: float) -> None:
        """End the outage if a request that left at `sent_at` met a running service; older requests do not end it."""
        if self.is_open and sent_at >= self._opened_at:
            self.is_open = False
            seconds = self._clock() - (self._failing_since or self._opened_at)
            self.warn(f"{self._service} answers again after {seconds:,.0f} s; the run continues")
        if self._streak:
            self._streak = deque((f for f in self._streak if f.sent_at > sent_at), MAX_STREAK)
        if not self.is_open and not self._streak:
            self._failing_since = None

    def _stop_for_refusals(self) -> None:
        if self._last_refusal is not None:
            rule, message = self._last_refusal
            count = len(self._refusals)
            self.stop_run(rule, f"{count:,} requests in a row were refused for the same reason: {message.rstrip('.')}")

    @property
    def _is_idle(self) -> bool:
        return bool(self._pending) and not (self.under_way or self._waiting)

    def _judge_if_idle(self) -> None:
        """Judge in the loop's next step: a row that was just read or has just ended may bring evidence until then."""
        if self._is_idle:
            asyncio.get_running_loop().call_soon(self._judge_idle)

    def _judge_idle(self) -> None:
        """Count failures as the rows' own if nothing under way can bring evidence."""
        if not self._is_idle:
            return
        if self._refusals and self._last_refusal is not None:
            of_all_rows = self._last_refusal[0].code in _OF_ALL_ROWS and not self._has_answered
            if len(self._refusals) >= MAX_REFUSALS or of_all_rows:
                self._stop_for_refusals()
                return
        self._judge(own=True)

    def _judge(self, *, own: bool, only: Retry | None = None, until: float = math.inf) -> None:
        """Give waiting rows their verdict: only those of one kind, if given, whose requests left before `until`."""
        if not self._pending:
            return
        waiting, self._pending = self._pending, []
        for pending in waiting:
            if pending.sent_at >= until or (only is not None and pending.retry is not only):
                self._pending.append(pending)
            elif not pending.verdict.done():
                pending.verdict.set_result(own)
