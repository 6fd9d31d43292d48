"""Step 2, estimate: what the rows that are to be sent will cost."""

from __future__ import annotations

from prefect import task

from parquill.tasks.orchestration.events import emit_estimate
from parquill.tasks.orchestration.options import TASK_OPTIONS
from parquill.tasks.orchestration.redaction import redact_errors
from parquill.tasks.orchestration.ui import show_estimate
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import Standing, read_standing


@task(name="estimate", **TASK_OPTIONS)
@redact_errors
def estimate_cost(run: Run) -> Standing:
    """Hold the estimate that was counted while reading against the budgets, and show it as an artifact.

    Returns how the run stands before its first payment. Raises LedgerFailed.
    """
    standing = read_standing(run)
    show_estimate(run.job, run.estimate, standing.verdict, run.price)
    emit_estimate(run.job, run.estimate, standing.verdict, run.run_id)
    return standing
