"""Step 3, gate: let the run pass, or refuse it with both numbers, cost and budget."""

from __future__ import annotations

from prefect import get_run_logger, task

from parquill.tasks.job.api_key import read_key
from parquill.tasks.money.gate import pass_gate, spent_by_others
from parquill.tasks.orchestration.options import TASK_OPTIONS
from parquill.tasks.orchestration.redaction import redact_errors
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import spent_totals
from parquill.tasks.records import Estimate


@task(name="gate", **TASK_OPTIONS)
@redact_errors
def gate_budget(run: Run, estimate: Estimate) -> None:
    """Let the run pass if its cost fits. Raises RefusedByBudget, BadJob."""
    # find a missing key before the run counts as begun
    read_key(run.job.endpoint)
    # promise: M5 the budget gate counts the amounts that a person resolved
    verdict = pass_gate(run.job, estimate, run.price, spent_totals(run), spent_by_others(run.job, run.run_id))
    logger = get_run_logger()
    logger.info(verdict.sentence)
    if verdict.warning:
        logger.warning(verdict.warning)
