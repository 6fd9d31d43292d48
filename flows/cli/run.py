"""`parquill run`: plan while Prefect's server starts, show the estimate, run the flow, show the summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

from parquill.flows.cli.approve import ask_on_terminal
from parquill.flows.cli.console import (
    journal_warnings_to_stderr,
    print_line,
    print_result,
    show_bar,
    show_estimate,
    show_summary,
)
from parquill.flows.cli.prefect_server import EmbeddedServer
from parquill.flows.cli.signals import interrupted_by_signals, stop_on_signal
from parquill.tasks.errors import Interrupted, NotApproved, ParquillError, error_of
from parquill.tasks.job.api_key import read_keys
from parquill.tasks.job.settings import Job, Status
from parquill.tasks.llm.first_pilot import complete_first_pilot, needs_pilot, pilot_must_ask
from parquill.tasks.money.gate import asks_approval, check_largest, pass_gate
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import Standing, read_standing
from parquill.tasks.results.tolerance import NothingToDo
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.folders import Folders, lock_folders
from parquill.tasks.storage.published import latest_summary


def run_job(
    job: Job, day: date | None, limit: int | None, redo: Sequence[Status], *, as_json: bool = False
) -> tuple[dict[str, Any] | None, ParquillError | None]:
    """Run a job to its end; return the summary, if there is one, and the error that decides the exit code.

    The summary is shown on stdout; with `as_json` on stderr, since stdout is for the JSON alone.
    Raises BadJob, BadInput, FolderInUse and RefusedByBudget before anything is sent.
    """
    resolved, options = resolve_job(job, day, limit, redo)
    folders = Folders.of(resolved.output, resolved.state)
    read_keys(resolved)  # find a missing key now, not after an hour of reading
    Ledger().close()  # and a ledger that cannot be written
    folders.create()
    with (
        interrupted_by_signals() as refuse_if_asked,
        journal_warnings_to_stderr(),
        lock_folders(folders, f"the job {job.name}"),
    ):
        server = EmbeddedServer()

        def work_ahead() -> None:
            if server.begin():
                print_line("starting Prefect's embedded server while the input is read")

        # the flow's first step finds this plan and uses it
        run = prepare_run(resolved, options, work_ahead, collect=_collect_abandoned)
        if run is None:
            idle = NothingToDo.of(resolved, options.redo, options.limit)
            (print_line if as_json else print_result)(idle.sentence)
            if not server.needed:
                from parquill.tasks.orchestration.takeover import report_previous_end

                report_previous_end(folders)
            return idle.summary or None, idle.error
        standing = _show_standing(run)
        check_largest(run.job, run.estimate)
        is_left_to_flow = False
        if needs_pilot(run, standing):
            if pilot_must_ask(run, standing):
                ask_on_terminal(run, standing.verdict, may_wait=not server.needed)
            # without an answer here, the flow waits for it and completes the pilot
            is_left_to_flow = pilot_must_ask(run, standing)
            if not is_left_to_flow:
                piloted = _complete_pilot(run)
                standing = standing if piloted is run else _show_standing(piloted)
                run = piloted
        if server.needed and not is_left_to_flow:
            pass_gate(run.job, run.estimate, standing.verdict)
        if asks_approval(run.job, standing.verdict) and not is_left_to_flow:
            ask_on_terminal(run, standing.verdict, may_wait=not server.needed)
        server.wait()
        ended = _run_flow(run.run_id, job, options.day, limit, redo, folders, refuse_if_asked)
    show_summary(ended[0], folders.output, folders.output_uri, is_result=not as_json)
    return ended


def _collect_abandoned(run: Run) -> None:
    from parquill.tasks.llm.abandoned import collect_abandoned  # imports the HTTP client

    print_line(
        f"the input or the settings have changed: the batches of the run {run.run_id} are cancelled first, and what "
        "they have completed is collected"
    )
    with stop_on_signal(), show_bar():
        collect_abandoned(run)


def _show_standing(run: Run) -> Standing:
    standing = read_standing(run)
    totals = standing.totals
    if totals.sent:
        print_line(f"resuming run {run.run_id}: {totals.sent:,} requests were sent before")
    completed = sum(totals.statuses.values())
    show_estimate(run.job, run.estimate, standing.verdict, run.price, completed, is_result=False)
    return standing


def _complete_pilot(run: Run) -> Run:
    with stop_on_signal(), show_bar():
        run, message = complete_first_pilot(run)
    print_line(message)
    return run


def _run_flow(
    run_id: str,
    job: Job,
    day: date,
    limit: int | None,
    redo: Sequence[Status],
    folders: Folders,
    refuse_if_asked: Callable[[], None],
) -> tuple[dict[str, Any], ParquillError | None]:
    from prefect import tags
    from prefect.exceptions import FailedRun, TerminationSignal

    from parquill.flows.complete_prompts import complete_prompts
    from parquill.tasks.orchestration.approval import timeout_message
    from parquill.tasks.orchestration.states import TAG, latest_error

    refuse_if_asked()
    error: ParquillError | None = None
    try:
        with stop_on_signal(), show_bar():
            refuse_if_asked()
            with tags(TAG):
                complete_prompts(job=job, date=day, limit=limit, redo=list(redo) or None)
    except ParquillError as raised:
        error = raised
    except FailedRun as raised:
        # a pause that has timed out is ended by the server, in its own words
        if "never resumed" in str(raised):
            raise NotApproved(timeout_message("budget.approval_usd asks for it")) from None
        if (error := latest_error()) is None:
            raise
    except (KeyboardInterrupt, TerminationSignal):
        error = Interrupted("interrupted; run again to resume")
    except Exception as raised:  # noqa: BLE001 - whatever the server does, what is on disk says how it ended
        error = _ended_without_server(run_id, folders, raised)
    if error is not None and error.exit_code in {2, 3}:
        raise error  # nothing was sent: the summary that is there is that of an earlier run
    summary = _summary_of(run_id, folders)
    if summary is None and error is not None:
        raise error  # before anything was sent: what is there is of an earlier run
    summary = summary or latest_summary(folders.output)
    return summary, error


def _summary_of(run_id: str, folders: Folders) -> dict[str, Any] | None:
    summary: dict[str, Any] | None = read_json(folders.output / "summary.json")
    return summary if summary is not None and summary["run_id"] == run_id else None


def _ended_without_server(run_id: str, folders: Folders, raised: Exception) -> ParquillError | None:
    """Return how a run ended, from its summary, if Prefect's server did not record the run's last state."""
    summary = _summary_of(run_id, folders)
    if summary is None or summary["state"] == "running":
        raise _of_server(raised) from None
    print_line(
        f"warning: Prefect's server did not record the run's end ({type(raised).__name__}); results and summary are "
        "complete"
    )
    return error_of(summary["exit_code"], summary["message"] or "")


def _of_server(raised: Exception) -> Exception:
    """Return what to raise for an error during a run: a failed connection to Prefect gets its own sentence."""
    import httpx

    if not isinstance(raised, httpx.TransportError):
        return raised
    return ParquillError(
        f"Prefect's server did not answer ({type(raised).__name__}); check that it runs, and raise "
        "PREFECT_API_REQUEST_TIMEOUT if it is slow. What was answered is kept; run again to resume"
    )
