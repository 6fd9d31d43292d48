"""Ends a process that a test has started, by its pid and within a time limit."""

from __future__ import annotations

import signal
import subprocess


def end(process: subprocess.Popen[bytes], within_s: float = 10.0) -> None:
    """Ask a process to stop, if it still runs, and kill it if it does not stop within `within_s` seconds."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
