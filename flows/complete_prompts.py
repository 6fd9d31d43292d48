"""The main flow: read, estimate, gate, complete, write, summarize."""

from __future__ import annotations

from dataclasses import replace
from datetime import date as Date  # noqa: N812 - the parameter below is called `date`
from pathlib import Path
from typing import Any

from prefect import flow, unmapped
from prefect.client.schemas.objects import State

from parquill.tasks.complete_shard import complete_shard
from parquill.tasks.estimate_cost import estimate_cost
from parquill.tasks.gate_budget import gate_budget
from parquill.tasks.job.settings import Job, RowLimit, Status
from parquill.tasks.llm.open_senders import sending
from parquill.tasks.llm.send_result import SendResult
from parquill.tasks.orchestration.approval import wait_for_approval
from parquill.tasks.orchestration.flow_run import heed_cancelling, heed_sigterm
from parquill.tasks.orchestration.flow_start import end_idle, hold_job, place_flow
from parquill.tasks.orchestration.limit_store import sharing_of
from parquill.tasks.orchestration.options import FLOW_OPTIONS
from parquill.tasks.orchestration.states import ends_with_state
from parquill.tasks.orchestration.takeover import has_redone, take_over
from parquill.tasks.orchestration.ui import called, show_progress
from parquill.tasks.read_prompts import read_prompts
from parquill.tasks.results.finish import stop_early
from parquill.tasks.storage.folders import Folders
from parquill.tasks.summarize_run import summarize_run
from parquill.tasks.write_results import write_results


@flow(name="complete-prompts", flow_run_name=called(), **FLOW_OPTIONS)
@ends_with_state
def complete_prompts(
    job: Job, date: Date | None = None, limit: RowLimit | None = None, redo: list[Status] | None = None
) -> dict[str, Any] | State[Any]:
    """Complete every prompt of a job within its budget, and give the summary.

    Args:
        job: The settings; the mapping of a job file.
        date: The day of `{date}` in paths and of prices; default the scheduled day in the job's time zone.
        limit: Complete only the first rows of the input.
        redo: Statuses of finished rows to complete anew.
    """
    placed, options = place_flow(job, date, limit, redo)
    with heed_sigterm(), hold_job(placed):
        if options.redo and has_redone(Folders.of(placed.output, placed.state)):
            options = replace(options, redo=())
        run = read_prompts(placed, options)
        if run is None:
            return end_idle(placed, options)
        take_over(run)
        estimate = estimate_cost(run)
        gate_budget(run, estimate)
        wait_for_approval(run)
        with stop_early(run):
            with (
                sending(run, sharing=sharing_of(run.job)) as opened,
                show_progress(run, opened),
                heed_cancelling(opened),
            ):
                shards = [shard for shard in run.shards if not run.is_done(shard)]
                state = Path(run.folders.state)
                complete_shard.map(unmapped(state), unmapped(run.run_id), shards).result()
                ending = SendResult.of(opened)
            sums = write_results(run, over_budget=ending.over_budget > 0)
            return summarize_run(run, sums, ending)
