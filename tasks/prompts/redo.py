"""What `--redo` and `--limit` keep: the earlier results of one batch, beside the rows that are open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from parquill.tasks.money.amounts import usd_to_nano
from parquill.tasks.prompts.cells import cells
from parquill.tasks.records import REUSABLE, Outcome, PlannedRow, Usage


class PreviousRows:
    """Which rows of a batch are open (`redo`), and what the others were."""

    def __init__(self, table: pa.Table, prefix: str, redo: frozenset[str]) -> None:
        """`table` holds the results' own columns; `redo` are the statuses of rows that are done again."""
        self._table = table.combine_chunks()
        self._prefix = prefix
        self._statuses: list[str] = self._table.column(f"{prefix}status").to_pylist()
        self.redo = [status in redo for status in self._statuses]

    def close_after(self, rows: int) -> None:
        """Keep all but the first rows, whatever they are."""
        self.redo[rows:] = [False] * len(self.redo[rows:])

    def open_unsettled(self, rows: Sequence[PlannedRow], *, hold: bool) -> None:
        """Without `--redo` a row is open that asks something else now, or has no outcome that a next run keeps."""
        keys = self._table.column(f"{self._prefix}request_key").to_pylist()
        doubts = self._table.column(f"{self._prefix}in_doubt_usd").to_pylist()
        for place, (row, status) in enumerate(zip(rows, self._statuses, strict=True)):
            if row.fault is not None:
                is_settled = status == "rejected"
            else:
                is_held = hold and status == "failed" and doubts[place] > 0
                is_asked = row.key is not None and row.key.hex() == keys[place]
                is_settled = is_asked and (status in REUSABLE or is_held)
            self.redo[place] = not is_settled

    def answered_at(self, place: int) -> int | None:
        """When the answer that the row shows came, in microseconds since 1970; None if it shows none."""
        if self._statuses[place] not in REUSABLE:
            return None
        moment: int | None = self._table.column(f"{self._prefix}finished_at")[place].cast(pa.int64()).as_py()
        return moment

    def struct(self) -> pa.Array:
        """The results' own columns as one struct column, null where a row is done anew."""
        columns = [_one(self._table.column(name)) for name in self._table.column_names]
        fields = [self._table.schema.field(name) for name in self._table.column_names]
        return pa.StructArray.from_arrays(columns, fields=fields, mask=pa.array(self.redo, pa.bool_()))

    def carried(self, place: int) -> Outcome:
        """What the row cost so far."""
        row = {
            name.removeprefix(self._prefix): self._table.column(name)[place].as_py()
            for name in self._table.column_names
            if name.removeprefix(self._prefix) != "parsed"
        }
        return prior_charge(row)


def prior_charge(row: Mapping[str, Any]) -> Outcome:
    """What a row of the results cost, by its columns without prefix."""
    tokens = [row[f"{kind}_tokens"] for kind in Usage._fields]
    mine = not row["reused"]
    return Outcome(
        row=0,
        key="",
        status=row["status"],
        cost_nano=usd_to_nano(row["cost_usd"]),
        in_doubt_nano=usd_to_nano(row["in_doubt_usd"]),
        attempts=row["attempts"],
        usage=Usage(*(count or 0 for count in tokens)) if mine and tokens[0] is not None else None,
    )


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def first_differing_column(given: pa.RecordBatch, table: pa.Table) -> str | None:
    """The first column whose cells are not, row by row, those of the results; None if the rows are the same.

    A row is known by all that it was given, so an input that was exported anew in another order, or the values of
    `for_each` in another one, never get the answers of other rows.
    """
    for name, column in zip(given.schema.names, given.columns, strict=True):
        before = table.column(name)
        if before.type == column.type and pa.chunked_array([column]).equals(before):
            continue
        # Arrow holds no NaN for equal to another, nor a value of one type to the same of another
        if repr(cells(column)) != repr([cell for chunk in before.chunks for cell in cells(chunk)]):
            return str(name)
    return None
