"""A channel: one way to send single requests, with all that belongs to it: client, limits, breaker, price, retries.

Most runs have one. `lane: auto` has a channel at the price of flex and one at the standard price.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.limits.limiter import Permit, RateLimiter
from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.outcomes import Rule
from parquill.tasks.llm.reply_reader import Result
from parquill.tasks.llm.retry_policy import RetryPolicy
from parquill.tasks.llm.settlement import Settlement


class Channel:
    """One way to send requests. Lives on the event loop of its lane."""

    def __init__(
        self,
        job: ResolvedJob,
        client: Client,
        limits: RateLimiter,
        breaker: Breaker,
        settlement: Settlement,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`job.lane` is the lane in which the client buys, `job.endpoint` where it sends."""
        self.lane, self.label = job.lane, settlement.label
        self.client, self.limits, self.breaker, self.settlement = client, limits, breaker, settlement
        self.tiers = settlement.tiers
        self.policy = RetryPolicy(job, settlement, limits, breaker, self._end, clock)
        self._on_end: Callable[[Channel, Rule, str], None] = lambda _channel, _rule, _message: None
        breaker.stop_run = self._end

    def open(self, warn: Callable[[str], None], on_end: Callable[[Channel, Rule, str], None]) -> None:
        """Begin: `warn` gets lines for people; `on_end` hears that the service takes nothing more, and why."""
        self.breaker.warn = self.tiers.warn = warn
        self._on_end = on_end

    def _end(self, rule: Rule, message: str) -> None:
        self._on_end(self, rule, message)

    def close(self) -> None:
        """Send nothing more. Requests that wait for their turn or for a verdict get Stopped."""
        # promise: C7 a row that waits for a permit sends nothing after a stop
        self.limits.stop()
        self.breaker.stop()

    def release_waiting(self) -> None:
        """Have requests that wait for their turn look for another channel; those that wait for a verdict get False."""
        self.limits.wake()
        self.breaker.release()

    def observe(self, permit: Permit, result: Result) -> None:
        """Tell limits and breaker how a request ended, and what it used."""
        self.limits.learn(permit.sent_at, result.headers)
        if result.reply is not None:
            self.limits.gate.on_success()
            self.breaker.answered(permit.sent_at)
        answer = result.reply or result.failure
        if answer is not None and answer.usage is not None:
            permit.settle(answer.usage.prompt + answer.usage.completion)
