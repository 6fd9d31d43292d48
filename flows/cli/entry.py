"""The console script: how a process begins, before anything is imported, and how it ends, after all has been said.

Importing takes a fraction of a second of which nobody can say to whom a signal comes; a scheduler that ends a job then
must not take it for a crash. At its end the interpreter would be taken down under threads that still run, of this
project, of Prefect and of the event loop; once in some ten thousand runs one of them fell into a hole, and a run that
had ended well was a segmentation fault to whoever started it.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
from types import FrameType
from typing import TextIO

INTERRUPTED = 130  # as errors.Interrupted, which is not imported yet


def main() -> None:
    """Run the command; SIGTERM is what Ctrl-C is. The process ends with the code of the SystemExit."""
    _use_utf8()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit_interrupted)
    code = 1
    # registered before any other, so it runs after all others: whatever has to be said, closed or sent has been
    atexit.register(lambda: _flush_and_exit(code))
    from parquill.flows.cli.commands import main as run

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # KeyboardInterrupt: whoever has begun something clears up
    try:
        run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        raise


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where paths are ASCII: in the C locale an é could be neither opened nor shown.

    In other encodings that lack a character it is shown escaped, and a path that has it is refused by `job_file`.
    """
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode and sys.executable:
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        # for the processes that this one starts
        os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606 - itself
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _exit_interrupted(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _flush_and_exit(code: int) -> None:
    streams: list[TextIO | None] = [sys.stdout, sys.stderr]  # none that was closed before the command began
    for stream in streams:
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # nobody, or no disk, has taken what was said
            code = code or 1
    os._exit(code)
