"""What a run does about Prefect's server: notice a cancellation, wait for a server that is away, stop on SIGTERM.

A worker stops the process of a run that is cancelled in the UI, but not if its own watch has failed, for example after
the server was away; and `parquill run` has no worker. So a run polls its own state.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar
from uuid import UUID

import httpx
import tenacity
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout, Pause
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Running

from parquill.tasks.errors import Interrupted
from parquill.tasks.llm.open_senders import stop_requested
from parquill.tasks.llm.run_sender import RunSender
from parquill.tasks.orchestration.api_client import http_client, is_shared_server, limited_retries
from parquill.tasks.orchestration.deployed_process import is_deployed, worker_is_gone
from parquill.tasks.orchestration.events import best_effort

_T = TypeVar("_T")
Handler = Callable[[int, FrameType | None], None]
POLL_INTERVAL_S = 0.5  # between polls: within a second, a cancelled run stops sending
POLL_TIMEOUT_S = 5.0  # of one poll: a dead connection is given up, and the next poll opens another
SERVER_TIMEOUT_S = 600.0
RETRY_INTERVAL_S = 5.0


def _is_cancelled(state: State[Any] | None) -> bool:
    return state is not None and (state.is_cancelling() or state.is_cancelled())


@contextlib.contextmanager
def stop_when_cancelled(run_sender: RunSender) -> Iterator[None]:
    """Stop the sender as soon as the flow run is cancelled or its worker is gone; polling survives a server outage.

    A run that was cancelled before this call sends nothing.
    """
    over = threading.Event()
    if flow_run.id and is_shared_server():
        with best_effort("a look at the flow run"), get_client(sync_client=True) as client:
            if _is_cancelled(client.read_flow_run(UUID(flow_run.id)).state):
                run_sender.request_stop()
        work = (UUID(flow_run.id), run_sender, over)
        threading.Thread(target=_poll, args=work, name="parquill-cancel", daemon=True).start()
    try:
        yield
    finally:
        over.set()  # not joined: the thread may be waiting for a server that is away


def _poll(run: UUID, run_sender: RunSender, over: threading.Event) -> None:
    address = f"{str(PREFECT_API_URL.value()).rstrip('/')}/flow_runs/{run}"
    with http_client(address, POLL_TIMEOUT_S) as client:
        watch(lambda: client.get(address).raise_for_status().json()["state"]["type"], run_sender.request_stop, over)


def watch(
    read_type: Callable[[], str],
    stop: Callable[[], object],
    over: threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Until `over` is set, call `stop` once the flow run's state is a cancelled one, or its worker is gone."""
    looked = clock()
    # the interval includes the poll itself: a server that has just come back is slow, and the run has only a second
    # promise: P5 a cancellation is noticed within a second
    while not over.wait(max(0.0, looked + POLL_INTERVAL_S - clock())):
        looked = clock()
        # promise: worker: a run stops when its worker is killed
        if worker_is_gone():
            stop()
            return
        # promise: P5 the check for a cancellation continues after a server outage
        with contextlib.suppress(Exception):  # whatever the server does, the run continues
            if read_type() in {"CANCELLING", "CANCELLED"} and not over.is_set():
                # promise: P5 a cancelled flow run sends no further requests
                stop()
                return


_handlers: list[Handler] = []  # for SIGTERM, of the command that runs


