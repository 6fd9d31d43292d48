"""Ask for the approval that `budget.approval_usd` requires, and answer it, on the terminal."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import orjson
import tenacity

from parquill.flows.cli.console import print_line
from parquill.tasks.errors import NotApproved, ParquillError
from parquill.tasks.money.gate import Verdict, approval_sentence
from parquill.tasks.prompts.approvals import approve_run, is_approved
from parquill.tasks.prompts.run import Run
from parquill.tasks.results.escaping import unescape

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

QUESTION_TRIES = 20  # half a second apart: a run waits before its question is stored


def ask_on_terminal(run: Run, verdict: Verdict, *, may_wait: bool) -> None:
    """Ask the person at the terminal; without a terminal, let the run wait in Prefect if `may_wait`.

    Raises NotApproved if the answer is no, if there is none, or if no one can be asked; BadJob if the run would wait
    and PARQUILL_APPROVAL_TIMEOUT_S is not valid.
    """
    from parquill.tasks.orchestration.approval import timeout_s

    if is_approved(run) or run.job.budget.approval_usd is None:
        return
    message = approval_sentence(run.job, verdict)
    if sys.stdin.isatty() and sys.stderr.isatty():
        try:
            is_yes = click.confirm(f"{message}. Spend it?", default=False, err=True)
        except click.Abort:  # Ctrl-D; the caller notices Ctrl-C
            print_line("")  # end the question's line
            raise NotApproved(f"not approved, the question was not answered: {message}") from None
        if not is_yes:
            raise NotApproved(f"declined: {message}")
        approve_run(run, "terminal")
    elif may_wait:
        timeout_s()
        print_line(f"{message}: waiting for approval; answer in Prefect's UI or run `parquill approve {run.job.name}`")
    else:
        raise NotApproved(
            f"{message}, and no one can be asked here: run it at a terminal, or set PREFECT_API_URL to a Prefect server"
        )


def waiting() -> list[FlowRun]:
    """Return the flow runs that wait for approval, the latest first. Raises ParquillError if no server answers."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    from parquill.tasks.orchestration.approval import KEY

    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    with prefect_errors_as_messages(), get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=paused, sort=FlowRunSort.START_TIME_DESC, limit=200)
    return [each for each in found if each.state is not None and str(_key(each)).startswith(KEY)]


def question_of(run: FlowRun) -> dict[str, str | None]:
    """Return a waiting run's `question`, in one sentence, and `until` (ISO 8601); None for what is not known."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.input.run_input import keyset_from_paused_state

    from parquill.tasks.orchestration.approval import ASKS

    assert run.state is not None  # noqa: S101 - it waits
    until, asked = run.state.state_details.pause_timeout, None
    with (
        prefect_errors_as_messages(),
        get_client(sync_client=True) as client,
        contextlib.suppress(PrefectHTTPStatusError),
    ):
        # not stored yet in the first moments
        description = client.read_flow_run_input(run.id, keyset_from_paused_state(run.state)["description"])
        asked = unescape(orjson.loads(description).partition("\n")[0].rpartition(ASKS)[2])
    return {"question": asked, "until": until.isoformat(timespec="seconds") if until is not None else None}


def answer(name: str, *, approve: bool, sleep: Callable[[float], None] = time.sleep) -> str:
    """Answer for the flow run with this id or name, or for the only waiting run of a job; return the run's name.

    Raises ParquillError if no run or more than one matches, or if the run no longer waits.
    """
    from prefect.exceptions import FlowPauseTimeout, NotPausedError
    from prefect.flow_runs import resume_flow_run

    found = waiting()
    meant = [each for each in found if name in {str(each.id), each.name} or _is_of(each, name)]
    if not meant:
        names = ", ".join(str(each.name) for each in found[:5]) or "none"
        raise ParquillError(f"no run {name!r} waits for approval; waiting runs: {names}")
    if len(meant) > 1:
        raise ParquillError(
            f"{len(meant)} runs are called {name!r}; name one by its id: {', '.join(str(e.id) for e in meant)}"
        )
    # a run waits some moments before its question is stored: two seconds if the server is busy
    resuming = tenacity.Retrying(
        # promise: approval: an answer that comes before its question is sent again
        retry=tenacity.retry_if_exception_type(RuntimeError),
        stop=tenacity.stop_after_attempt(QUESTION_TRIES),
        wait=tenacity.wait_fixed(0.5),
        sleep=sleep,
        reraise=True,
    )
    try:
        with prefect_errors_as_messages():
            resuming(resume_flow_run, meant[0].id, run_input={"approve": approve})
    except (NotPausedError, FlowPauseTimeout):
        raise ParquillError(f"the run {meant[0].name} no longer waits for approval") from None
    except RuntimeError as error:  # its process died in these moments
        raise ParquillError(f"the run {meant[0].name} accepts no answer ({error}); start its job again") from None
    return str(meant[0].name)


def _is_of(run: FlowRun, job: str) -> bool:
    """Whether a run is of the job with this name. Runs are called `JOB · 3 rows · MODEL`; JOB may contain ` · ` too."""
    # promise: P4 the approve command never answers for another job
    return re.fullmatch(re.escape(job) + r" · (?:[\d,]+ rows? · )?(?:(?! · ).)+", run.name or "") is not None


def _key(run: FlowRun) -> Any:
    return run.state.state_details.pause_key if run.state is not None else None


class prefect_errors_as_messages:  # noqa: N801 - reads as what it is: with a server
    """Raise ParquillError, with one sentence, if the server does not answer or refuses the request."""

    def __enter__(self) -> None:
        from prefect.settings import PREFECT_API_URL

        if not PREFECT_API_URL.value():
            raise ParquillError("set PREFECT_API_URL to the server on which the run waits")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        import httpx

        if isinstance(error, httpx.TransportError):
            raise ParquillError("no Prefect server answers at PREFECT_API_URL") from None
        if isinstance(error, httpx.HTTPStatusError):  # or one of Prefect's, a subclass
            code = error.response.status_code
            raise ParquillError(
                f"Prefect's server refused the request (HTTP {code}); `parquill approve` lists the waiting runs"
            ) from None
