"""The dry run: what a job would cost, counted for every row. Only a pilot sends requests."""

from __future__ import annotations

from datetime import date as Date  # noqa: N812 - the parameter below is called `date`
from typing import Annotated, Any, Literal

from prefect.client.schemas.objects import State
from pydantic import Field

from parquill.tasks.job.settings import Job, RowLimit
from parquill.tasks.llm.dry_run import estimate_with_pilot, estimate_without_pilot
from parquill.tasks.orchestration.events import emit_estimate
from parquill.tasks.orchestration.flow_run import stop_when_cancelled
from parquill.tasks.orchestration.flow_start import resolve_for_flow
from parquill.tasks.orchestration.python_flow import EstimateCost, job_flow
from parquill.tasks.orchestration.run_log import run_log
from parquill.tasks.orchestration.states import returns_state, state_of_estimate
from parquill.tasks.orchestration.ui import name_run, run_name, show_estimate
from parquill.tasks.results.cost_estimate import CostEstimate


@job_flow(EstimateCost, "estimate-cost", "estimate")
@returns_state
def estimate_cost(
    job: Job,
    date: Date | None = None,
    limit: RowLimit | None = None,
    pilot: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] | None = None,
) -> CostEstimate | State[Any]:
    """Return the estimate of a job, and show it as an artifact.

    Args:
        job: The settings; the mapping of a job file.
        date: The day of `{date}` in paths and of prices; default the scheduled day in the job's time zone.
        limit: Estimate only the first rows of the input.
        pilot: Complete and pay for this many rows first; the run continues from them. auto: as many rows as an estimate
            within ±5 % needs, for at most 1 % of the budget.
    """
    resolved, options = resolve_for_flow(job, date, limit, ())
    found = None
    if pilot is not None:
        found = estimate_with_pilot(
            resolved, options, None if pilot == "auto" else pilot, stop_when_cancelled, run_log()
        )
    found = found or estimate_without_pilot(resolved, options)
    name_run(run_name(job, found.estimate.rows, "estimate of "))
    show_estimate(resolved, found.estimate, found.verdict, found.price)
    emit_estimate(resolved, found.estimate, found.verdict)
    if found.error is not None:
        raise found.error
    return state_of_estimate(found.verdict, CostEstimate.of(found.as_dict()))
