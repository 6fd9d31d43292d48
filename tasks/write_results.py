"""Step 5, write: shards and journals become the parts of results/."""

from __future__ import annotations

from prefect import task

from parquill.tasks.disk.results import write_results as write_parts
from parquill.tasks.disk.row_sums import RowSums
from parquill.tasks.disk.run import Run
from parquill.tasks.steps import STEP
from parquill.tasks.unforeseen import tells_no_data


@task(name="write", **STEP)
@tells_no_data
def write_results(run: Run, *, over_budget: bool) -> RowSums:
    """Write one line for each planned row and swap the parts in. Raises DiskFailed, DamagedJournal."""
    sums, _ = write_parts(run, budget_short=over_budget)
    return sums
