"""The signals of a command: what Ctrl-C and SIGTERM do before anything is sent, and while a run sends.

`entry` has the time before these modules are imported. A deployed run gets its SIGTERM in `orchestration.flow_run`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from parquill.flows.cli.console import print_line
from parquill.tasks.errors import Interrupted

IMPORT_POLL_INTERVAL_S = 0.05  # between two checks whether an import is under way


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[Callable[[], None]]:
    """Before anything is sent, let Ctrl-C and SIGTERM remove an unfinished plan and end with exit code 130.

    Yields a function to call before anything is sent: it raises Interrupted if there was such a signal. The exception
    of the signal handler is not enough, since a library may take it for its own error and continue. During an import
    the handler waits: an interrupted import of Prefect prints a traceback and leaves Prefect half imported.
    """
    asked = False

    def stop(_number: int, frame: FrameType | None) -> None:
        nonlocal asked
        # promise: C7 a signal is remembered even if a library swallows its exception
        asked = True
        # promise: signals: a signal during an import takes effect after the import
        if _is_importing(frame):
            # promise: signals: a signal deferred by an import is delivered again
            signal.setitimer(signal.ITIMER_REAL, IMPORT_POLL_INTERVAL_S)
            return
        raise KeyboardInterrupt

    def refuse_if_asked() -> None:
        if asked:
            raise Interrupted("interrupted before anything was sent")

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        yield refuse_if_asked
    except (Exception, KeyboardInterrupt):
        # promise: C7 a signal interrupts the command even if a library raises another error
        refuse_if_asked()  # whatever a library made of it
        raise
    finally:
        # promise: signals: no timer for a deferred signal stays armed
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name, handler in before.items():
            signal.signal(name, handler)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def stop_on_signal() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM stop the run gently, and the second at once."""
    from parquill.tasks.llm.open_senders import request_stop_all
    from parquill.tasks.orchestration.flow_run import push_sigterm_handler

    before: dict[signal.Signals, Any] = {}

    def stop(_number: int, _frame: FrameType | None) -> None:
        for name, handler in before.items():
            signal.signal(name, handler)
        print_line("stopping: waiting for the requests under way; interrupt again to stop at once")
        # promise: C7 no new request is sent after the first signal
        request_stop_all()

    for name in (signal.SIGINT, signal.SIGTERM):
        before[name] = signal.signal(name, stop)
    try:
        with push_sigterm_handler(stop):
            yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
