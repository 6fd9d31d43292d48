"""What `--redo` and `--limit` keep: the earlier results of one batch, and which of its rows are open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from parquill.tasks.money.amounts import usd_to_nano
from parquill.tasks.prompts.cells import cells
from parquill.tasks.records import REUSABLE, Charge, PlannedRow, Usage


class PreviousRows:
    """Which rows of a batch are open (`redo`), and the earlier results of the others."""

    def __init__(self, table: pa.Table, prefix: str, redo: frozenset[str]) -> None:
        """`table` holds the results' own columns; `redo` are the statuses of rows to do again."""
        self._table = table.combine_chunks()
        self._prefix = prefix
        self._statuses: list[str] = self._table.column(f"{prefix}status").to_pylist()
        self.redo = [status in redo for status in self._statuses]

    def close_after(self, rows: int) -> None:
        """Keep all rows after the first `rows`, whatever their status."""
        self.redo[rows:] = [False] * len(self.redo[rows:])

    def open_unsettled(self, rows: Sequence[PlannedRow], *, hold: bool) -> None:
        """Without `--redo`, open the rows with a changed request, and those without an outcome that a run keeps."""
        keys = self._table.column(f"{self._prefix}request_key").to_pylist()
        doubts = self._table.column(f"{self._prefix}in_doubt_usd").to_pylist()
        for index, (row, status) in enumerate(zip(rows, self._statuses, strict=True)):
            if row.fault is not None:
                is_settled = status == "rejected"
            else:
                is_held = hold and status == "failed" and doubts[index] > 0
                is_asked = row.key is not None and row.key.hex() == keys[index]
                is_settled = is_asked and (status in REUSABLE or is_held)
            self.redo[index] = not is_settled

    def answered_at(self, index: int) -> int | None:
        """Return when the row's shown answer came, in microseconds since 1970; None if it shows no answer."""
        if self._statuses[index] not in REUSABLE:
            return None
        moment: int | None = self._table.column(f"{self._prefix}finished_at")[index].cast(pa.int64()).as_py()
        return moment

    def struct(self) -> pa.Array:
        """Return the results' own columns as one struct column; null for rows that are done again."""
        columns = [_one(self._table.column(name)) for name in self._table.column_names]
        fields = [self._table.schema.field(name) for name in self._table.column_names]
        return pa.StructArray.from_arrays(columns, fields=fields, mask=pa.array(self.redo, pa.bool_()))

    def prior(self, index: int) -> Charge:
        """Return what the row has cost so far."""
        row = {
            name.removeprefix(self._prefix): self._table.column(name)[index].as_py()
            for name in self._table.column_names
            if name.removeprefix(self._prefix) != "parsed"
        }
        return prior_charge(row)


def prior_charge(row: Mapping[str, Any]) -> Charge:
    """Return what a row of the results has cost, by its columns without prefix."""
    tokens = [row[f"{kind}_tokens"] for kind in Usage._fields]
    mine = not row["reused"]
    return Charge(
        cost_nano=usd_to_nano(row["cost_usd"]),
        in_doubt_nano=usd_to_nano(row["in_doubt_usd"]),
        attempts=row["attempts"],
        usage=Usage(*(count or 0 for count in tokens)) if mine and tokens[0] is not None else None,
    )


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def first_differing_column(given: pa.RecordBatch, table: pa.Table) -> str | None:
    """Return the first column whose cells differ from those of the results; None if all rows are the same.

    A row is identified by all its input columns. So after another export in another order, or another order of the
    values of `for_each`, no row gets the answer of another row.
    """
    for name, column in zip(given.schema.names, given.columns, strict=True):
        before = table.column(name)
        if before.type == column.type and pa.chunked_array([column]).equals(before):
            continue
        # to Arrow no NaN equals another, and no value of one type equals the same value of another type
        if repr(cells(column)) != repr([cell for chunk in before.chunks for cell in cells(chunk)]):
            return str(name)
    return None