@contextlib.contextmanager
def push_sigterm_handler(handler: Handler) -> Iterator[None]:
    """Make `handler` handle SIGTERM in the flows that this process calls; call this in the main thread."""
    _handlers.append(handler)
    try:
        yield
    finally:
        _handlers.pop()


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop a command's flow as Ctrl-C does; Prefect would report a crash.

    A deployed run leaves SIGTERM to Prefect, whose worker sends it to cancel the run.
    """
    if not _handlers:
        yield
        return
    # promise: P6 SIGTERM stops a command's flow the same way as Ctrl-C
    before = signal.signal(signal.SIGTERM, _handlers[-1])
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_unless_cancelled(
    pausing: Callable[[], Coroutine[Any, Any, Any]], store: Callable[[], Coroutine[Any, Any, None]]
) -> Any:
    """Pause the flow run and return what it is resumed with; None if the caller has to read it, after an outage.

    `store` stores the question on the server; `pausing` does not if the server's reply to the pause is lost.
    Raises Interrupted as soon as the flow run is cancelled or this process is asked to stop; FlowPauseTimeout.
    """
    context = FlowRunContext.get()
    assert context is not None  # noqa: S101 - only a flow run waits
    assert context.flow_run is not None  # noqa: S101
    over = threading.Event()
    wait = _wait(pausing, store, context.flow_run.id, over)
    # in its own thread: an event loop may already run where the flow was called
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(contextvars.copy_context().run, asyncio.run, wait).result()
        except BaseException:  # also that of a signal
            over.set()
            raise


async def _wait(
    pausing: Callable[[], Coroutine[Any, Any, Any]],
    store: Callable[[], Coroutine[Any, Any, None]],
    run: UUID,
    over: threading.Event,
) -> Any:
    paused, is_stored = asyncio.ensure_future(pausing()), False
    async with get_client(httpx_settings={"timeout": POLL_TIMEOUT_S}) as client:
        # promise: P5 a run that waits for approval keeps waiting while the server is away
        # promise: approval: a run keeps waiting if the reply to the pause is lost
        while not paused.done() or isinstance(paused.exception(), httpx.TransportError | httpx.HTTPStatusError | Pause):
            # Prefect's own waiting ends when the server is away, and never begins if the server's reply to the pause is
            # lost: the retried pause fails, because the run is paused already. So this loop continues to wait.
            await (asyncio.sleep(POLL_INTERVAL_S) if paused.done() else asyncio.wait({paused}, timeout=POLL_INTERVAL_S))
            state = await _state_of(client, run)
            # promise: P5 a flow run that waits for approval can be cancelled
            if over.is_set() or stop_requested.is_set() or _is_cancelled(state):
                paused.cancel()
                raise Interrupted("cancelled while it waited for approval; nothing was sent")
            if paused.done() and state is not None and state.is_paused() and not is_stored:
                with contextlib.suppress(httpx.HTTPError):  # at the next look
                    # promise: approval: a question is stored even if the reply to the pause is lost
                    await store()
                    is_stored = True
            if paused.done() and state is not None and state.is_running():
                return None
            if paused.done() and state is not None and state.is_final():
                raise FlowPauseTimeout
    return paused.result()


async def _state_of(client: PrefectClient, run: UUID) -> State[Any] | None:
    try:
        with limited_retries(0):  # so that an answer, a cancellation or a signal is noticed soon
            return (await client.read_flow_run(run)).state
    except Exception:  # noqa: BLE001 - the next poll tries again
        return None


def retry_while_unavailable(
    ask: Callable[[], _T],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = stop_requested.wait,
) -> _T:
    """Call `ask`, a request to the server that the run depends on; retry for ten minutes while the server is away.

    A server that answers 5xx counts as away. Raises the error of the last try; Interrupted if this process is asked to
    stop meanwhile.
    """
    started = clock()

    def give_up(tried: tenacity.RetryCallState) -> Any:
        assert tried.outcome is not None  # noqa: S101 - it failed
        if stop_requested.is_set():
            raise Interrupted("cancelled while Prefect's server was away; nothing was sent")
        return tried.outcome.result()

    def rest(seconds: float) -> None:
        sleep(seconds)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_away),
        stop=lambda _: clock() - started >= SERVER_TIMEOUT_S or stop_requested.is_set(),
        wait=tenacity.wait_fixed(RETRY_INTERVAL_S),
        sleep=rest,
        retry_error_callback=give_up,
    )(ask)


def is_away(error: BaseException | None) -> bool:
    """Whether an error means that no server answered, or that it answered 5xx."""
    return isinstance(error, httpx.TransportError) or (
        isinstance(error, httpx.HTTPStatusError) and error.response.status_code >= 500
    )


def ensure_final_state_accepted() -> None:
    """Wait for the server, and make sure that it accepts the flow run's final state.

    A run that was cancelled after everything was sent keeps its real end: the server accepts that state from a Running
    run, but not from a Cancelling one.
    """
    wait_for_server()
    if not flow_run.id or not is_shared_server():
        return
    run = UUID(flow_run.id)
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        # promise: P5 a run that is cancelled after all rows were sent ends as Completed
        if state is not None and state.is_cancelling():
            client.set_flow_run_state(run, Running(message="cancelled after everything was sent"), force=True)


def wait_for_server(
    answers: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait up to ten minutes for the server before a deployed run ends: its end is visible only there.

    Any other run reports its end itself and does not wait.
    """
    if answers is None and not is_deployed():
        return
    started = clock()
    tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda is_there: not is_there),
        # promise: P5 the wait for the server is limited in time
        stop=lambda _: clock() - started >= SERVER_TIMEOUT_S,
        wait=tenacity.wait_fixed(RETRY_INTERVAL_S),
        sleep=sleep,
        retry_error_callback=lambda _: None,
    )(answers or _answers)


def _answers() -> bool:
    with limited_retries(0), get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    return not is_away(error)
