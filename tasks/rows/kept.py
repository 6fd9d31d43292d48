"""What `--redo` keeps: the earlier results of one batch, beside the rows that are done anew."""

from __future__ import annotations

import pyarrow as pa

from parquill.tasks.money.prices import nano_of
from parquill.tasks.records import Outcome, Usage
from parquill.tasks.rows.cells import cells


class Kept:
    """Which rows of a batch are done anew (`redo`), and what the others were."""

    def __init__(self, table: pa.Table, prefix: str, redo: frozenset[str]) -> None:
        """`table` holds the results' own columns."""
        self._table = table.combine_chunks()
        self._prefix = prefix
        self.redo = [status in redo for status in self._table.column(f"{prefix}status").to_pylist()]

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
        tokens = [row[f"{kind}_tokens"] for kind in Usage._fields]
        mine = not row["reused"]
        return Outcome(
            row=0,
            key="",
            status=row["status"],
            cost_nano=nano_of(row["cost_usd"]),
            in_doubt_nano=nano_of(row["in_doubt_usd"]),
            attempts=row["attempts"],
            usage=Usage(*(count or 0 for count in tokens)) if mine and tokens[0] is not None else None,
        )


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def other_column(given: pa.RecordBatch, table: pa.Table) -> str | None:
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
