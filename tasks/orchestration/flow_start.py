"""What a flow does before its first step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.settings import Job
from parquill.tasks.orchestration.states import state_of_idle
from parquill.tasks.orchestration.takeover import report_previous_end
from parquill.tasks.orchestration.ui import name_run, run_name
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.results.completed_run import CompletedRun
from parquill.tasks.results.tolerance import NothingToDo
from parquill.tasks.storage.folders import Folders, lock_folders


def resolve_for_flow(
    job: Job, day: date | None, limit: int | None, redo: Sequence[str] | None
) -> tuple[ResolvedJob, RunOptions]:
    """Resolve a job's paths and options for the flow run's scheduled time. Raises BadJob."""
    scheduled: datetime | None = flow_run.scheduled_start_time
    return resolve_job(job, day, limit, redo, now=scheduled)


@contextlib.contextmanager
def job_lock(job: ResolvedJob) -> Iterator[None]:
    """Lock the folders of a job. Raises FolderInUse, DiskFailed."""
    folders = Folders.of(job.output, job.state)
    folders.create()
    with lock_folders(folders, f"the job {job.name}"):
        yield


def end_idle(job: ResolvedJob, options: RunOptions) -> State[Any]:
    """Return the final state of a job that has nothing to do; the flow run is named like any other."""
    idle = NothingToDo.of(job, options.redo, options.limit)
    report_previous_end(Folders.of(job.output, job.state))
    name_run(run_name(job, idle.rows["total"]))
    return state_of_idle(idle, CompletedRun.of(job, idle.summary))
