"""`parquill doctor --send`: complete one row at each endpoint, and compare the limits that the service announces.

The rows are paid for, from the budget and in the ledger; `run` reuses them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from parquill.flows.cli.checks import Check, Hint, check
from parquill.flows.cli.try_rows import Trial, try_rows
from parquill.tasks.errors import BadInput, ParquillError
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.run_sender import RunSender
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.records import REUSABLE

Announced = Mapping[str, tuple[int | None, int | None]]


def send_rows(job: ResolvedJob, options: RunOptions) -> list[Check]:
    """Complete a row at each endpoint; one check says how that went, and one for each endpoint compares its limits."""
    found: dict[str, tuple[int | None, int | None]] = {}

    @contextlib.contextmanager
    def watch(run_sender: RunSender) -> Iterator[Any]:
        try:
            yield
        finally:
            found.update(run_sender.lane.announced)

    checks = [check("send", lambda: _send(_evenly(job), options, watch))]
    if checks[0].ok and found:
        jobs = job.each_endpoint
        for each, label in zip(jobs, job.labels_of_endpoints, strict=True):
            name = "limits" if len(jobs) == 1 else f"limits at {label}"
            checks.append(check(name, functools.partial(_limits, each, found.get(label, (None, None)))))
    return checks


def _evenly(job: ResolvedJob) -> ResolvedJob:
    """Return the job with endpoints of equal weight, so that each gets one of the rows."""
    if job.endpoints is None:
        return job
    return job.model_copy(update={"endpoints": [each.model_copy(update={"weight": 1.0}) for each in job.endpoints]})


def _send(job: ResolvedJob, options: RunOptions, watch: Any) -> str:
    try:
        trial = try_rows(job, options, len(job.each_endpoint), watch)
    except BadInput as error:
        return Hint(f"nothing was sent: {error}")
    bad = [row.outcome for row in trial.rows if row.outcome.status not in REUSABLE]
    if bad or not trial.rows:
        raise ParquillError((bad[0].error_message if bad else None) or "the service gave no answer")
    return f"{_endings(trial)}: {trial.sentence}"


def _endings(trial: Trial) -> str:
    latencies = [row.outcome.latency_s for row in trial.rows if row.outcome.latency_s is not None]
    slowest = f" in {max(latencies):.1f} s" if latencies else ""
    return f"{', '.join(dict.fromkeys(row.outcome.status for row in trial.rows))}{slowest}"


def _limits(job: ResolvedJob, announced: tuple[int | None, int | None]) -> str:
    names = ("requests_per_minute", "tokens_per_minute")
    known = {name: limit for name, limit in zip(names, announced, strict=True) if limit is not None}
    if not known:
        return "the service announces none in its replies"
    message = " and ".join(f"{limit:,} {name.partition('_')[0]}" for name, limit in known.items())
    own = {name: getattr(job.limits, name) for name in known}
    unset = [f"{name}: {known[name]}" for name, value in own.items() if value is None]
    above = [f"limits.{name} = {value:,}" for name, value in own.items() if value is not None and value > known[name]]
    advice = f"; to use them fully from the start, set `limits: {{{', '.join(unset)}}}`" if unset else ""
    if above:
        return Hint(f"the service announces {message} a minute, less than {' and '.join(above)}{advice}")
    return f"the service announces {message} a minute{advice}"
