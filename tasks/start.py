"""What a flow does before its first step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

from prefect.runtime import flow_run

from parquill.tasks.disk.files import read_json
from parquill.tasks.disk.state import Folders, hold
from parquill.tasks.job import Job
from parquill.tasks.place import place
from parquill.tasks.rows.prepare import RunOptions


def place_flow(job: Job, day: date | None, limit: int | None, redo: Sequence[str] | None) -> tuple[Job, RunOptions]:
    """Place a job for the flow run's scheduled time. Raises BadJob."""
    scheduled: datetime | None = flow_run.scheduled_start_time
    return place(job, day, limit, redo, now=scheduled)


@contextlib.contextmanager
def hold_job(job: Job) -> Iterator[None]:
    """Hold the folders of a placed job. Raises FolderInUse, DiskFailed."""
    folders = Folders.of(job)
    folders.create()
    with hold(folders, f"the job {job.name}"):
        yield


def nothing_to_do(job: Job) -> dict[str, Any]:
    """The summary of the run that has done it all."""
    found: dict[str, Any] = read_json(Folders.of(job).output / "summary.json") or {}
    return found
