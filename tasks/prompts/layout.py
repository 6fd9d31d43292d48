"""The columns of a shard: the input's own, those of `for_each`, the plan's, and the results that `--redo` keeps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from parquill.tasks.job.settings import Job
from parquill.tasks.prompts.input_parquet import SourceFile
from parquill.tasks.prompts.redo import PreviousRows
from parquill.tasks.records import NO_CHARGE, Action, PlannedRow
from parquill.tasks.storage.columns import PLAN, PLAN_FIELDS, for_each_field


class ShardLayout:
    """Builds the columns of the shards of a job from planned rows."""

    def __init__(self, job: Job, schema: pa.Schema) -> None:
        """`schema` is the input's."""
        self._schema = schema
        self._is_bare = job.endpoint.api == "completions"
        self._each = job.for_each or {}
        # of the values of `for_each`; each input row makes one row per combination
        self.combinations = list(itertools.product(*self._each.values()))

    def with_for_each(self, batch: pa.RecordBatch, start: int, count: int) -> pa.RecordBatch:
        """Return `count` of the rows that come of some input rows, from `start` on, with the columns of `for_each`."""
        repeats = len(self.combinations)
        batch = batch.slice(start, count) if repeats == 1 else _repeat(batch, start, count, repeats)
        arrays, fields = list(batch.columns), list(batch.schema)
        chosen = [self.combinations[place % repeats] for place in range(start, start + count)]
        for place, (name, values) in enumerate(self._each.items()):
            column = for_each_field(name, values)
            arrays.append(pa.array([combination[place] for combination in chosen], column.type))
            fields.append(column)
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, self._schema.metadata))

    def to_batch(
        self, given: pa.RecordBatch, file: SourceFile, rows: Sequence[PlannedRow], kept: PreviousRows | None
    ) -> pa.RecordBatch:
        """Return the `given` rows of a file with all their columns."""
        arrays, fields = list(given.columns), list(given.schema)
        plan = self._plan(rows, file)
        for name, kind in PLAN_FIELDS.items():
            arrays.append(pa.array(plan[name], kind))
            fields.append(pa.field(PLAN + name, kind))
        if kept is not None:
            arrays.append(kept.struct())
            fields.append(pa.field(PLAN + "kept", arrays[-1].type))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, self._schema.metadata))

    def empty(self, file: SourceFile, kept: PreviousRows | None) -> pa.RecordBatch:
        """Return a batch without rows, with all columns."""
        batches = self._schema.empty_table().to_batches()
        none = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=self._schema)
        return self.to_batch(self.with_for_each(none, 0, 0), file, [], kept)

    def _plan(self, rows: Sequence[PlannedRow], file: SourceFile) -> dict[str, list[Any]]:
        reserved = [row.reservation or (None, None, None) for row in rows]
        return {
            "action": [int(row.action) for row in rows],
            "source_file": [file.name] * len(rows),
            "row_number": [row.number for row in rows],
            "request_key": [row.key for row in rows],
            "messages": [self._messages(row) if row.action is Action.SEND else None for row in rows],
            "parameters": [
                orjson.dumps(row.parameters).decode() if row.parameters and row.action is Action.SEND else None
                for row in rows
            ],
            "prompt_tokens": [row.prompt_tokens for row in rows],
            "reserved_tokens": [tokens for tokens, _, _ in reserved],
            "worst_nano": [worst for _, worst, _ in reserved],
            "expected_prompt_tokens": [expected for _, _, expected in reserved],
            "carries_cost": [row.carries_cost for row in rows],
            "error_code": [row.fault.code if row.fault else None for row in rows],
            "error_message": [row.fault.message if row.fault else None for row in rows],
            "prior": [None if row.prior == NO_CHARGE else asdict(row.prior) for row in rows],
            "newer_than": [row.newer_than for row in rows],
        }

    def _messages(self, row: PlannedRow) -> str | None:
        if row.messages is None:
            return None
        return orjson.dumps(row.messages[-1]["content"] if self._is_bare else row.messages).decode()


def _repeat(batch: pa.RecordBatch, start: int, count: int, times: int) -> pa.RecordBatch:
    """Return `count` rows from `start` on, where each row comes `times` times.

    Arrow cannot take from views, but can concatenate them.
    """
    places = pa.array(np.arange(start, start + count) // times)
    arrays = []
    for column in batch.columns:
        try:
            arrays.append(column.take(places))
        except pa.ArrowNotImplementedError:
            arrays.append(pa.concat_arrays([column.slice(place, 1) for place in places.to_pylist()]))
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)
