"""Step 6, summarize: summary.json, report and artifacts, and how the run ended."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

from prefect import task

from parquill.tasks.disk.result_rows import RowSums
from parquill.tasks.disk.run import Run
from parquill.tasks.disk.summary import make_summary, write_summary
from parquill.tasks.ending import Ending, clear_run, end_of, warning_of
from parquill.tasks.errors import LedgerFailed
from parquill.tasks.money.learned import keep_counts
from parquill.tasks.money.month import month_figures
from parquill.tasks.money.past import keep_past
from parquill.tasks.steps import STEP
from parquill.tasks.ui import show_summary
from parquill.tasks.unforeseen import tells_no_data


@task(name="summarize", **STEP)
@tells_no_data
def summarize_run(run: Run, sums: RowSums, ending: Ending) -> dict[str, Any]:
    """Write the summary and give it. Raises StoppedByBudget, ServiceStopped or TooManyNotOk after that."""
    error = end_of(run, sums, ending)
    summary = make_summary(
        run,
        sums,
        run.totals(),
        state="stopped" if ending.is_stop else "finished",
        exit_code=error.exit_code if error else 0,
        finished_at=datetime.now(UTC),
        month=month_figures(run.run_id),
        message=str(error) if error else warning_of(run, sums),
    )
    keep_past(run.job, run.run_id, sums.history, None if ending.is_stop else datetime.now(UTC))
    write_summary(run, sums, summary)
    with contextlib.suppress(LedgerFailed):  # a lesson lost costs nothing but the lesson
        keep_counts(run.job, run.run_id, sums.compared.classes)
    if not ending.is_stop:
        clear_run(run)
    show_summary(run, sums, summary)
    if error is not None:
        raise error
    return summary
