"""Gives each row of a batch that has ended its outcome, or opens it for another batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from parquill.tasks.money.prices import STANDARD_TIERS

# A batch without one answer shows that no row gets one, if it has at least so many rows.
MIN_ROWS_OF_EVIDENCE: Final = 20


class BatchCollector:
    """Settles the rows of one run's batches."""

    def __init__(
        self, api: Api, settlement: Settlement, attempts: Attempts, refuse: Callable[[Rule, str], None]
    ) -> None:
        """`refuse` ends all submitting of the run, because of the service."""
        self._api, self._settlement, self._attempts, self._refuse = api, settlement, attempts, refuse

    async def collect(self, step: Step, result: Result, *, is_evidence: bool, is_ours: bool) -> None:
        """Settle the latest request of a step, which was a part of a batch.

        `is_evidence` says that no row of its batch was answered; `is_ours` that this run cancelled the batch.
        """
        worst_nano = step.reserve_nano
        step.reserve_nano = step.state.settle(step.state.requests)
        try:
            if result.reply is not None:
                await self._settlement.settle(step, result.rule, _at_batch_tier(result.reply), None)
            else:
                await self._fail(step, result, is_evidence=is_evidence, is_ours=is_ours)
        finally:
            step.reserve_nano = worst_nano

    async def _fail(self, step: Step, result: Result, *, is_evidence: bool, is_ours: bool) -> None:
        rule = result.rule
        step.state.failures += rule.retry is not Retry.THROTTLE
        failure = None if result.failure is None else _failure_at_batch_tier(result.failure)
        await self._settlement.record_failure(step, rule, failure)
        if result.limit_name is not None:
            self._api.limit = result.limit_name
            step.uncharge()
            return
        if rule.retry is Retry.STOP or (is_evidence and rule.retry is Retry.REFUSAL):
            # promise: refusals: a batch whose rows are all refused stops the run, and costs no row its attempts
            step.uncharge()
            if not is_ours:
                self._refuse(rule, result.sentence)
            return
        is_unreadable = rule.retry is Retry.UNREADABLE and step.state.failures >= MAX_UNREADABLE_OF_A_STEP
        if rule.retry in {Retry.NEVER, Retry.REFUSAL} or is_unreadable or self._attempts.holds(result.money):
            await self._settlement.fail(step, rule, result.sentence)
        elif self._attempts.are_used_up(step):
            await self._settlement.fail(step, rule, f"{result.sentence}; attempts used up")


def _at_batch_tier(reply: Reply) -> Reply:
    # promise: M6 a reply of a batch is booked at the batch price, although it names the standard tier
    return replace(reply, service_tier="batch") if _is_standard(reply.service_tier) else reply


def _failure_at_batch_tier(failure: Failure) -> Failure:
    return replace(failure, service_tier="batch") if _is_standard(failure.service_tier) else failure


def _is_standard(tier: str | None) -> bool:
    return (tier or "").lower() in STANDARD_TIERS
