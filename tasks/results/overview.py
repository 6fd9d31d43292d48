"""What the report shows of the rows of the results: timeline, distributions, failures, the slowest rows, samples.

It is made in one pass over the results, while they are written or when they are read again. The same results give the
same overview, however they are divided into batches. Memory does not grow with the rows: distributions and timeline are
bounded, and cells are kept of a few rows only, cut at `samples.MAX_CELL`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa

from parquill.tasks.results.distribution import Distribution, Whole
from parquill.tasks.results.report_plan import ReportPlan
from parquill.tasks.results.result_batch import NULL, Flags, ResultBatch, ShownRow
from parquill.tasks.results.samples import Draw
from parquill.tasks.results.timeline import Timeline

SAMPLED = 10  # random rows, longest answers
SLOWEST = 5
EXAMPLES = 3  # rows of each error code


@dataclass(slots=True)
class Top:
    """The rows with the greatest values, greatest first; of equal values the first rows."""

    count: int
    found: list[tuple[int, ShownRow]] = field(default_factory=list)

    def add(self, batch: ResultBatch, values: Whole) -> None:
        """Consider the rows of a batch by their values; NULL is no candidate."""
        least = self.found[-1][0] if len(self.found) == self.count else NULL
        better = np.flatnonzero(values > least)
        best = better[np.argsort(-values[better], kind="stable")][: self.count]
        if len(best):
            new = [(int(values[index]), batch.row(int(index))) for index in best]
            self.found = sorted([*self.found, *new], key=lambda each: -each[0])[: self.count]

    @property
    def rows(self) -> list[ShownRow]:
        """The rows, greatest value first."""
        return [row for _, row in self.found]


@dataclass(slots=True)
class Overview:
    """The overview of the results of run `run_id`; distributions and timeline are of the rows that it paid for."""

    run_id: str
    plan: ReportPlan
    lengths: Distribution = field(default_factory=Distribution)  # output tokens
    latencies_us: Distribution = field(default_factory=Distribution)
    costs_nano: Distribution = field(default_factory=Distribution)
    timeline: Timeline = field(default_factory=Timeline)
    failures: dict[str, list[ShownRow]] = field(default_factory=dict)  # the first rows of each error code
    slowest: Top = field(default_factory=lambda: Top(SLOWEST))
    longest: Top = field(default_factory=lambda: Top(SAMPLED))  # answers, by their characters
    random: list[ShownRow] = field(default_factory=list)
    _draw: Draw = field(init=False)

    def __post_init__(self) -> None:
        # promise: report: the run decides which rows are sampled
        self._draw = Draw(SAMPLED, self.run_id)

    @classmethod
    def of(cls, run_id: str, plan: ReportPlan, batches: Iterable[pa.RecordBatch]) -> Self:
        """Make the overview of results that were written before. Raises what reading them raises."""
        made = cls(run_id, plan)
        for batch in batches:
            made.add(batch)
        return made

    def add_table(self, table: pa.Table) -> None:
        """Add rows of the results, in their order."""
        for batch in table.to_batches():
            self.add(batch)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows of the results, in their order."""
        rows = ResultBatch(batch, self.plan)
        ok, costs = rows.equals("status", "ok"), rows.costs_nano()
        # promise: report: rows that other runs paid for are not in the distributions
        is_own = rows.equals("run_id", self.run_id)
        is_answered = is_own & ~rows.is_true("reused") & rows.is_set("completion")
        self.lengths.add(np.maximum(rows.whole("completion_tokens")[is_answered], 0))
        latencies = np.where(is_answered, rows.latencies_us(), NULL)
        self.latencies_us.add(latencies[latencies >= 0])
        self.costs_nano.add(costs[is_answered])
        is_finished = is_own & rows.is_set("finished_at")
        self.timeline.add(rows.whole("finished_at")[is_finished], ok[is_finished].astype(np.int64), costs[is_finished])
        self.slowest.add(rows, latencies)
        self.longest.add(rows, rows.answer_lengths())
        self._take_failures(rows, ok)
        for index in range(batch.num_rows):
            if (slot := self._draw.next_slot()) is not None:
                self.random[slot : slot + 1] = [rows.row(index)]

    def _take_failures(self, rows: ResultBatch, ok: Flags) -> None:
        failed = np.flatnonzero(~ok)
        if not len(failed):
            return
        codes = rows.codes()
        for index in failed.tolist():
            examples = self.failures.setdefault(codes[index] or "", [])
            if len(examples) < EXAMPLES:
                examples.append(rows.row(index))
