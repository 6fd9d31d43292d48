"""Gives each row of a batch that has ended its outcome, or opens it for another batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from parquill.tasks.llm.attempts import Attempts
from parquill.tasks.llm.failures import Failure
from parquill.tasks.llm.outcomes import Retry, Rule
from parquill.tasks.llm.protocol import Api
from parquill.tasks.llm.replies import Reply
from parquill.tasks.llm.reply_reader import Result
from parquill.tasks.llm.retry_policy import MAX_UNREADABLE_OF_A_STEP
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.unit import Step
from parquill.tasks.money.model_price import STANDARD_TIERS

# A batch without one answer shows that no row gets one, if it has at least so many rows.
MIN_ROWS_OF_EVIDENCE: Final = 20


@dataclass(frozen=True, slots=True)
class Fate:
    """What the end of a batch says about its rows.

    `limit` is the name under which they had max_output_tokens. `is_evidence` says that none of them was answered, of
    enough to show that none will be; `is_ours` that this run cancelled the batch.
    """

    limit: str
    is_evidence: bool
    is_ours: bool


class BatchCollector:
    """Settles the rows of one run's batches."""

    def __init__(
        self,
        api: Api,
        settlement: Settlement,
        attempts: Attempts,
        refuse: Callable[[Rule, str], None],
        rename: Callable[[str], None],
    ) -> None:
        """`refuse` ends all submitting of the run, because of the service.

        `rename` gets the name under which the service wants max_output_tokens, if a refusal says so.
        """
        self._settlement, self._attempts, self._refuse, self._rename = settlement, attempts, refuse, rename
        self._first_limit = api.limit

    async def collect(self, step: Step, result: Result, fate: Fate) -> None:
        """Settle the latest request of a step, which was a part of a batch."""
        worst_nano = step.reserve_nano
        step.reserve_nano = step.state.settle(step.state.requests).reserved_nano
        try:
            if result.reply is not None:
                await self._settlement.settle(step, result.rule, _at_batch_tier(result.reply), None)
            else:
                await self._fail(step, result, fate)
        finally:
            step.reserve_nano = worst_nano

    async def _fail(self, step: Step, result: Result, fate: Fate) -> None:
        rule = result.rule
        step.state.failures += rule.retry is not Retry.THROTTLE
        failure = None if result.failure is None else _failure_at_batch_tier(result.failure)
        await self._settlement.record_failure(step, rule, failure)
        # promise: M7 the other name of the output limit is tried in batches once
        if result.limit_name is not None and fate.limit == self._first_limit:
            self._rename(result.limit_name)
            step.uncharge()
            return
        if rule.retry is Retry.STOP or (fate.is_evidence and rule.retry is Retry.REFUSAL):
            # promise: refusals: a batch whose rows are all refused stops the run, and costs no row its attempts
            step.uncharge()
            if not fate.is_ours:
                self._refuse(rule, result.sentence)
            return
        is_unreadable = rule.retry is Retry.UNREADABLE and step.state.failures >= MAX_UNREADABLE_OF_A_STEP
        if rule.retry in {Retry.NEVER, Retry.REFUSAL} or is_unreadable or self._attempts.holds(result.money):
            await self._settlement.fail(step, rule, result.sentence)
        # promise: M7 a row that meets 429 in each batch fails after its attempts
        elif self._attempts.are_used_up(step, throttled=step.state.throttled):
            await self._settlement.fail(step, rule, f"{result.sentence}; attempts used up")


def _at_batch_tier(reply: Reply) -> Reply:
    # promise: M6 a reply of a batch is booked at the batch price, although it names the standard tier
    return replace(reply, service_tier="batch") if _is_standard(reply.service_tier) else reply


def _failure_at_batch_tier(failure: Failure) -> Failure:
    return replace(failure, service_tier="batch") if _is_standard(failure.service_tier) else failure


def _is_standard(tier: str | None) -> bool:
    return (tier or "").lower() in STANDARD_TIERS
