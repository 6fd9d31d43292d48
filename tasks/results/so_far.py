"""The results of a run that has not finished: the rows that have their outcome, as the finished run will show them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from parquill.tasks.prompts.run import Run
from parquill.tasks.results.rows import ResultRows
from parquill.tasks.results.totals import ResultTotals
from parquill.tasks.storage.answer_index import open_answers


def rows_so_far(run: Run) -> Iterator[pa.RecordBatch]:
    """Yield the rows that have their outcome, in input order; nothing is written or sent.

    The run may be under way in another process. Raises DamagedJournal, DiskFailed.
    """
    with contextlib.closing(open_answers(run.folders)) as answers:
        rows = ResultRows(run, answers, ResultTotals(), "stopped")
        for shard in run.shards:
            for table in rows.of_shard(shard, finished_only=True):
                yield from table.to_batches()
