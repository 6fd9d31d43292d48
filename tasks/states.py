"""The names under which Prefect shows how a run ended, each with its one sentence.

A flow that is called as a function gives its summary or raises its error as before: both ride in the state, in memory
only, since results are not persisted.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

from prefect.client.schemas.objects import State
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
)
from parquill.tasks.unforeseen import replace_error

FAILED_ROWS = "Completed with failed rows"
NAMES: dict[type[ParquillError], str] = {
    NotApproved: "Not approved",
    RefusedByBudget: "Refused by budget",
    StoppedByBudget: "Stopped by budget",
    ServiceStopped: "Stopped by the service",
    TooManyNotOk: FAILED_ROWS,
    BadJob: "Refused: bad job",
    BadInput: "Refused: bad input",
    FolderInUse: "Refused: folder in use",
    DamagedJournal: "Damaged journal",
    LedgerFailed: "Ledger failed",
    DiskFailed: "Disk failed",
    Unforeseen: "Unforeseen error",
}
Arguments = ParamSpec("Arguments")


def state_of(error: ParquillError) -> State[Any]:
    """The final state of a run that ended with an error."""
    if isinstance(error, Interrupted):
        return Cancelled(message=str(error), data=error)
    name = next((NAMES[kind] for kind in type(error).__mro__ if kind in NAMES), "Failed")
    return Failed(name=name, message=str(error), data=error)


def state_of_summary(summary: dict[str, Any]) -> State[Any]:
    """The final state of a run that ended well: rows that are not ok, but are tolerated, are in its name."""
    rows = summary.get("rows", {"ok": 0, "total": 0})
    if summary.get("message"):
        return Completed(name=FAILED_ROWS, message=summary["message"], data=summary)
    cost = f", ${summary['cost_usd']}" if "cost_usd" in summary else ""
    return Completed(message=f"{rows['ok']:,} of {rows['total']:,} rows ok{cost}", data=summary)


def ends_with_state(body: Callable[Arguments, dict[str, Any]]) -> Callable[Arguments, dict[str, Any]]:
    """Let the body of a flow that gives a summary, or raises a ParquillError, end with the state that says so.

    A body that gives such a state already, because it called another flow's function, passes it on.
    """

    @functools.wraps(body)
    def told(
        *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Any:  # a state; whoever calls the flow is given its data
        try:
            ended: Any = body(*args, **kwargs)
        except Exception as error:
            shown = replace_error(error)
            if not isinstance(shown, ParquillError):
                raise
            return state_of(shown)
        return ended if isinstance(ended, State) else state_of_summary(ended)

    # Prefect draws the form from the signature, and would look for the names in it where `told` is defined
    vars(told)["__signature__"] = inspect.signature(body, eval_str=True)
    return told
