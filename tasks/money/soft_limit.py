"""The soft limit: one warning when more than `soft_fraction` of a budget is spent or in doubt."""

from __future__ import annotations

import threading

from parquill.tasks.job.settings import BudgetSettings
from parquill.tasks.money.amounts import format_usd, usd_to_nano


class SoftLimits:
    """The soft limits of one run: of its own budget and of the month. Safe to use from several threads."""

    def __init__(self, budget: BudgetSettings, *, before: int, others: int) -> None:
        """Start without limits that were passed before this start: they are not reported again.

        Args:
            budget: The job's budget settings.
            before: Nano-dollars that the run had settled and in doubt when it was interrupted, 0 for a new one.
            others: Nano-dollars that other runs of the month have settled and in doubt.
        """
        self._fraction = budget.soft_fraction
        self._guard = threading.Lock()
        limits = (("the budget", budget.run_usd, 0), ("the month", budget.monthly_usd, others))
        self._open = [(name, usd_to_nano(usd), more) for name, usd, more in limits if usd is not None]
        self.told: list[str] = []
        self.look(before)
        self.told.clear()

    def look(self, spent: int) -> list[str]:
        """Return a sentence for each newly passed limit; `spent` is what the run has spent, in nano-dollars."""
        with self._guard:
            passed = [entry for entry in self._open if spent + entry[2] > int(entry[1] * self._fraction)]
            self._open = [entry for entry in self._open if entry not in passed]
            told = [
                f"more than {self._fraction:.0%} of {name} is spent: {format_usd(spent + more)} of {format_usd(limit)}"
                for name, limit, more in passed
            ]
            self.told += told
            return told
