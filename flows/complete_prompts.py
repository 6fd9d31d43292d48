"""The main flow: read, estimate, gate, complete, write, summarize."""

from __future__ import annotations

from dataclasses import replace
from datetime import date as Date  # noqa: N812 - the parameter below is called `date`
from typing import Any

from prefect.client.schemas.objects import State

from parquill.tasks.complete_shard import complete_part, complete_shard
from parquill.tasks.estimate_cost import estimate_cost
from parquill.tasks.gate_budget import gate_budget
from parquill.tasks.job.settings import Job, RowLimit, Status
from parquill.tasks.llm.open_senders import open_sender
from parquill.tasks.llm.rounds import Rounds
from parquill.tasks.orchestration.approval import wait_for_approval
from parquill.tasks.orchestration.batch_cancellation import cancel_batches, ensure_cancellable, is_cancelling_batches
from parquill.tasks.orchestration.engines import engine_of
from parquill.tasks.orchestration.first_pilot import pilot_first
from parquill.tasks.orchestration.flow_run import sigterm_as_interrupt, stop_when_cancelled
from parquill.tasks.orchestration.flow_start import end_idle, job_lock, resolve_for_flow
from parquill.tasks.orchestration.python_flow import CompletePrompts, job_flow
from parquill.tasks.orchestration.reschedule import stay_s
from parquill.tasks.orchestration.run_log import run_log
from parquill.tasks.orchestration.states import returns_state
from parquill.tasks.orchestration.takeover import redo_already_done, register_flow_run
from parquill.tasks.orchestration.ui import show_progress
from parquill.tasks.read_prompts import read_prompts
from parquill.tasks.results.completed_run import CompletedRun
from parquill.tasks.results.finish import summary_while_running
from parquill.tasks.storage.folders import Folders
from parquill.tasks.summarize_run import summarize_run
from parquill.tasks.write_results import write_results


@job_flow(CompletePrompts, "complete-prompts")
@returns_state
def complete_prompts(
    job: Job, date: Date | None = None, limit: RowLimit | None = None, redo: list[Status] | None = None
) -> CompletedRun | State[Any]:
    """Complete every prompt of a job within its budget, and return the run with its results.

    Args:
        job: The settings; the mapping of a job file.
        date: The day of `{date}` in paths and of prices; default the scheduled day in the job's time zone.
        limit: Complete only the first rows of the input.
        redo: Statuses of finished rows to complete again.
    """
    resolved, options = resolve_for_flow(job, date, limit, redo)
    # promise: worker: a run that is cancelled while it waits cancels its batches
    if is_cancelling_batches():
        cancel_batches(resolved)
    with sigterm_as_interrupt(), job_lock(resolved):
        # promise: rerun: a retried flow run does not redo the same rows twice
        if options.redo and redo_already_done(Folders.of(resolved.output, resolved.state)):
            options = replace(options, redo=())
        run = read_prompts(resolved, options)
        if run is None:
            return end_idle(resolved, options)
        register_flow_run(run)
        run = pilot_first(run)
        standing = estimate_cost(run)
        gate_budget(run, standing)
        wait_for_approval(run, standing)
        ensure_cancellable(run)
        with summary_while_running(run):
            with (
                open_sender(run, log=run_log(), coordinates=run.job.parts > 1) as run_sender,
                show_progress(run, run_sender),
                stop_when_cancelled(run_sender),
            ):
                engine = engine_of(run, run_sender, complete_shard, complete_part)
                rounds = Rounds(run, run_sender, stay_s())
                for shards in rounds:
                    rounds.add(engine.complete(shards))
                ending = rounds.ending()
            sums = write_results(run, over_budget=ending.over_budget > 0)
            return CompletedRun.of(run.job, summarize_run(run, sums, ending))
