"""The process of a deployed run: how the run ends if its process cannot continue, or never called the flow.

What Prefect 3.9.1 does, and what this module does about it:

- If a run is cancelled while its process starts, the flow is never called: the engine asks for "Running", gets
  "Cancelling", and ends with an error. The worker saw no running process to stop, so it does nothing. The server gives
  up after five minutes, and the deployment's next run waits that long. So the process itself ends such a run.
- A killed worker leaves the processes of its runs behind, and no one reads their output: at the next log line, rich
  ends such a process wherever it is. So a process whose output is not read stops printing instead. A run whose worker
  is gone stops like an interrupted one: the answers under way are kept, and its state Crashed says why.
- The engines treat any error in a state as an "unexpected exception", and write its traceback into the run's log, once
  for a task and again for the flow. An error that ends the run on purpose, a refusal or a stop, is reported only by
  the sentence of the state, which is in the log as well.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import sys
import threading
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Crashed

from parquill.tasks.errors import Interrupted, ParquillError, Unforeseen

UNBEGUN = "cancelled before it began; nothing was sent"
RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of a process that was started for one deployed run
ENGINES = frozenset({"prefect.engine", "prefect.flow_engine"})  # what such a process runs
_WORKER = os.getppid()
_begun = threading.Event()
_supervised = threading.Event()
_abandoned = threading.Event()


def on_flow_start() -> None:
    """Note that this process called its flow, and let a deployed run survive a worker that no longer reads its log."""
    _begun.set()
    for name in ("flow_runs", "task_runs"):
        # promise: logs: a refusal is not logged as an unexpected exception
        logging.getLogger(f"prefect.{name}").addFilter(_is_unexpected)
    if not is_deployed():
        return
    if _is_engine():
        _supervised.set()
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.Logger.manager.loggerDict))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        console: Any = getattr(handler, "console", None)
        if hasattr(console, "on_broken_pipe"):
            # promise: worker: a run survives the broken log pipe of a killed worker
            console.on_broken_pipe = functools.partial(setattr, console, "quiet", True)  # and not SystemExit


def is_deployed() -> bool:
    """Whether the current flow run belongs to a deployment."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def is_supervised() -> bool:
    """Whether this process was started for one flow run of a deployment, by a worker or a runner."""
    return _supervised.is_set()


def worker_is_gone() -> bool:
    """Whether the worker that started this process is gone; a sending run polls this."""
    if _supervised.is_set() and os.getppid() != _WORKER:
        _abandoned.set()
    return _abandoned.is_set()


def crashed_state(error: Interrupted) -> State[Any] | None:
    """Return the state of a run that was stopped because its worker is gone; None if that is not the reason."""
    return Crashed(message=f"its worker is gone: {error}", data=error) if _abandoned.is_set() else None


def end_unstarted_at_exit() -> None:
    """Have this process end its run when it exits without having called the flow."""
    atexit.unregister(_cancel_if_never_started)  # each flow's file calls this; once is enough
    atexit.register(_cancel_if_never_started)


def _cancel_if_never_started() -> None:
    """End the run of this process as Cancelled if it is being cancelled and its flow was never called."""
    run = os.environ.get(RUN_ID)
    if run is None or _begun.is_set() or not _is_engine():
        return
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:  # too late to report an error
        state = client.read_flow_run(UUID(run)).state
        # promise: worker: a flow run that is cancelled before its flow starts ends as Cancelled
        if state is not None and state.is_cancelling():
            client.set_flow_run_state(UUID(run), Cancelled(message=UNBEGUN))


def _is_unexpected(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    # promise: logs: an unexpected error keeps its traceback
    return not isinstance(error, ParquillError) or isinstance(error, Unforeseen)


def _is_engine() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name in ENGINES
