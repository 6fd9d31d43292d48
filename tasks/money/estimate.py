"""What a plan will cost: input counted for every row, output predicted from the past, bounded by max_output_tokens.

Without history the only bound on the output is max_output_tokens, so expected, p90 and worst are the same, and the
words "no history: worst case is the only bound" are shown with them. With it (see `lengths`) expected is the sum of the
predictions, and p90 lies 1.2816 standard deviations above it (the normal distribution's 90 % quantile), at most worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from parquill.tasks.money.past import Past
from parquill.tasks.money.prices import dollars, to_nano, usd
from parquill.tasks.records import Action, Estimate, money

if TYPE_CHECKING:
    from parquill.tasks.job import Job
    from parquill.tasks.money.prices import Price
    from parquill.tasks.money.tokens import TokenCounter
    from parquill.tasks.rows.plan import Row

NORMAL_P90 = 1.2816
NO_HISTORY = "no history: worst case is the only bound"


class EstimateSum:
    """Sums the estimate of planned rows, at one or several prices; `result` gives it."""

    def __init__(self, job: Job, prices: Sequence[Price], counter: TokenCounter, past: Past | None = None) -> None:
        self._job = job
        self._past = past or Past()
        self._prices = prices
        self._counter = counter
        self.rows = 0
        self.to_send = 0
        self.rejected: dict[str, int] = {}
        self.first_rejected: str | None = None
        self.reuse_note: str | None = None
        self.reused = 0
        self._counted = 0
        self._prompt_tokens = 0.0  # as the service is expected to report them
        self._worst = [0] * len(prices)
        self._expected_femto = [0] * len(prices)
        self._expected_tokens = 0.0
        self._largest = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Add planned rows."""
        room, lengths = self._job.max_output_tokens, self._past.lengths
        self.rows += len(rows)
        for row in rows:
            if row.fault is not None:
                self.rejected[row.fault.code] = self.rejected.get(row.fault.code, 0) + 1
                self.first_rejected = self.first_rejected or f"{row.file}, row {row.number}: {row.fault.message}"
            elif row.action is Action.SEND and row.prompt_tokens is not None:
                self.to_send += 1
                prompt = self._counter.expected(row.prompt_tokens)
                self._counted += row.prompt_tokens
                self._prompt_tokens += prompt
                reserved = self._counter.reserved(row.prompt_tokens)
                expected = lengths.expected(row.prompt_tokens) if lengths is not None else float(room)
                self._expected_tokens += expected
                for place, price in enumerate(self._prices):
                    self._worst[place] += price.worst_nano(reserved, room)
                    self._expected_femto[place] += price.expected_femto(prompt, expected)
                self._largest = max(self._largest, reserved + room)
            elif row.action is Action.REUSE:
                self.reused += 1

    def result(self, place: int = 0) -> Estimate:
        """The estimate of all rows added so far, at the price of that place."""
        lengths, worst, price = self._past.lengths, self._worst[place], self._prices[place]
        expected = p90 = worst
        basis = NO_HISTORY
        if lengths is not None:
            expected = min(worst, to_nano(self._expected_femto[place]))
            deviation = lengths.deviation(self.to_send, self._expected_tokens)
            p90 = min(worst, expected + to_nano(round(NORMAL_P90 * deviation * price.bands[0].output)))
            basis = f"output from {lengths.answers:,} answers of {_runs(lengths.runs)}"
        if self._past.last is not None:
            basis += f"; last run: expected {dollars(self._past.last[0])}, cost {dollars(self._past.last[1])}"
        return Estimate(
            rows=self.rows,
            to_send=self.to_send,
            prompt_tokens=round(self._prompt_tokens),
            completion_tokens_expected=round(self._expected_tokens),
            cost_expected=expected,
            cost_p90=p90,
            cost_worst=worst,
            basis=basis,
            largest_request=self._largest,
            exact=self._counter.exact,
            rejected=self.rejected,
            first_rejected=self.first_rejected,
            counted_tokens=self._counted,
            tokens_note=self._counter.note(self._counted, self._prompt_tokens),
            reused=self.reused,
            reuse_note=self.reuse_note,
        )


def _runs(count: int) -> str:
    return "the last run" if count == 1 else f"the last {count} runs"


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """The `estimate` part of a summary; money as decimal strings in dollars."""
    return {
        "prompt_tokens": estimate.prompt_tokens,
        "completion_tokens_expected": estimate.completion_tokens_expected,
        "cost_usd_expected": money(usd(estimate.cost_expected)),
        "cost_usd_p90": money(usd(estimate.cost_p90)),
        "cost_usd_worst": money(usd(estimate.cost_worst)),
    }


def flat_estimate(job: Job, estimate: Estimate, price: Price, *, fits: bool) -> dict[str, Any]:
    """One flat mapping for `estimate --json`."""
    return {
        "rows": estimate.rows,
        "rows_to_send": estimate.to_send,
        "model": job.model,
        **estimate_json(estimate),
        "fits_budget": fits,
        "basis": estimate.basis,
        "prompt_tokens_counted": estimate.counted_tokens,
        "prompt_tokens_note": estimate.tokens_note or None,
        "rows_reused": estimate.reused,
        "reuse_note": estimate.reuse_note,
        "rows_rejected": sum(estimate.rejected.values()),
        "first_rejected": estimate.first_rejected,
        "prices_source": price.source,
        "prices_version": price.version,
    }
