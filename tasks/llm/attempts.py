"""Whether a step may be sent once more: its attempts are counted over all starts, and a row in doubt may be held."""

from __future__ import annotations

from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.outcomes import TABLE, Money
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.unit import Step


class Attempts:
    """Applies `retry.attempts` and `retry.in_doubt` to the steps of one run."""

    def __init__(self, job: ResolvedJob, settlement: Settlement) -> None:
        self._settlement = settlement
        self._most = job.retry.attempts
        self._hold = job.retry.in_doubt == "hold"

    def are_used_up(self, step: Step, throttled: int = 0) -> bool:
        """Whether the step has failed as often as it may; `throttled` requests count as failures, too."""
        return step.state.failures + throttled >= self._most

    def holds(self, money: Money) -> bool:
        """Whether a failure that did this to the money is the step's last one."""
        return self._hold and money is Money.IN_DOUBT

    async def fail_unsent(self, step: Step) -> bool:
        """Give a step that must not be sent its outcome. Returns False if it may be sent."""
        if self._hold and step.state.in_doubt_requests:
            message = "it is unknown whether an earlier request was billed; held because of retry.in_doubt: hold"
            await self._settlement.fail(step, TABLE["connection_lost"], message)
            return True
        # promise: M7 attempts of earlier starts count toward the limit
        if self.are_used_up(step):
            rule = TABLE[step.state.last_code or "connection_lost"]
            await self._settlement.fail(step, rule, f"{rule.sentence}; attempts used up")
            return True
        return False
