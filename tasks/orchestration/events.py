"""Prefect events with stable names and payloads, for automations."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.runtime import flow_run

from parquill.tasks.job.settings import Job
from parquill.tasks.money.estimate import estimate_json
from parquill.tasks.money.gate import Verdict
from parquill.tasks.orchestration.api_client import limited_retries
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import Estimate

TRIES = 2
_END = (
    "run_id state exit_code message rows cost_usd in_doubt_usd cost_usd_expected budget duration_s not_ok_percent "
    "over_expected_percent"
).split()
# Each event: when it is emitted, and what its payload has in addition to `job`, `model` and `labels`.
EVENTS: dict[str, tuple[str, list[str]]] = {
    "parquill.estimate.ready": (
        "the estimate is ready and nothing was sent yet",
        "run_id rows rows_to_send estimate fits_budget message".split(),
    ),
    "parquill.approval.requested": ("a run waits for approval", "run_id message".split()),
    "parquill.budget.soft-limit": ("spending crosses `soft_fraction` of a budget, once", "run_id message".split()),
    "parquill.budget.exhausted": ("a run stopped because of its budget; the next event follows it", _END),
    "parquill.run.finished": ("a run has written its results, finished or stopped", _END),
}
# The labels of `parquill.run.finished`, which a trigger can match.
LABELS = {
    "parquill.state": "`finished` or `stopped`",
    "parquill.exit-code": "the exit code",
    "parquill.not-ok-percent": "the percentage of rows that are not ok, rounded up",
    "parquill.over-expected-percent": "by how many percent the run cost more than expected, rounded down; 0 if less",
}
_log = logging.getLogger("parquill")


@contextlib.contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Log any error as a warning and continue soon: what Prefect shows must never cost a row, nor minutes.

    In a deployed run, Prefect's clients would try a server that is away for two minutes, for each thing to show.
    """
    try:
        with limited_retries(TRIES):
            yield
    # promise: ui: an error while displaying something in Prefect never stops the run
    except Exception as error:  # noqa: BLE001 - whatever the server does, the run continues
        _log.warning("%s could not be shown in Prefect (%s)", what, type(error).__name__)


def add_tag(tag: str) -> None:
    """Give the flow run a tag, unless it has it already; a run that a function call began has no tags."""
    if flow_run.id is None or tag in flow_run.tags:
        return
    with best_effort("the tag"), get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=[*flow_run.tags, tag])


def emit(name: str, job: Job, *, resource_labels: Mapping[str, str] | None = None, **payload: Any) -> None:
    """Emit `parquill.NAME` for a job; the payload holds figures and sentences, never a cell or a key.

    `resource_labels` are labels of the event's resource (prefixed with `parquill.`): a trigger can match only labels.
    """
    related = []
    if flow_run.id:
        related = [{"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}]
    labels = {f"parquill.{label}": value for label, value in (resource_labels or {}).items()}
    resource = {"prefect.resource.id": f"parquill.job.{job.name}", "prefect.resource.name": job.name, **labels}
    with best_effort("an event"):
        emit_event(
            f"parquill.{name}",
            resource=resource,
            related=related,
            payload={"job": job.name, "model": job.model, "labels": job.labels, **payload},
        )


def emit_estimate(job: Job, estimate: Estimate, verdict: Verdict, run_id: str | None = None) -> None:
    """Emit `parquill.estimate.ready`, before anything is sent."""
    emit(
        "estimate.ready",
        job,
        run_id=run_id,
        rows=estimate.rows,
        rows_to_send=estimate.to_send,
        estimate=estimate_json(job, estimate),
        fits_budget=verdict.fits,
        message=verdict.sentence,
    )


def emit_end(run: Run, summary: Mapping[str, Any], *, is_short: bool) -> None:
    """Emit `parquill.run.finished`; with `is_short`, emit `parquill.budget.exhausted` before it."""
    shares = deviation_percentages(summary)
    figures = {
        "run_id": run.run_id,
        "state": summary["state"],
        "exit_code": summary["exit_code"],
        "message": summary["message"],
        "rows": summary["rows"],
        "cost_usd": summary["cost_usd"],
        "in_doubt_usd": summary["in_doubt_usd"],
        "cost_usd_expected": summary["estimate"]["cost_usd_expected"],
        "budget": summary["budget"],
        "duration_s": summary["duration_s"],
        **shares,
    }
    if is_short:
        emit("budget.exhausted", run.job, **figures)
    # whole numbers, so that a trigger can match from a threshold: `[2-9][0-9]` and `[1-9][0-9][0-9]*` mean 20 and more
    whole = {
        "state": str(summary["state"]),
        "exit-code": str(summary["exit_code"]),
        "not-ok-percent": str(math.ceil(shares["not_ok_percent"])),
        "over-expected-percent": str(math.floor(max(0.0, shares["over_expected_percent"]))),
    }
    emit("run.finished", run.job, resource_labels=whole, **figures)


def deviation_percentages(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return, in percent, the share of rows that are not ok, and how far the paid cost is above the expected cost.

    The second is negative if less was paid. It uses what this run paid: the cost of redone rows includes what they cost
    before, which the estimate does not.
    """
    rows = summary["rows"]
    expected = Decimal(summary["estimate"]["cost_usd_expected"])
    # promise: C3 a redo is compared with its estimate by the cost of this run only
    over = (Decimal(summary["paid_usd"]) / expected - 1) * 100 if expected else Decimal(0)
    not_ok = 100 * (rows["total"] - rows["ok"]) / rows["total"] if rows["total"] else 0.0
    return {"not_ok_percent": round(not_ok, 4), "over_expected_percent": round(float(over), 4)}
