"""What a failed request means: another try after a wait, the step's outcome, or the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from parquill.tasks.job.lanes import ADVICE
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.limits.limiter import RateLimiter, Stopped
from parquill.tasks.llm.attempts import Attempts
from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.outcomes import Retry, Rule
from parquill.tasks.llm.reply_reader import Result
from parquill.tasks.llm.retry import backoff_s
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.unit import Step

# Each unreadable reply may be billed.
MAX_UNREADABLE_OF_A_STEP = 2


class Stop(Protocol):
    """Ends all sending of the run, because of the service."""

    def __call__(self, rule: Rule, message: str) -> None:
        """`rule` and `message` say why."""


class RetryPolicy:
    """Applies the table of outcomes to the failures of one run's steps. Lives on the event loop of its lane."""

    def __init__(
        self,
        job: ResolvedJob,
        settlement: Settlement,
        limits: RateLimiter,
        breaker: Breaker,
        stop: Stop,
        clock: Callable[[], float],
    ) -> None:
        self._settlement, self._limits, self._breaker = settlement, limits, breaker
        self._attempts = Attempts(job, settlement)
        self._stop, self._clock = stop, clock
        retry = job.retry
        self._patience_s = retry.patience_s
        # promise: flex: a row waits for capacity as long as the run
        most_s = retry.patience_s if job.lane == "flex" else 0.0  # a 429 of flex means that it lacks capacity
        self._step_patience_s = max(most_s, retry.timeout_s * retry.attempts)  # the most that its attempts may take
        self._advice = ADVICE.get(job.lane, "")

    async def record(self, step: Step, sent_at: float, result: Result) -> bool:
        """Charge the step for a failed request and journal it; `sent_at` is when the request left.

        Returns whether the failure is part of an outage, so that it cost no attempt.
        """
        rule, breaker = result.rule, self._breaker
        step.state.failures += rule.retry is not Retry.THROTTLE
        is_outage = False
        if result.limit_name is not None:
            pass  # only the name of max_output_tokens was refused: no evidence, and no attempt (below)
        elif rule.retry is Retry.OUTAGE:
            is_outage = breaker.failed(step, rule, result.sentence, sent_at)
        elif rule.retry is Retry.REFUSAL:
            breaker.refused(step, rule, result.signature, result.sentence, sent_at)
        elif rule.retry is Retry.UNREADABLE:
            step.unreadable += 1
            breaker.unreadable(rule, result.sentence, sent_at)
        await self._settlement.record_failure(step, rule, result.failure)
        if result.limit_name is not None:
            step.refused = result
            step.uncharge()
        return is_outage

    async def next_wait_s(self, step: Step, sent_at: float, result: Result, *, is_outage: bool) -> float | None:
        """Return the seconds until the step is sent again; None once it has its outcome. Raises Stopped.

        The request has given back its permit: a verdict may have to wait until no request is under way.
        """
        rule = result.rule
        # promise: refusals: a refused name of the output limit is not charged to a row
        if result.limit_name is not None:
            return 0.0
        if rule.retry is Retry.THROTTLE:
            return await self._throttle(step, sent_at, result)
        if rule.retry is Retry.STOP:
            step.uncharge()
            self._stop(rule, result.sentence)
            raise Stopped
        # promise: refusals: a run that refusals stop gives its refused rows no outcome
        if rule.retry is Retry.REFUSAL and not await self._breaker.is_own(Retry.REFUSAL, sent_at):
            step.uncharge()
            raise Stopped
        # promise: A5 a row with an unreadable reply is sent once more at most
        is_final = rule.retry in {Retry.NEVER, Retry.REFUSAL} or step.unreadable >= MAX_UNREADABLE_OF_A_STEP
        if is_final or self._attempts.holds(result.money):
            await self._settlement.fail(step, rule, result.sentence)
            return None
        if (
            not is_outage
            and self._attempts.are_used_up(step)
            and (rule.retry is not Retry.OUTAGE or await self._breaker.is_own(Retry.OUTAGE, sent_at))
        ):
            await self._settlement.fail(step, rule, f"{result.sentence}; attempts used up")
            return None
        return result.retry_after if result.retry_after is not None else backoff_s(max(1, step.state.failures))

    async def _throttle(self, step: Step, sent_at: float, result: Result) -> float | None:
        """Slow all requests down after a 429, which costs the step no attempt."""
        now, gate = self._clock(), self._limits.gate
        # promise: service: pauses grow with each wave of 429 replies
        pause = result.retry_after if result.retry_after is not None else backoff_s(gate.waves + 1)
        gate.on_429(now, sent_at, pause)
        # promise: service: a run that meets only 429 replies stops once its patience is used up
        if gate.throttled_s(now) > self._patience_s:
            self._stop(result.rule, result.sentence + self._advice)
            raise Stopped
        step.throttled_since = now if step.throttled_since is None else step.throttled_since
        # promise: service: a row that is always throttled fails once its patience is used up
        if now - step.throttled_since > self._step_patience_s:  # others get through, so it is this one
            await self._settlement.fail(step, result.rule, result.sentence)
            return None
        return 0.0
