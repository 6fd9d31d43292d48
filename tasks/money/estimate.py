"""What a plan will cost: input counted for every row, output bounded by max_output_tokens.

Without history the only bound on the output is max_output_tokens, so expected, p90 and worst are the same, and the
words "no history: worst case is the only bound" are shown with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from parquill.tasks.money.prices import usd
from parquill.tasks.records import Action, Estimate, money

if TYPE_CHECKING:
    from parquill.tasks.job import Job
    from parquill.tasks.money.prices import Price
    from parquill.tasks.money.tokens import TokenCounter
    from parquill.tasks.rows.plan import Row

NO_HISTORY = "no history: worst case is the only bound"


class EstimateSum:
    """Sums the estimate of planned rows; `result` gives it."""

    def __init__(self, job: Job, price: Price, counter: TokenCounter) -> None:
        self._job = job
        self._price = price
        self._counter = counter
        self.rows = 0
        self.to_send = 0
        self.rejected: dict[str, int] = {}
        self.first_rejected: str | None = None
        self._prompt_tokens = 0
        self._worst = 0
        self._largest = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Add planned rows."""
        room = self._job.max_output_tokens
        self.rows += len(rows)
        for row in rows:
            if row.fault is not None:
                self.rejected[row.fault.code] = self.rejected.get(row.fault.code, 0) + 1
                self.first_rejected = self.first_rejected or f"{row.file}, row {row.number}: {row.fault.message}"
            elif row.action is Action.SEND and row.prompt_tokens is not None:
                self.to_send += 1
                self._prompt_tokens += row.prompt_tokens
                reserved = self._counter.reserved(row.prompt_tokens)
                self._worst += self._price.worst_nano(reserved, room)
                self._largest = max(self._largest, reserved + room)

    def result(self) -> Estimate:
        """The estimate of all rows added so far."""
        return Estimate(
            rows=self.rows,
            to_send=self.to_send,
            prompt_tokens=self._prompt_tokens,
            completion_tokens_expected=self.to_send * self._job.max_output_tokens,
            cost_expected=self._worst,
            cost_p90=self._worst,
            cost_worst=self._worst,
            basis=NO_HISTORY,
            largest_request=self._largest,
            exact=self._counter.exact,
            rejected=self.rejected,
            first_rejected=self.first_rejected,
        )


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """The `estimate` part of a summary; money as decimal strings in dollars."""
    return {
        "prompt_tokens": estimate.prompt_tokens,
        "completion_tokens_expected": estimate.completion_tokens_expected,
        "cost_usd_expected": money(usd(estimate.cost_expected)),
        "cost_usd_p90": money(usd(estimate.cost_p90)),
        "cost_usd_worst": money(usd(estimate.cost_worst)),
    }


def flat_estimate(job: Job, estimate: Estimate, *, fits: bool) -> dict[str, Any]:
    """One flat mapping for `estimate --json`."""
    return {
        "rows": estimate.rows,
        "rows_to_send": estimate.to_send,
        "model": job.model,
        **estimate_json(estimate),
        "fits_budget": fits,
        "basis": estimate.basis,
    }
