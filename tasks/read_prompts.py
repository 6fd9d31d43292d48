"""Step 1, read: from the input to shards of rendered, counted, keyed requests."""

from __future__ import annotations

from functools import partial

from prefect import task

from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.abandoned import collect_abandoned
from parquill.tasks.orchestration.options import TASK_OPTIONS
from parquill.tasks.orchestration.redaction import redact_errors
from parquill.tasks.orchestration.run_log import run_log
from parquill.tasks.orchestration.ui import name_run, run_name
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.run import Run


@task(name="read", **TASK_OPTIONS)
@redact_errors
def read_prompts(job: ResolvedJob, options: RunOptions) -> Run | None:
    """Plan a run, or find the one to resume; return None if there is nothing to do. Raises BadJob, BadInput."""
    run = prepare_run(job, options, collect=partial(collect_abandoned, log=run_log()))
    if run is not None:
        name_run(run_name(job, run.estimate.rows))
    return run
