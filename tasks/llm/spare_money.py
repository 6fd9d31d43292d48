"""The money that a run with `lane: auto` can spend on the live lane: what the other rows do not need in the cheap lane.

Without this, the rows that move first could use up the budget, and the last rows would not be completed at all. A row
that is late is worth more than a row without an answer.
"""

from __future__ import annotations

from parquill.tasks.llm.progress import Progress
from parquill.tasks.money.budget import Budget
from parquill.tasks.records import Estimate


class SpareMoney:
    """Compares what a run's budget has left with what its rows need in the cheap lane."""

    def __init__(self, budget: Budget, progress: Progress, estimate: Estimate) -> None:
        self._budget, self._progress = budget, progress
        left = max(1, estimate.to_send)
        self._nano_a_row = (estimate.expected_nano if estimate.is_worst_case else estimate.p90_nano) / left

    def covers(self, amount_nano: int) -> bool:
        """Whether `amount_nano` can be spent on one row in the live lane."""
        budget = self._budget
        if budget.limit_nano is None:
            return True
        # requests under way and in batches have their money; all other rows need theirs
        held_nano = budget.submitted_nano + budget.reserved_nano
        needed_nano = max(held_nano, round(self._nano_a_row * self._progress.left))
        return budget.settled_nano + budget.in_doubt_nano + needed_nano + amount_nano <= budget.limit_nano
