"""Estimate what a plan will cost: input counted for every row, output predicted, at most max_output_tokens.

Rows are kept as counts by input length. Worst case, expectation and spread depend on nothing else, so memory is bounded
by the model's window, and any number of prices can be applied at the end.

Without history the only bound on the output is max_output_tokens: expected, p90 and worst are the same, and the
estimate's basis is `worst_case`. With history (`length_model`) expected is the sum of the
predictions, and the total output is taken as log-normal about it: `low` and `high` bound its central 90 %, p90 is its
90 % quantile, and none is above the worst case. For few answers the normal quantile is widened to Student's t
(Cornish-Fisher, first order).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from parquill.tasks.job.lanes import lane_of
from parquill.tasks.money.amounts import femto_to_nano, format_usd, nano_to_usd, usd_text
from parquill.tasks.money.duration import least_duration
from parquill.tasks.money.learning import Past
from parquill.tasks.records import WORST_CASE, Action, Estimate, PlannedRow

if TYPE_CHECKING:
    from parquill.tasks.job.settings import Job
    from parquill.tasks.money.length_model import LengthModel
    from parquill.tasks.money.model_price import ModelPrice
    from parquill.tasks.money.tokens import TokenCounter

NORMAL_P90, NORMAL_P95 = 1.2816, 1.6449
# A spread estimated from a hundred answers of a long-tailed law is too low more often than too high: without this
# factor the interval held in 84-96 % of the seeds, with it in 91-97 % (`python -m tests.benchmarks.pilots`).
INTERVAL_SAFETY = 1.06
NO_HISTORY = "no earlier answers to learn from"


@dataclass(frozen=True, slots=True)
class CostForecast:
    """The cost of rows at one price, in nano-dollars; `low` to `high` is the central 90 %."""

    completion_tokens: int
    expected: int
    p90: int
    low: int
    high: int
    worst: int

    @property
    def relative_error(self) -> float:
        """The distance from the expected cost to the farther bound of the interval, as a fraction of that cost."""
        return max(self.high - self.expected, self.expected - self.low) / self.expected if self.expected else 0.0


def price_histogram(
    rows: Mapping[int, int], room: int, price: ModelPrice, counter: TokenCounter, lengths: LengthModel | None
) -> CostForecast:
    """Price rows, given as prompt tokens -> number of rows, each with at most `room` output tokens."""
    worst = sum(count * price.worst_nano(counter.reserved(tokens), room) for tokens, count in rows.items())
    if lengths is None:
        return CostForecast(room * sum(rows.values()), worst, worst, worst, worst, worst)
    output, femto, bare = 0.0, 0, 0
    for tokens, count in rows.items():
        one = lengths.expected(tokens)
        output += count * one
        prompt = _reported(tokens, counter, lengths)
        femto += count * price.expected_femto(*prompt, one)
        bare += count * price.expected_femto(*prompt, 0)
    deviation = INTERVAL_SAFETY * lengths.deviation(rows) if rows else 0.0

    def bound(quantile: float) -> int:
        reach = deviation * _widened_quantile(quantile, lengths.answers)
        return femto_to_nano(bare + round((femto - bare) * math.exp(reach))) if reach < 50 else worst

    return CostForecast(
        round(output),
        min(worst, femto_to_nano(femto)),
        min(worst, bound(NORMAL_P90)),
        bound(-NORMAL_P95),
        min(worst, bound(NORMAL_P95)),
        worst,
    )


def with_moved(
    estimate: Estimate,
    job: Job,
    rows: Mapping[int, int],
    price: ModelPrice,
    counter: TokenCounter,
    lengths: LengthModel | None,
) -> Estimate:
    """Return an estimate that also says what it costs if all `rows` move to the live lane; without `finish_by` none do.

    What the estimate has as paid was paid for other rows.
    """
    if job.finish_by is None:
        return estimate
    figures = price_histogram(rows, job.max_output_tokens, replace(price, asked=""), counter, lengths)
    return replace(
        estimate,
        moved_expected_nano=estimate.paid_nano + figures.expected,
        moved_p90_nano=estimate.paid_nano + figures.p90,
        moved_worst_nano=estimate.paid_nano + figures.worst,
    )


def _reported(tokens: int, counter: TokenCounter, lengths: LengthModel) -> tuple[float, float, float]:
    """Expected reported prompt tokens for a counted input, and how many of them are cached and cache writes."""
    prompt, cached, written = lengths.reported(tokens)
    if not counter.is_corrected:
        return prompt, cached, written
    # the job's own ratio counts a template's fixed tokens in proportion to the text, which is wrong at other lengths
    expected = counter.expected(tokens)
    return expected, expected * cached / max(1, prompt), expected * written / max(1, prompt)


def _widened_quantile(normal: float, answers: int) -> float:
    return normal * (1 + (normal * normal + 1) / (4 * max(1, answers - 3)))


class EstimateSum:
    """Sums up planned rows; `result` returns their estimate at one of several prices."""

    def __init__(self, job: Job, prices: Sequence[ModelPrice], counter: TokenCounter, past: Past | None = None) -> None:
        self._job = job
        self._past = past or Past()
        self._prices = prices
        self._counter = counter
        self.rows = 0
        self.rejected: dict[str, int] = {}
        self.first_rejected: str | None = None
        self.reuse_note: str | None = None
        self.notes: list[str] = []  # of the input
        self.reused = 0
        self._lengths: Counter[int] = Counter()  # prompt tokens -> rows to send

    def add(self, rows: Sequence[PlannedRow]) -> None:
        """Add planned rows."""
        self.rows += len(rows)
        for row in rows:
            if row.fault is not None:
                self.rejected[row.fault.code] = self.rejected.get(row.fault.code, 0) + 1
                self.first_rejected = self.first_rejected or f"{row.file}, row {row.number}: {row.fault.message}"
            elif row.action is Action.SEND and row.prompt_tokens is not None:
                self._lengths[row.prompt_tokens] += 1
            elif row.action is Action.REUSE:
                self.reused += 1

    def result(self, index: int = 0) -> Estimate:
        """Return the estimate of all rows added so far, at the price with index `place`."""
        room, lengths = self._job.max_output_tokens, self._past.lengths
        counted = sum(tokens * rows for tokens, rows in self._lengths.items())
        prompt_tokens = sum(self._counter.expected(tokens) * rows for tokens, rows in self._lengths.items())
        figures = price_histogram(self._lengths, room, self._prices[index], self._counter, lengths)
        estimate = Estimate(
            rows=self.rows,
            to_send=self._lengths.total(),
            prompt_tokens=round(prompt_tokens),
            completion_tokens_expected=figures.completion_tokens,
            expected_nano=figures.expected,
            p90_nano=figures.p90,
            worst_nano=figures.worst,
            low_nano=figures.low if lengths is not None else None,
            high_nano=figures.high if lengths is not None else None,
            output_shares=lengths.output_shares(self._lengths) if lengths is not None else [],
            basis=basis_of(lengths),
            basis_note=describe_basis(lengths, self._past.last),
            reserved_tokens=sum((self._counter.reserved(tokens) + room) * n for tokens, n in self._lengths.items()),
            latency_s=lengths.latency_s if lengths is not None else None,
            largest_request=max((self._counter.reserved(tokens) + room for tokens in self._lengths), default=0),
            exact=self._counter.exact,
            rejected=self.rejected,
            first_rejected=self.first_rejected,
            counted_tokens=counted,
            tokens_note=self._counter.note(counted, prompt_tokens),
            reused=self.reused,
            reuse_note=self.reuse_note,
            input_notes=self.notes,
            lane=lane_of(self._prices[index].asked),
        )
        return with_moved(estimate, self._job, self._lengths, self._prices[index], self._counter, lengths)


def basis_of(lengths: LengthModel | None) -> str:
    """Return the name of what an estimate is based on: worst_case, pilot or history."""
    if lengths is None:
        return WORST_CASE
    return "history" if lengths.runs else "pilot"


def describe_basis(lengths: LengthModel | None, last: tuple[int, int] | None) -> str:
    """Describe what an estimate is based on; `last` is (expected, settled) nano-dollars of the latest finished run."""
    basis = NO_HISTORY
    if lengths is not None:
        runs = {0: "a pilot", 1: "the last run"}.get(lengths.runs, f"the last {lengths.runs} runs")
        basis = f"output from {lengths.answers:,} answers of {runs}"
    if last is not None:
        basis += f"; the last run cost {format_usd(last[1])}"  # its own estimate may have been the worst case
    return basis


def estimate_json(job: Job, estimate: Estimate, left: int | None = None) -> dict[str, Any]:
    """Return the `estimate` part of a summary; money as decimal strings in dollars.

    `cost_usd_low` and `cost_usd_high` bound the central 90 %; they are null without answers to learn from.
    `duration_s` is the least time for the `left` rows, by default for all; null if nothing bounds it.
    """
    duration = least_duration(job, estimate, left)
    return {
        "prompt_tokens": estimate.prompt_tokens,
        "completion_tokens_expected": estimate.completion_tokens_expected,
        "cost_usd_expected": usd_text(nano_to_usd(estimate.expected_nano)),
        "cost_usd_low": _usd(estimate.low_nano),
        "cost_usd_high": _usd(estimate.high_nano),
        "cost_usd_p90": usd_text(nano_to_usd(estimate.p90_nano)),
        "cost_usd_worst": usd_text(nano_to_usd(estimate.worst_nano)),
        "cost_usd_moved_expected": _usd(estimate.moved_expected_nano),
        "cost_usd_moved_worst": _usd(estimate.moved_worst_nano),
        "duration_s": None if duration is None else round(duration.seconds, 1),
        "basis": estimate.basis,
    }


def _usd(nano: int | None) -> str | None:
    return None if nano is None else usd_text(nano_to_usd(nano))


# What each key of an estimate means, for the documentation: those in a summary, and those of `estimate --json` alone.
ESTIMATE_KEYS = {
    "prompt_tokens": "prompt tokens of the rows to send, corrected by what services reported before",
    "completion_tokens_expected": "output tokens, predicted from earlier answers; without any, the most possible",
    "cost_usd_expected": "the expected cost; without earlier answers, the most that the run can cost",
    "cost_usd_low": "the lower end of the interval that holds nine times in ten; null without earlier answers",
    "cost_usd_high": "the upper end of that interval; null without earlier answers",
    "cost_usd_p90": "the cost that is not exceeded nine times in ten",
    "cost_usd_worst": "the most that the run can cost: every answer is as long as `max_output_tokens` allows",
    "cost_usd_moved_expected": "with `finish_by`, the expected cost if all rows move to the live lane; else null",
    "cost_usd_moved_worst": "with `finish_by`, the most that the run can cost in the live lane; else null",
    "duration_s": "the least time that limits and earlier latencies allow, in seconds; null if nothing is known",
    "basis": "what the costs are predicted from: `history`, `pilot`, or `worst_case`, which makes all of them the most",
}
FLAT_KEYS = {
    "rows": "rows of the output",
    "rows_to_send": "rows that need a request",
    "model": "the setting `model`",
    "fits_budget": "whether the cost fits the budget",
    "basis_note": "what the prediction is based on, in a sentence",
    "prompt_tokens_counted": "prompt tokens before the correction",
    "prompt_tokens_note": "why `prompt_tokens` is approximate; null if it is exact",
    "rows_reused": "rows whose answer an earlier run paid for",
    "reuse_note": "why nearly no row can be reused: the setting that changed",
    "input_note": "files that are left out, and columns that differ between files",
    "rows_rejected": "bad rows, which are never sent",
    "first_rejected": "the first bad row, and why it is bad",
    "prices_source": "the source of the prices",
    "prices_version": "the version and the day of the prices",
    "warning": "what the estimate warns about",
}


def flat_estimate(
    job: Job, estimate: Estimate, price: ModelPrice, *, fits: bool, left: int | None = None
) -> dict[str, Any]:
    """Return the flat mapping that `estimate --json` prints; `left` rows are to be sent, by default all."""
    return {
        "rows": estimate.rows,
        "rows_to_send": estimate.to_send,
        "model": job.model,
        **estimate_json(job, estimate, left),
        "fits_budget": fits,
        "basis_note": estimate.basis_note,
        "prompt_tokens_counted": estimate.counted_tokens,
        "prompt_tokens_note": estimate.tokens_note or None,
        "rows_reused": estimate.reused,
        "reuse_note": estimate.reuse_note,
        "input_note": ". ".join(estimate.input_notes) or None,
        "rows_rejected": sum(estimate.rejected.values()),
        "first_rejected": estimate.first_rejected,
        "prices_source": price.source,
        "prices_version": price.version,
    }
