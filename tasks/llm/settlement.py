"""Settles rows after a reply or a failure: books the money, journals the outcome, counts the progress."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

from parquill.tasks.errors import DiskFailed
from parquill.tasks.llm.answer_format import AnswerFormat
from parquill.tasks.llm.client import Result
from parquill.tasks.llm.failures import Failure
from parquill.tasks.llm.outcomes import TABLE, Money, Retry, Rule
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.prompt_cuts import PromptCuts, cut_sentence
from parquill.tasks.llm.replies import Reply
from parquill.tasks.money.amounts import femto_to_nano
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.prices import ModelPrice
from parquill.tasks.records import NO_CHARGE, Charge, Outcome
from parquill.tasks.storage.journal import Journal
from parquill.tasks.storage.replay import RowState, ShardState

_ANSWERED = frozenset({"ok", "truncated"})  # statuses that a cut prompt overrides


@dataclass(slots=True)
class OpenShard:
    """A shard that is being completed: its journal, its state so far, and how many rows did not fit the budget."""

    journal: Journal
    state: ShardState
    over_budget: int = 0


@dataclass(slots=True)
class SendRow:
    """One row to send; money in nano-dollars. `tokens` are reserved: the input with its allowance, and all output."""

    shard: OpenShard
    number: int
    key: str
    messages: str
    parameters: str | None
    tokens: int
    reserve_nano: int
    expected_tokens: float = 0.0  # of the prompt, as the service is expected to report it
    prior: Charge = NO_CHARGE
    state: RowState = field(default_factory=RowState)
    unreadable: int = 0
    throttled_since: float | None = None
    is_over: bool = False  # the row has its outcome
    refused: Result | None = None  # a request that was refused for the name of max_output_tokens only

    @property
    def is_first_try(self) -> bool:
        """Whether its latest request is its first one, also counting earlier runs and starts.

        A request that was refused for the name of max_output_tokens does not count.
        """
        # promise: refusals: a refusal that follows a refused limit name counts as evidence
        return self.state.requests == 1 + (self.refused is not None) and self.prior.attempts == 0

    def uncharge(self) -> None:
        """Give the row one attempt back, since the failure hit every row."""
        if self.is_over:
            return
        self.state.failures -= 1
        with contextlib.suppress(DiskFailed):  # the sender gets the same error at its next record
            self.shard.journal.append({"type": "uncharge", "row": self.number})


class Settlement:
    """Settles the rows of one run. Each reservation of a request is settled, held or released here exactly once."""

    def __init__(
        self,
        price: ModelPrice,
        budget: Budget,
        progress: Progress,
        answer_format: AnswerFormat | None,
        cuts: PromptCuts,
    ) -> None:
        self._price, self._budget, self._format = price, budget, answer_format
        self._progress, self._cuts = progress, cuts

    async def record_intent(self, row: SendRow) -> None:
        """Write to the journal that the row is sent once more, with its worst case reserved."""
        row.state.requests += 1
        # promise: C1 an intent is synced to the journal before its request is sent
        await row.shard.journal.append(
            {"type": "intent", "row": row.number, "n": row.state.requests, "reserved": row.reserve_nano}
        )
        row.state.reserved_nano = row.reserve_nano
        self._progress.sent += 1

    async def settle(self, row: SendRow, rule: Rule, reply: Reply, latency_s: float) -> None:
        """Book the cost that the reply to the row's latest request reports, even if it is more than was reserved.

        Without usable usage, book the whole reservation, or more if the known part of the usage costs more.
        """
        usage, tier = reply.usage, reply.service_tier
        # promise: M3 unusable usage is booked at no less than the tokens it reports
        said = usage or reply.least
        # promise: M6 the service tier in the reply determines the price
        cost = 0 if said is None else femto_to_nano(self._price.femto(said, tier))
        if usage is None:
            cost = max(cost, row.reserve_nano)
        # promise: M3 a row is settled at the cost of its reply, not at its reservation
        self._budget.settle(row.reserve_nano, cost)
        parsed, sentence = None, reply.sentence(rule)
        if usage is not None and self._cuts.is_cut(row.expected_tokens, usage.prompt) and rule.status in _ANSWERED:
            rule, sentence = TABLE["prompt_cut"], cut_sentence(row.expected_tokens, usage.prompt)
        elif rule.status == "ok" and self._format is not None:
            parsed = self._format.parse(reply.text)
            if parsed is None:
                rule, sentence = TABLE["schema_mismatch"], TABLE["schema_mismatch"].sentence
        outcome = self._outcome(
            row,
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
            cost_nano=cost,
            latency_s=latency_s,
            resolves=row.state.requests,
        )
        await self._record(row, outcome)

    async def fail(self, row: SendRow, rule: Rule, sentence: str) -> None:
        """Record the row as failed by `rule`, with `sentence` as its message."""
        outcome = self._outcome(row, rule, error_message=sentence)
        await self._record(row, outcome)

    async def record_failure(self, row: SendRow, rule: Rule, failure: Failure | None = None) -> None:
        """Book a failure of the row's latest request: nothing, its usage, or the reservation as in doubt."""
        row.state.last_code = rule.code
        money = rule.money if failure is None else failure.money(rule)
        record = {"type": "attempt", "row": row.number, "n": row.state.requests, "fate": money.value, "code": rule.code}
        if failure is not None and failure.usage is not None:
            billed = femto_to_nano(self._price.femto(failure.usage, failure.service_tier))
            # promise: M1 a billed failure counts against the budget
            self._budget.settle(row.reserve_nano, billed)
            row.state.add_billed(billed, failure.usage, row.reserve_nano)
            record |= {"cost": billed, "usage": list(failure.usage)}
        elif money is Money.IN_DOUBT:
            row.state.in_doubt_requests += 1
            row.state.in_doubt_nano += row.reserve_nano
            # promise: M5 a failed request that may have been billed keeps its reservation booked
            self._budget.hold(row.reserve_nano)
        else:
            self._budget.release(row.reserve_nano)
        if rule.retry is Retry.THROTTLE:
            row.state.throttled += 1
        await row.shard.journal.append(record)

    async def _record(self, row: SendRow, outcome: Outcome) -> None:
        row.shard.state.outcomes[row.number] = outcome
        row.is_over = True
        self._progress.done += 1
        self._progress.not_ok += outcome.status != "ok"
        await row.shard.journal.append(outcome)

    def _outcome(self, row: SendRow, rule: Rule, cost_nano: int = 0, **of_reply: object) -> Outcome:
        return Outcome(
            # promise: C9 an outcome carries the number and key of the row that was sent
            row=row.number,
            key=row.key,
            status=rule.status,
            error_code=rule.code,
            # promise: M4 a row's outcome includes the cost of its failed requests
            cost_nano=row.state.cost_nano + cost_nano,
            failed_usage=row.state.usage,
            in_doubt_nano=row.state.in_doubt_nano,
            attempts=row.state.requests,
            finished_at=time.time_ns() // 1000,
            prior=row.prior,
            **of_reply,  # type: ignore[arg-type]
        )
