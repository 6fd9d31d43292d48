"""Step 3, gate: let the run pass, or refuse it with both numbers, cost and budget."""

from __future__ import annotations

from prefect import get_run_logger, task

from parquill.tasks.job.api_key import read_keys
from parquill.tasks.money.gate import pass_gate
from parquill.tasks.orchestration.options import TASK_OPTIONS
from parquill.tasks.orchestration.redaction import redact_errors
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import Standing


@task(name="gate", **TASK_OPTIONS)
@redact_errors
def gate_budget(run: Run, standing: Standing) -> None:
    """Let the run pass if its cost fits. Raises RefusedByBudget, BadJob."""
    # find a missing key before the run counts as begun
    read_keys(run.job)
    verdict = standing.verdict
    pass_gate(run.job, run.estimate, verdict)
    logger = get_run_logger()
    logger.info(verdict.sentence)
    if verdict.warning:
        logger.warning(verdict.warning)
