"""The named states in which Prefect shows how a run ended, each with one sentence.

A flow that is called as a function still returns its result or raises its error: the state carries both, in memory
only, because results are not persisted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from prefect.client.schemas.objects import State
from prefect.context import TagsContext
from prefect.states import Cancelled, Completed, Failed

from parquill.tasks.errors import (
    BadInput,
    BadJob,
    DamagedJournal,
    DiskFailed,
    FolderInUse,
    Interrupted,
    LedgerFailed,
    NotApproved,
    ParquillError,
    RefusedByBudget,
    ServiceStopped,
    StoppedByBudget,
    TooManyNotOk,
    Unforeseen,
    WaitsForBatch,
)
from parquill.tasks.job.flow_parameters import Arguments
from parquill.tasks.money.amounts import format_usd_text
from parquill.tasks.money.gate import Verdict
from parquill.tasks.orchestration import deployed_process as process
from parquill.tasks.orchestration.events import add_tag
from parquill.tasks.orchestration.flow_run import ensure_final_state_accepted
from parquill.tasks.orchestration.redaction import safe_error
from parquill.tasks.orchestration.reschedule import reschedule
from parquill.tasks.results.completed_run import CompletedRun
from parquill.tasks.results.cost_estimate import CostEstimate
from parquill.tasks.results.tolerance import NothingToDo

TAG = "parquill"  # of every flow run, for automations to match
FAILED_ROWS = "Completed with failed rows"
TOO_MANY_FAILED_ROWS = "Too many failed rows"
DOES_NOT_FIT = "Does not fit the budget"
NAMES: dict[type[ParquillError], str] = {
    NotApproved: "Not approved",
    RefusedByBudget: "Refused by budget",
    StoppedByBudget: "Stopped by budget",
    ServiceStopped: "Stopped by the service",
    TooManyNotOk: TOO_MANY_FAILED_ROWS,
    BadJob: "Refused: bad job",
    BadInput: "Refused: bad input",
    FolderInUse: "Refused: folder in use",
    DamagedJournal: "Damaged journal",
    LedgerFailed: "Ledger failed",
    DiskFailed: "Disk failed",
    Unforeseen: "Unforeseen error",
}
Given = ParamSpec("Given")
Result = TypeVar("Result")
_latest: list[ParquillError] = []


def state_of(error: ParquillError) -> State[Any]:
    """Return the final state of a run that ended with an error."""
    if isinstance(error, Interrupted):
        return Cancelled(message=str(error), data=error)
    name = next((NAMES[kind] for kind in type(error).__mro__ if kind in NAMES), "Failed")
    return Failed(name=name, message=str(error), data=error)


def state_of_summary(summary: Mapping[str, Any], run: CompletedRun | None = None) -> State[Any]:
    """Return the final state of a run that ended well; its name says if some rows are not ok but tolerated.

    The caller of the flow gets `run`.
    """
    rows = summary.get("rows", {"ok": 0, "total": 0})
    if summary.get("message"):
        return Completed(name=FAILED_ROWS, message=summary["message"], data=run)
    cost = f", {format_usd_text(summary['paid_usd'])}" if "paid_usd" in summary else ""
    return Completed(message=f"{rows['ok']:,} of {rows['total']:,} rows ok{cost}", data=run)


def state_of_estimate(verdict: Verdict, estimate: CostEstimate | None = None) -> State[Any]:
    """Return the final state of a dry run: always Completed; its name says if the cost does not fit the budget."""
    return Completed(name=None if verdict.fits else DOES_NOT_FIT, message=verdict.sentence, data=estimate)


def state_of_idle(idle: NothingToDo, run: CompletedRun) -> State[Any]:
    """Return the final state of a start that found nothing to do: it reflects the existing results, which `run` has."""
    if idle.error is not None:
        return state_of(idle.error)
    name = FAILED_ROWS if idle.rows["ok"] < idle.rows["total"] else None
    return Completed(name=name, message=idle.sentence, data=run)


def latest_error() -> ParquillError | None:
    """The error that the latest flow of this process ended with.

    The caller of a flow gets it from the final state. If the answer to that state was lost and Prefect's client sent it
    again, the server rejects it, and what comes back is the server's state, without the error.
    """
    return _latest[0] if _latest else None


def _without_own_tag() -> TagsContext:
    """Return a context whose tasks do not get the flow run's own tag.

    Prefect asks its server for a concurrency slot for each tag of a task, and a task fails if the server is away.
    """
    # promise: P5 no task needs a concurrency slot from Prefect's server
    return TagsContext(current_tags=TagsContext.get().current_tags - {TAG})


def returns_state(body: Callable[Given, Result | State[Any]]) -> Callable[Given, Result]:
    """Decorate the body of a flow, which returns a result or raises a ParquillError, to end with the matching state.

    The flow's arguments are validated here. A state that the body returns is passed on. The caller of the flow gets
    the state's data, or its error.
    """
    arguments = Arguments(body)

    @functools.wraps(body)
    def wrapper(*args: Given.args, **kwargs: Given.kwargs) -> Any:
        given = arguments.signature.bind(*args, **kwargs)
        process.on_flow_start()
        _latest.clear()
        # promise: flows: every flow run carries the tag that automations match
        add_tag(TAG)
        try:
            # promise: presets: a flow validates its arguments before its body runs
            arguments.validate(given)
            with _without_own_tag():
                ended = body(*given.args, **given.kwargs)
        except WaitsForBatch as waits:
            # promise: worker: a run that waits for its batches holds no worker
            return state_of(reschedule(waits))
        except Exception as error:
            # promise: S3 an unexpected error in a flow is replaced by one without its text
            shown = safe_error(error)
            if not isinstance(shown, ParquillError):
                raise
            _latest[:] = [shown]
            if isinstance(shown, Interrupted):  # a stop does not wait for the server
                # promise: worker: a run stopped by a killed worker ends as Crashed, not as Cancelled
                return process.crashed_state(shown) or state_of(shown)
            ensure_final_state_accepted()
            return state_of(shown)
        ensure_final_state_accepted()
        return state_of_summary(ended.summary, ended) if isinstance(ended, CompletedRun) else ended

    # Prefect builds the form from the signature, and would look up its names in the module where `wrapper` is defined
    vars(wrapper)["__signature__"] = arguments.signature
    return wrapper
