"""Asking and answering on the terminal for what `budget.approval_usd` holds back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from parquill.flows.console import say
from parquill.tasks.disk.run import Run
from parquill.tasks.errors import NotApproved, ParquillError
from parquill.tasks.money.gate import Verdict
from parquill.tasks.money.prices import dollars, nano_of

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


def ask_on_terminal(run: Run, verdict: Verdict, *, may_wait: bool) -> None:
    """Ask the person at the terminal; without one the run may wait in Prefect, if a server of its own lets it.

    Raises NotApproved when the answer is no, or when there is nobody to ask.
    """
    from parquill.tasks.approval import approve_run, is_approved

    limit = run.job.budget.approval_usd
    if is_approved(run) or limit is None:
        return
    told = f"expected {dollars(verdict.expected)} is above budget.approval_usd = {dollars(nano_of(limit))}"
    if sys.stdin.isatty() and sys.stderr.isatty():
        if not click.confirm(f"{told}. Spend it?", default=False, err=True):
            raise NotApproved(f"declined: {told}")
        approve_run(run, "terminal")
    elif may_wait:
        say(f"{told}: waiting for approval in Prefect's UI, or by `parquill approve {run.job.name}`")
    else:
        raise NotApproved(
            f"{told}, and nobody can be asked here: run it at a terminal, or with a Prefect server in PREFECT_API_URL"
        )


def waiting() -> list[FlowRun]:
    """The flow runs that wait for approval, the latest first. Raises ParquillError when no server answers."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    with _served(), get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=paused, sort=FlowRunSort.START_TIME_DESC, limit=200)
    return [each for each in found if each.state is not None and _key(each) == "approval"]


def answer(name: str, *, approve: bool) -> str:
    """Answer for the flow run with this id or name, or for the only one of a job; gives its name.

    Raises ParquillError when none, or more than one, is meant, or when it no longer waits.
    """
    from prefect.exceptions import FlowPauseTimeout, NotPausedError
    from prefect.flow_runs import resume_flow_run

    found = waiting()
    meant = [each for each in found if name in {str(each.id), each.name, (each.name or "").split(" · ")[0]}]
    if not meant:
        names = ", ".join(str(each.name) for each in found[:5]) or "none"
        raise ParquillError(f"no run {name!r} waits for approval; those that do: {names}")
    if len(meant) > 1:
        raise ParquillError(
            f"{len(meant)} runs are called {name!r}; name one by its id: {', '.join(str(e.id) for e in meant)}"
        )
    try:
        with _served():
            resume_flow_run(meant[0].id, run_input={"approve": approve})
    except (NotPausedError, FlowPauseTimeout, RuntimeError):
        raise ParquillError(f"the run {meant[0].name} does not wait any more") from None
    return str(meant[0].name)


def _key(run: FlowRun) -> Any:
    return run.state.state_details.pause_key if run.state is not None else None


class _served:  # noqa: N801 - reads as what it is: with a server
    """Turn a server that does not answer into one sentence."""

    def __enter__(self) -> None:
        from prefect.settings import PREFECT_API_URL

        if not PREFECT_API_URL.value():
            raise ParquillError("set PREFECT_API_URL to the server on which the run waits")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        import httpx

        if isinstance(error, httpx.TransportError):
            raise ParquillError("no Prefect server answers at PREFECT_API_URL") from None
