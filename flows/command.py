"""The console script. Asked to stop before anything has begun, it ends as an interrupted run does, without a word.

Importing takes a fraction of a second of which nobody can say to whom a signal comes; a scheduler that ends a job then
must not take it for a crash.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130  # as errors.Interrupted, which is not imported yet


def main() -> None:
    """Run the command; SIGTERM is what Ctrl-C is."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    from parquill.flows.cli import main as run

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # KeyboardInterrupt: whoever has begun something clears up
    run()


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
