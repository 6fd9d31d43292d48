"""Settles requests after a reply or a failure: books the money, journals the outcome, counts the progress."""

from __future__ import annotations

import time
from typing import Any

from parquill.tasks.job.lanes import lane_of
from parquill.tasks.llm.answer_format import AnswerFormat
from parquill.tasks.llm.failures import Failure
from parquill.tasks.llm.outcomes import TABLE, Money, Retry, Rule
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.prompt_cuts import PromptCuts, cut_sentence
from parquill.tasks.llm.replies import Reply
from parquill.tasks.llm.tier_check import TierCheck
from parquill.tasks.llm.unit import Step
from parquill.tasks.money.amounts import femto_to_nano
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.records import REUSABLE, Outcome, Usage, Use, UseKey, day_number, use_of

_ANSWERED = frozenset({"ok", "truncated"})  # statuses that a cut prompt overrides


class Settlement:
    """Settles the steps of one run. Each reservation of a request is settled, held or released here exactly once."""

    def __init__(
        self,
        price: ModelPrice,
        budget: Budget,
        progress: Progress,
        answer_format: AnswerFormat | None,
        cuts: PromptCuts,
        tiers: TierCheck,
        *,
        endpoint: str | None = None,
        is_one_of_several: bool = False,
        are_submitted: bool = False,
    ) -> None:
        """`endpoint` is the label of the endpoint; if it is one of several, the journal has it for each request.

        `are_submitted` is True for requests that were handed over to the service and are collected later.
        """
        self.budget, self.progress, self.tiers = budget, progress, tiers
        self._price, self._format, self._cuts = price, answer_format, cuts
        self._are_submitted = are_submitted
        self.label = endpoint or ""
        self._endpoint, self._is_one_of_several = endpoint, is_one_of_several
        self._at = self.label if is_one_of_several else ""
        self._lane = lane_of(tiers.asked)  # of the requests

    def at(self, tiers: TierCheck) -> Settlement:
        """Return a settlement of requests of the same run that are sent one by one at another tier."""
        return Settlement(
            self._price, self.budget, self.progress, self._format, self._cuts, tiers, endpoint=self._endpoint
        )

    def at_endpoint(self, label: str, price: ModelPrice, tiers: TierCheck, cuts: PromptCuts) -> Settlement:
        """Return a settlement of requests of the same run to one of several endpoints."""
        return Settlement(
            price, self.budget, self.progress, self._format, cuts, tiers, endpoint=label, is_one_of_several=True
        )

    def _use(self, step: Step, ended_at: int, lane: str, model: str | None = None) -> Use:
        """Count a request as over; returns where its cost is counted."""
        use = use_of(step.shard.state.uses, UseKey(day_number(ended_at), model, lane, self._at))
        use.sent += 1
        return use

    async def record_intent(self, step: Step) -> None:
        """Write to the journal that the step is sent once more, with its worst case reserved."""
        step.state.requests += 1
        intent: dict[str, Any] = {
            "type": "intent",
            "row": step.number,
            "n": step.state.requests,
            "reserved": step.reserve_nano,
        }
        if self._is_one_of_several:
            intent["at"] = self.label
        # promise: C1 an intent is synced to the journal before its request is sent
        await step.shard.journal.append(intent)
        step.state.reserved_nano = step.reserve_nano

    async def settle(self, step: Step, rule: Rule, reply: Reply, latency_s: float | None) -> None:
        """Book the cost that the reply to the step's latest request reports, even if it is more than was reserved.

        Without usable usage, book the whole reservation, or more if the known part of the usage costs more.
        """
        usage, tier = reply.usage, reply.service_tier
        self.tiers.observe(tier)
        # promise: M3 unusable usage is booked at no less than the tokens it reports
        billed = usage or reply.least
        # promise: M6 the service tier in the reply determines the price
        cost = 0 if billed is None else femto_to_nano(self._price.femto(billed, tier))
        if usage is None:
            cost = max(cost, step.reserve_nano)
        # promise: M3 a row is settled at the cost of its reply, not at its reservation
        self.budget.settle(step.reserve_nano, cost, submitted=self._are_submitted)
        parsed, sentence = None, reply.sentence(rule)
        if usage is not None and self._cuts.is_cut(step.expected_tokens, usage.prompt) and rule.status in _ANSWERED:
            rule, sentence = TABLE["prompt_cut"], cut_sentence(step.expected_tokens, usage.prompt)
        elif rule.status == "ok" and self._format is not None:
            parsed = self._format.parse(reply.text)
            if parsed is None:
                rule, sentence = TABLE["schema_mismatch"], TABLE["schema_mismatch"].sentence
        outcome = self._outcome(
            step,
            rule,
            completion=reply.text if rule.status != "failed" else None,
            parsed=parsed,
            error_message=None if rule.code is None else sentence,
            finish_reason=reply.finish_reason,
            model_used=reply.model,
            request_id=reply.request_id,
            usage=usage,
            usage_unknown=usage is None,
            # promise: M3 a reply with a service tier of unknown price is flagged
            usage_flag=reply.usage_flag or (None if self._price.knows_tier(tier) else "tier"),
            service_tier=tier,
            # promise: M6 a row shows the lane that its reply names
            lane=lane_of(tier),
            endpoint=self._endpoint,
            cost_nano=cost,
            cache_saved_nano=self._saved_by_cache(usage, tier, cost),
            latency_s=latency_s,
            resolves=step.state.requests,
        )
        use = self._use(step, outcome.finished_at or 0, lane_of(tier), reply.model)
        use.bill(cost, usage)
        use.rows += outcome.status in REUSABLE
        await self._record(step, outcome)

    def _saved_by_cache(self, usage: Usage | None, tier: str | None, cost_nano: int) -> int:
        """Return how much more a reply would cost if its service had no cache."""
        if usage is None or not (usage.cached or usage.cache_write):
            return 0
        # promise: cache: what a cache saved or cost is known for each answer
        return femto_to_nano(self._price.femto(usage._replace(cached=0, cache_write=0), tier)) - cost_nano

    async def fail(self, step: Step, rule: Rule, sentence: str) -> None:
        """Record the step as failed by `rule`, with `sentence` as its message."""
        lane = self._lane if step.state.cost_nano else None  # that of failures that were billed
        outcome = self._outcome(step, rule, error_message=sentence, lane=lane)
        await self._record(step, outcome)

    async def record_failure(self, step: Step, rule: Rule, failure: Failure | None = None) -> None:
        """Book a failure of the step's latest request: nothing, its usage, or the reservation as in doubt."""
        step.state.last_code = rule.code
        money = rule.money if failure is None else failure.money(rule)
        is_billed = failure is not None and failure.usage is not None
        lane = self._lane if failure is None or not is_billed else lane_of(failure.service_tier)
        record: dict[str, Any] = {
            "type": "attempt",
            "row": step.number,
            "n": step.state.requests,
            "fate": money.value,
            "code": rule.code,
            "lane": lane,
            "ended_at": time.time_ns() // 1000,
        }
        use = self._use(step, record["ended_at"], lane)
        if failure is not None and failure.usage is not None:
            self.tiers.observe(failure.service_tier)
            billed = femto_to_nano(self._price.femto(failure.usage, failure.service_tier))
            # promise: M1 a billed failure counts against the budget
            self.budget.settle(step.reserve_nano, billed, submitted=self._are_submitted)
            step.state.add_billed(billed, failure.usage, step.reserve_nano)
            use.bill(billed, failure.usage)
            record |= {"cost": billed, "usage": list(failure.usage)}
        elif money is Money.IN_DOUBT:
            step.state.in_doubt_requests += 1
            step.state.in_doubt_nano += step.reserve_nano
            use.in_doubt_nano += step.reserve_nano
            # promise: M5 a failed request that may have been billed keeps its reservation booked
            self.budget.hold(step.reserve_nano, submitted=self._are_submitted)
        else:
            self.budget.release(step.reserve_nano, submitted=self._are_submitted)
        if rule.retry is Retry.THROTTLE:
            step.state.throttled += 1
        await step.shard.journal.append(record)

    async def _record(self, step: Step, outcome: Outcome) -> None:
        step.shard.state.outcomes[step.number] = outcome
        self.progress.done += 1
        self.progress.not_ok += outcome.status != "ok"
        await step.shard.journal.append(outcome)

    def _outcome(self, step: Step, rule: Rule, cost_nano: int = 0, **of_reply: object) -> Outcome:
        return Outcome(
            # promise: C9 an outcome carries the number and key of the row that was sent
            row=step.number,
            key=step.key,
            status=rule.status,
            error_code=rule.code,
            # promise: M4 a row's outcome includes the cost of its failed requests
            cost_nano=step.state.cost_nano + cost_nano,
            failed_usage=step.state.usage,
            in_doubt_nano=step.state.in_doubt_nano,
            attempts=step.state.requests,
            finished_at=time.time_ns() // 1000,
            prior=step.prior,
            **of_reply,  # type: ignore[arg-type]
        )
