"""Step 6, summarize: summary.json, report and artifacts, and how the run ended."""

from __future__ import annotations

from typing import Any

from prefect import task

from parquill.tasks.errors import StoppedByBudget
from parquill.tasks.llm.shard_report import SendResult
from parquill.tasks.orchestration.events import emit_end
from parquill.tasks.orchestration.flow_run import wait_for_server
from parquill.tasks.orchestration.options import TASK_OPTIONS
from parquill.tasks.orchestration.redaction import redact_errors
from parquill.tasks.orchestration.ui import name_run, run_name, show_summary
from parquill.tasks.prompts.run import Run
from parquill.tasks.results.finish import finish_run
from parquill.tasks.results.totals import ResultTotals


@task(name="summarize", **TASK_OPTIONS)
@redact_errors
def summarize_run(run: Run, sums: ResultTotals, ending: SendResult) -> dict[str, Any]:
    """Write the summary and return it. Raises StoppedByBudget, ServiceStopped or TooManyNotOk afterwards."""
    summary, error = finish_run(run, sums, ending)
    # promise: P5 a deployed run waits for its server before it ends
    wait_for_server()  # the files are complete by now
    name_run(run_name(run.job, run.estimate.rows))  # again: the server may have been away the first time
    show_summary(run, sums, summary)
    emit_end(run, summary, is_short=isinstance(error, StoppedByBudget))
    if error is not None:
        raise error
    return summary
