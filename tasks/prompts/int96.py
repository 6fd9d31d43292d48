"""INT96 timestamps, as Spark, Hive and Impala write them: a day and the nanoseconds in it.

Nanoseconds in 64 bits only reach from 1677 to 2262: Spark's 9999-12-31 would become a day of 1816. So they are read
as microseconds, Spark's own unit. Timestamps that do not fit into microseconds (a fraction of one, or a year beyond
292,000) are found by reading these columns in other units too, and are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

_MAX_SECONDS = (2**63 - 1) // 1_000_000


class Inexact(Exception):
    """A timestamp that microseconds cannot hold: the name of its column, and its row as exactly as it is known."""

    def __init__(self, column: str, row: int, *, is_first: bool) -> None:
        super().__init__(column)
        self.column = column
        self.place = f"row {row}" if is_first else f"row {row} or later"


def int96_columns(parquet: pq.ParquetFile) -> list[str]:
    """Return the columns of a file that hold INT96 timestamps, also within lists and structs."""
    schema = parquet.schema
    paths = [schema.column(i).path for i in range(len(schema)) if schema.column(i).physical_type == "INT96"]
    return [
        name
        for name in parquet.schema_arrow.names
        if any(path == name or path.startswith(f"{name}.") for path in paths)
    ]


class ExactTimes:
    """A context that compares the INT96 timestamps of a file in three units, as its rows are read."""

    def __init__(self, names: Collection[str], rows: int, open_in: Callable[[str], pq.ParquetFile]) -> None:
        """`rows` is how many rows are compared at once; `open_in` opens the file with INT96 in a unit."""
        self._names, self._row, self._next = list(names), 0, 0
        self._open = contextlib.ExitStack()
        self._batches: Iterator[tuple[pa.RecordBatch, ...]] = iter(())
        if self._names:
            files = [self._open.enter_context(open_in(unit)) for unit in ("us", "ns", "s")]
            self._batches = zip(*(file.iter_batches(rows, columns=self._names) for file in files), strict=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def check(self, rows: int) -> None:
        """Compare the next rows. Raises Inexact, and the errors of reading."""
        self._row += rows
        while self._names and self._next < self._row and (batches := next(self._batches, None)) is not None:
            for name in self._names:
                self._compare(name, *(batch.column(name) for batch in batches))
            self._next += batches[0].num_rows

    def _compare(self, name: str, micros: pa.Array, nanos: pa.Array, seconds: pa.Array) -> None:
        for us, ns, s in zip(_leaves(micros), _leaves(nanos), _leaves(seconds), strict=True):
            # both sides are modulo 2**64
            # promise: input: an INT96 timestamp finer than a microsecond is refused, not truncated
            # promise: input: an INT96 timestamp out of range is refused and does not wrap around
            inexact = np.flatnonzero((us * 1_000 != ns) | (np.abs(s) > _MAX_SECONDS))
            if len(inexact):
                is_flat = pa.types.is_timestamp(micros.type)
                raise Inexact(name, self._next + (int(inexact[0]) if is_flat else 0), is_first=is_flat)


def _leaves(column: pa.Array) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the timestamps in a column as whole numbers, nulls as 0."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        yield column.cast(pa.int64()).fill_null(0).to_numpy()
    elif pa.types.is_struct(kind):
        for part in column.flatten():
            yield from _leaves(part)
    elif pa.types.is_map(kind):
        yield from _leaves(column.keys)
        yield from _leaves(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _leaves(column.flatten())
