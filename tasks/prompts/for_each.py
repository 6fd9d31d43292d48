"""The values of `for_each`: each input row makes one row per combination of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa

from parquill.tasks.job.resolved import ResolvedJob


def for_each_field(name: str, values: list[Any]) -> pa.Field:
    """Return the column of one `for_each` name."""
    kinds: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return pa.field(name, kinds.get(type(values[0]), pa.string()))


class ForEach:
    """Repeats the rows of an input for the combinations of a job's `for_each`."""

    def __init__(self, job: ResolvedJob, schema: pa.Schema) -> None:
        """`schema` is the input's."""
        self._schema = schema
        self._values = job.for_each or {}
        self.combinations = list(itertools.product(*self._values.values()))

    def repeat(self, batch: pa.RecordBatch, start: int, count: int) -> pa.RecordBatch:
        """Return `count` of the rows that come of some input rows, from `start` on, with the columns of `for_each`."""
        repeats = len(self.combinations)
        batch = batch.slice(start, count) if repeats == 1 else _repeat(batch, start, count, repeats)
        arrays, fields = list(batch.columns), list(batch.schema)
        chosen = [self.combinations[index % repeats] for index in range(start, start + count)]
        for index, (name, values) in enumerate(self._values.items()):
            column = for_each_field(name, values)
            arrays.append(pa.array([combination[index] for combination in chosen], column.type))
            fields.append(column)
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, self._schema.metadata))

    def empty(self) -> pa.RecordBatch:
        """Return a batch without rows, with the columns of `for_each`."""
        batches = self._schema.empty_table().to_batches()
        return self.repeat(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=self._schema), 0, 0)


def _repeat(batch: pa.RecordBatch, start: int, count: int, times: int) -> pa.RecordBatch:
    """Return `count` rows from `start` on, where each row comes `times` times.

    Arrow cannot take from views, but can concatenate them.
    """
    indices = pa.array(np.arange(start, start + count) // times)
    arrays = []
    for column in batch.columns:
        try:
            arrays.append(column.take(indices))
        except pa.ArrowNotImplementedError:
            arrays.append(pa.concat_arrays([column.slice(index, 1) for index in indices.to_pylist()]))
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)
