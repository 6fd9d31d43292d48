"""The soft limit: one warning when more than `soft_fraction` of a budget is spent, in doubt or submitted."""

from __future__ import annotations

from dataclasses import dataclass

from parquill.tasks.job.settings import BudgetSettings
from parquill.tasks.money.amounts import format_usd, usd_to_nano


@dataclass(frozen=True, slots=True)
class _Limit:
    """One limit that is not passed yet; money in nano-dollars. `others` is what other runs count toward it."""

    name: str
    whole_nano: int
    others_nano: int
    passed_above_nano: int  # of the run's own spending


class SoftLimits:
    """The soft limits of one run: of its own budget and of the month. Any thread may read `messages`."""

    def __init__(self, budget: BudgetSettings, *, before_nano: int, others_nano: int) -> None:
        """Start without limits that were passed before this start: they are not reported again.

        Args:
            budget: The job's budget settings.
            before_nano: Nano-dollars that the run had settled, in doubt and submitted when it was interrupted, 0 for a
                new one.
            others_nano: Nano-dollars that other runs of the month have settled, in doubt and submitted.
        """
        self._fraction = budget.soft_fraction
        self.messages: list[str] = []  # one for each limit that this start has passed
        limits = (("the budget", budget.run_usd, 0), ("the month", budget.monthly_usd, others_nano))
        wholes = ((name, usd_to_nano(usd), more) for name, usd, more in limits if usd is not None)
        open_limits = (_Limit(name, whole, more, int(whole * self._fraction) - more) for name, whole, more in wholes)
        self._open = [limit for limit in open_limits if before_nano <= limit.passed_above_nano]

    def check(self, spent_nano: int, submitted_nano: int = 0) -> None:
        """Add a message for each newly passed limit.

        `spent_nano` is what the run has settled, in doubt and submitted, of which `submitted_nano` may still come back.
        """
        how = "spent or reserved in batches" if submitted_nano else "spent"
        passed = [limit for limit in self._open if spent_nano > limit.passed_above_nano]
        for limit in passed:
            self._open.remove(limit)
            spent, whole = format_usd(spent_nano + limit.others_nano), format_usd(limit.whole_nano)
            self.messages.append(f"more than {self._fraction:.0%} of {limit.name} is {how}: {spent} of {whole}")
