"""The dry run: what a job would cost, counted for every row, with nothing sent and nothing written to its folders."""

from __future__ import annotations

from datetime import date as Date  # noqa: N812 - the parameter below is called `date`
from typing import Any

from prefect import flow

from parquill.tasks.job import Job
from parquill.tasks.money.estimate import flat_estimate
from parquill.tasks.money.gate import judge
from parquill.tasks.money.month import booked_by_others
from parquill.tasks.money.prices import price_of
from parquill.tasks.rows.prepare import check_rejected, estimate_job
from parquill.tasks.start import place_flow
from parquill.tasks.ui import name_run, show_estimate


@flow(name="estimate-cost", flow_run_name="{job.name} · estimate", persist_result=False)
def estimate_cost(job: Job, date: Date | None = None, limit: int | None = None) -> dict[str, Any]:
    """Give the estimate of a job as one flat mapping, and show it as an artifact.

    Args:
        job: The settings; the mapping of a job file.
        date: The day of `{date}` in paths and of prices; default the scheduled day in the job's time zone.
        limit: Estimate only the first rows of the input.
    """
    placed, options = place_flow(job, date, limit, ())
    total = estimate_job(placed, options)
    estimate, price = total.result(), price_of(placed, options.day)
    verdict = judge(placed, estimate, price, None, booked_by_others(placed))
    name_run(f"{job.name} · estimate of {estimate.rows:,} rows · {job.model}")
    show_estimate(placed, estimate, verdict, price)
    check_rejected(placed, total)
    return flat_estimate(placed, estimate, price, fits=verdict.fits)
