"""Unexpected errors: their kind and place are reported, but not their text, which may contain a cell or a key.

Prefect writes the text of any error that a flow or a task raises, and of its causes, into states, logs and events.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from parquill.tasks.errors import ParquillError, Unforeseen

Arguments = ParamSpec("Arguments")
Given = TypeVar("Given")


def safe_error(error: Exception) -> Exception:
    """Return an error that may be shown: a ParquillError or one of Prefect's as it is, any other by kind and place."""
    if isinstance(error, ParquillError) or type(error).__module__.partition(".")[0] == "prefect":
        return error
    if os.environ.get("PARQUILL_TRACEBACK"):
        sys.stderr.write("".join(traceback.format_tb(error.__traceback__)))  # lines of code, no values
    frames = traceback.extract_tb(error.__traceback__)
    line = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return Unforeseen(
        f"unexpected {type(error).__name__} at {line}; what was answered is kept, run again to resume. "
        "Set PARQUILL_TRACEBACK=1 to see where it came from"
    )


def redact_errors(body: Callable[Arguments, Given]) -> Callable[Arguments, Given]:
    """Decorate the function of a task so that it raises only errors that may be shown."""

    @functools.wraps(body)
    def careful(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Given:
        try:
            return body(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - each is raised again, or replaced
            # promise: S3 an unexpected error in a task is replaced by one without its text
            raised = safe_error(error)
        raise raised  # outside the handler, so that the first error does not stay as its context

    return careful
