"""What a run asks of Prefect's server: whether it is cancelled, whether the server is there; and how it is stopped.

A worker stops the process of a run that is cancelled in the UI; it does not when its watch has failed, as after a
server that was away, and a `parquill run` has no worker at all. So a run looks for itself.
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
POLL_INTERVAL_S = 0.5  # from one look to the next: a run that is cancelled sends nothing more within a second
POLL_TIMEOUT_S = 5.0  # of one look: a connection that a network cut in two is given up, and the next look makes another
SERVER_TIMEOUT_S = 600.0
RETRY_INTERVAL_S = 5.0


def _is_cancelled(state: State[Any] | None) -> bool:
    return state is not None and (state.is_cancelling() or state.is_cancelled())


@contextlib.contextmanager
def stop_when_cancelled(run_sender: RunSender) -> Iterator[None]:
    """Stop the sender as soon as the flow run is cancelled, or its worker gone; a server that is away is asked again.

    One that was cancelled before sends nothing at all.
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
        over.set()  # it may be in the midst of asking a server that is away: nobody waits for that


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
    """Stop as soon as the type of the flow run's state is of a cancelled one, or its worker gone, until it is over."""
    looked = clock()
    # from look to look, however long one takes: a server that has just come back is slow, and a second is soon gone
    while not over.wait(max(0.0, looked + POLL_INTERVAL_S - clock())):
        looked = clock()
        if worker_is_gone():
            stop()
            return
        with contextlib.suppress(Exception):  # whatever the server does, the run goes on
            if read_type() in {"CANCELLING", "CANCELLED"} and not over.is_set():
                stop()
                return


_handlers: list[Handler] = []  # to SIGTERM, of the command that runs


@contextlib.contextmanager
def push_sigterm_handler(handler: Handler) -> Iterator[None]:
    """Have the flows that this process calls answer SIGTERM so; call it in the main thread."""
    _handlers.append(handler)
    try:
        yield
    finally:
        _handlers.pop()


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop a command's flow as Ctrl-C does, and not as Prefect has it, which calls it a crash.

    A deployed run leaves SIGTERM to Prefect, whose worker says by it that the run is cancelled.
    """
    if not _handlers:
        yield
        return
    before = signal.signal(signal.SIGTERM, _handlers[-1])
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_unless_cancelled(
    pausing: Callable[[], Coroutine[Any, Any, Any]], store: Callable[[], Coroutine[Any, Any, None]]
) -> Any:
    """Pause the flow run, and give what it is resumed with; None if that has to be read, because the server was away.

    `store` gives the server the question, which `pausing` does not if the server's answer to the pause is lost.
    Raises Interrupted as soon as the flow run is cancelled, or this process is asked to stop; FlowPauseTimeout.
    """
    context = FlowRunContext.get()
    assert context is not None  # noqa: S101 - only a flow run waits
    assert context.flow_run is not None  # noqa: S101
    over = threading.Event()
    wait = _wait(pausing, store, context.flow_run.id, over)
    # in a thread of its own: the flow may have been called where a loop runs already
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(contextvars.copy_context().run, asyncio.run, wait).result()
        except BaseException:  # a signal's, too
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
        while not paused.done() or isinstance(paused.exception(), httpx.TransportError | httpx.HTTPStatusError | Pause):
            # Prefect's own waiting ends when the server is away, and never begins when the server's answer to the pause
            # was lost: asked again, it says that the run is paused already; the run waits on
            await (asyncio.sleep(POLL_INTERVAL_S) if paused.done() else asyncio.wait({paused}, timeout=POLL_INTERVAL_S))
            state = await _state_of(client, run)
            if over.is_set() or stop_requested.is_set() or _is_cancelled(state):
                paused.cancel()
                raise Interrupted("cancelled while it waited for approval; nothing was sent")
            if paused.done() and state is not None and state.is_paused() and not is_stored:
                with contextlib.suppress(httpx.HTTPError):  # at the next look
                    await store()
                    is_stored = True
            if paused.done() and state is not None and state.is_running():
                return None
            if paused.done() and state is not None and state.is_final():
                raise FlowPauseTimeout
    return paused.result()


async def _state_of(client: PrefectClient, run: UUID) -> State[Any] | None:
    try:
        with limited_retries(0):  # an answer, a cancellation or a signal that comes meanwhile is not kept waiting
            return (await client.read_flow_run(run)).state
    except Exception:  # noqa: BLE001 - it is asked again
        return None


def retry_while_unavailable(
    ask: Callable[[], _T],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = stop_requested.wait,
) -> _T:
    """Ask the server for what the run cannot do without, again while it is away or busy, ten minutes at most.

    Raises what the last try raised; Interrupted when this process is asked to stop meanwhile.
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
    """Whether an error says that no server was there, or only one with a failure of its own."""
    return isinstance(error, httpx.TransportError) or (
        isinstance(error, httpx.HTTPStatusError) and error.response.status_code >= 500
    )


def ensure_final_state_accepted() -> None:
    """Wait for the server that is to take the flow run's end, and have it take that.

    A run that was cancelled when all was sent already has ended as it did: a state that says so is taken from one that
    runs, not from one that is being cancelled.
    """
    wait_for_server()
    if not flow_run.id or not is_shared_server():
        return
    run = UUID(flow_run.id)
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        if state is not None and state.is_cancelling():
            client.set_flow_run_state(run, Running(message="cancelled after everything was sent"), force=True)


def wait_for_server(
    answers: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the server answers, ten minutes at most, where a deployed run ends: nobody sees it otherwise.

    Any other run tells its end by itself, so it waits for nobody.
    """
    if answers is None and not is_deployed():
        return
    started = clock()
    tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda is_there: not is_there),
        stop=lambda _: clock() - started >= SERVER_TIMEOUT_S,
        wait=tenacity.wait_fixed(RETRY_INTERVAL_S),
        sleep=sleep,
        retry_error_callback=lambda _: None,
    )(answers or _answers)


def _answers() -> bool:
    with limited_retries(0), get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    return not is_away(error)
