"""Step 5, write: turn shards and journals into the parts of results/."""

from __future__ import annotations

from prefect import task

from parquill.tasks.orchestration.options import TASK_OPTIONS
from parquill.tasks.orchestration.redaction import redact_errors
from parquill.tasks.prompts.run import Run
from parquill.tasks.results.totals import ResultTotals
from parquill.tasks.results.writer import write_results as write_parts


@task(name="write", **TASK_OPTIONS)
@redact_errors
def write_results(run: Run, *, over_budget: bool) -> ResultTotals:
    """Write one result row for each planned row, then publish all parts at once. Raises DiskFailed, DamagedJournal."""
    sums, _ = write_parts(run, budget_short=over_budget)
    return sums
