"""The process of a deployed run: how its run ends when the process cannot go on, or never began.

What Prefect 3.9.1 does, and what follows from it:

- A run that is cancelled while its process starts is never called: the engine is answered "Cancelling" where it asks
  for "Running", and ends with an error. The worker, which saw no running process to stop, does nothing, and the server
  gives up after five minutes, for which the deployment's next run waits. So the process itself ends such a run.
- A worker that is killed leaves the processes of its runs behind, with nobody who reads what they say: at the next line
  of the log rich ends such a process wherever it stands. So a process that nobody listens to falls silent instead. A
  run whose worker is gone stops as an interrupted one does: what is under way is kept, and Crashed says why.
- The engines take any error that a state carries for an "unexpected exception", and write its traceback into the run's
  log, of a task and again of the flow. One that the run ends with on purpose, a refusal or a stop, is told by the
  sentence of the state alone, which is in the log as well.
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
    """Note that the flow of this process is called; that of a deployed run outlives who reads its log."""
    _begun.set()
    for name in ("flow_runs", "task_runs"):
        logging.getLogger(f"prefect.{name}").addFilter(_is_unexpected)
    if not is_deployed():
        return
    if _is_engine():
        _supervised.set()
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.Logger.manager.loggerDict))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        console: Any = getattr(handler, "console", None)
        if hasattr(console, "on_broken_pipe"):
            console.on_broken_pipe = functools.partial(setattr, console, "quiet", True)  # and not SystemExit


def is_deployed() -> bool:
    """Whether the flow that is called here is the run of a deployment."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def worker_is_gone() -> bool:
    """Whether the worker that started this process is gone; a run that sends asks once a second."""
    if _supervised.is_set() and os.getppid() != _WORKER:
        _abandoned.set()
    return _abandoned.is_set()


def crashed_state(error: Interrupted) -> State[Any] | None:
    """The state of a run that was stopped because its worker is gone; None if that is not why."""
    return Crashed(message=f"its worker is gone: {error}", data=error) if _abandoned.is_set() else None


@atexit.register
def cancel_if_never_started() -> None:
    """End the run of this process as cancelled, if it is being cancelled and its flow was never called."""
    run = os.environ.get(RUN_ID)
    if run is None or _begun.is_set() or not _is_engine():
        return
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:  # nobody is left to be told
        state = client.read_flow_run(UUID(run)).state
        if state is not None and state.is_cancelling():
            client.set_flow_run_state(UUID(run), Cancelled(message=UNBEGUN))


def _is_unexpected(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, ParquillError) or isinstance(error, Unforeseen)


def _is_engine() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name in ENGINES
