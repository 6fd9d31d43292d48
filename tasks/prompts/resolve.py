"""Resolves a job for one start: its paths, dates and files, and the options of the start."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from parquill.tasks.job.resolved import ResolvedJob, resolve
from parquill.tasks.job.settings import Job
from parquill.tasks.prompts.base import RunOptions


def resolve_job(
    job: Job, day: date | None, limit: int | None, redo: Sequence[str] | None, now: datetime | None = None
) -> tuple[ResolvedJob, RunOptions]:
    """Resolve a job for a day: the one given, else that of `now` in the job's time zone. Raises BadJob."""
    # promise: schedule: the day of a run follows the job's time zone
    when = (now or datetime.now(job.zone)).astimezone(job.zone)
    # a plain date: Prefect's scheduled time has a date of pendulum, which no JSON writer knows
    today = date(when.year, when.month, when.day) if day is None else date(day.year, day.month, day.day)
    return resolve(job, today), RunOptions(day=today, limit=limit, redo=tuple(sorted(set(redo or ()))))
