"""A batch of result rows as whole numbers, and single rows of it as texts to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from parquill.tasks.results.distribution import Whole
from parquill.tasks.results.report_plan import ReportPlan
from parquill.tasks.results.samples import OWN_COLUMNS, Cell, cell_of
from parquill.tasks.storage.published import prefix_of

MAX_COLUMNS = 8  # input columns of a row that is shown
NULL = -1  # stands for a null among whole numbers

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row: where it is, how it ended, what it cost (nano-dollars), and its cells."""

    source_file: str
    row_number: int
    id: Cell | None  # None without `id_column`
    for_each: tuple[str, ...]
    status: str
    error_code: str | None
    error_message: str | None
    tokens: int | None  # of the answer
    cost_nano: int
    latency_s: float | None
    reused: bool
    answer: Cell
    cells: tuple[tuple[str, Cell], ...]
    more_columns: int = 0  # input columns that are not among `cells`


class ResultBatch:
    """Rows of the results, read column by column."""

    def __init__(self, batch: pa.RecordBatch, plan: ReportPlan) -> None:
        self._batch, self._plan = batch, plan
        self._prefix = prefix_of(batch.schema.names)
        own = {self._prefix + name for name in OWN_COLUMNS}
        given = [name for name in batch.schema.names if name not in own and name not in plan.for_each]
        # the columns of the prompt explain the answer; without any, the first ones
        wanted = [name for name in plan.columns if name in given] or given
        self._shown = [name for name in wanted if name != plan.id_column][:MAX_COLUMNS]
        self._more = len([name for name in given if name not in self._shown and name != plan.id_column])

    def column(self, name: str) -> pa.Array:
        """Return one of Parquill's columns by its name without prefix."""
        return self._batch.column(self._prefix + name)

    def equals(self, name: str, value: str) -> Flags:
        """Return where a text column has a value."""
        return _flags(pc.fill_null(pc.equal(self.column(name), value), fill_value=False))

    def is_true(self, name: str) -> Flags:
        """Return where a column of truth values is true."""
        return _flags(pc.fill_null(self.column(name), fill_value=False))

    def is_set(self, name: str) -> Flags:
        """Return where a column is not null."""
        return _flags(self.column(name).is_valid())

    def whole(self, name: str) -> Whole:
        """Return a column of whole numbers or times (microseconds since 1970), NULL for a null."""
        return _whole(self.column(name).cast(pa.int64()))

    def latencies_us(self) -> Whole:
        """Return the latencies in microseconds, NULL for a null."""
        seconds = pc.fill_null(self.column("latency_s"), NULL / 1e6).to_numpy(zero_copy_only=False)
        known = np.nan_to_num(seconds, nan=NULL / 1e6, posinf=NULL / 1e6)
        return np.asarray(np.rint(known * 1e6), dtype=np.int64)

    def costs_nano(self) -> Whole:
        """Return the cost of each row in nano-dollars: the unscaled integers of decimals with nine digits."""
        costs = self.column("cost_usd")
        words = np.frombuffer(costs.buffers()[1], dtype=np.int64)
        found: Whole = words[2 * costs.offset : 2 * (costs.offset + len(costs)) : 2].copy()
        return found

    def answer_lengths(self) -> Whole:
        """Return the characters of each answer, NULL for a null."""
        return _whole(pc.utf8_length(self.column("completion")).cast(pa.int64()))

    def codes(self) -> list[str | None]:
        """Return the error code of each row."""
        found: list[str | None] = self.column("error_code").to_pylist()
        return found

    def row(self, index: int) -> ShownRow:
        """Return a row to look at."""
        own = {
            name: self.column(name)[index].as_py()
            for name in (
                *("source_file", "row_number", "status", "error_code", "error_message", "completion_tokens"),
                *("cost_usd", "latency_s", "reused"),
            )
        }
        place = self._plan.id_column
        return ShownRow(
            source_file=own["source_file"],
            row_number=own["row_number"],
            id=None if place is None or place not in self._batch.schema.names else self._cell(place, index),
            for_each=tuple(self._cell(name, index).text or "" for name in self._plan.for_each),
            status=own["status"],
            error_code=own["error_code"],
            error_message=own["error_message"],
            tokens=own["completion_tokens"],
            cost_nano=int(own["cost_usd"].scaleb(9)),
            latency_s=own["latency_s"],
            reused=bool(own["reused"]),
            answer=cell_of(self.column("completion"), index),
            cells=tuple((name, self._cell(name, index)) for name in self._shown),
            more_columns=self._more,
        )

    def _cell(self, name: str, index: int) -> Cell:
        return cell_of(self._batch.column(name), index)


def _flags(array: pa.Array) -> Flags:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _whole(array: pa.Array) -> Whole:
    return np.asarray(pc.fill_null(array, NULL).to_numpy(zero_copy_only=False), dtype=np.int64)
