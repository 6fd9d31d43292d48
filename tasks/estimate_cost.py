"""Step 2, estimate: what the rows that are to be sent will cost."""

from __future__ import annotations

from prefect import task

from parquill.tasks.money.gate import check_budget, spent_by_others
from parquill.tasks.orchestration.events import emit_estimate
from parquill.tasks.orchestration.options import TASK_OPTIONS
from parquill.tasks.orchestration.redaction import redact_errors
from parquill.tasks.orchestration.ui import show_estimate
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import spent_totals
from parquill.tasks.records import Estimate


@task(name="estimate", **TASK_OPTIONS)
@redact_errors
def estimate_cost(run: Run) -> Estimate:
    """Return the estimate that was counted while reading, and show it as an artifact."""
    month = spent_by_others(run.job, run.run_id)
    verdict = check_budget(run.job, run.estimate, run.price, spent_totals(run), month)
    show_estimate(run.job, run.estimate, verdict, run.price)
    emit_estimate(run.job, run.estimate, verdict, run.run_id)
    return run.estimate
