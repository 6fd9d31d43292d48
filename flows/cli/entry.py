"""The console script: how a process begins, before anything is imported, and how it ends, after all output is written.

Imports take a fraction of a second. A signal during that time must end the process as interrupted, or a scheduler that
ends a job then would take it for a crash. At the end, the process exits without tearing down the interpreter, because
threads of this project, of Prefect and of the event loop still run: about once in ten thousand runs a torn-down
interpreter crashed one of them, and a run that had ended well was reported as a segmentation fault.
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
    """Run the command; SIGTERM acts like Ctrl-C. The process ends with the code of the SystemExit."""
    # promise: input: paths and text outside ASCII work in the C locale
    _use_utf8()
    for number in (signal.SIGINT, signal.SIGTERM):
        # promise: C7 a signal during the command's imports ends it as interrupted
        signal.signal(number, _exit_interrupted)
    code = 1
    # registered first, so it runs last: all other exit functions have printed, closed and sent what they had to
    # promise: C7 the command exits with the exit code of its run
    atexit.register(lambda: _flush_and_exit(code))
    from parquill.flows.cli.commands import main as run

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # KeyboardInterrupt, so that cleanup runs
    try:
        run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        raise


def _use_utf8() -> None:
    """Restart in Python's UTF-8 mode if paths are ASCII: in the C locale an é could be neither opened nor shown.

    In other encodings, a character that they lack is shown escaped, and `job_file` refuses a path that contains it.
    """
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode and sys.executable:
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        # for the processes that this one starts
        os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606 - itself
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            # promise: input: characters that an output stream cannot encode are escaped
            stream.reconfigure(errors="backslashreplace")


def _exit_interrupted(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _flush_and_exit(code: int) -> None:
    streams: list[TextIO | None] = [sys.stdout, sys.stderr]  # None if it was closed before the command began
    for stream in streams:
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:  # its reader wanted no more, as `head` does
            continue
        except (OSError, ValueError):  # a full disk did not take the output
            code = code or 1
    os._exit(code)
