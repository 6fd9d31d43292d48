"""Rules that each unit test must follow: it starts no process, opens no server, and waits for no time to pass.

Every test below tests/tasks, tests/flows and tests/docs is a unit test unless it is marked `integration`; `make unit`
runs the unit tests. A unit test that breaks a rule fails, even if the code under test swallows the error that the rule
raises.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.util
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
UNIT_FOLDERS = tuple(ROOT / "tests" / name for name in ("tasks", "flows", "docs"))
_OURS = tuple(f"{ROOT / part}{os.sep}" for part in ("tests", "tasks", "flows"))


class RuleBroken(BaseException):
    """A unit test did what only an integration test may do; not an Exception, so that few handlers swallow it."""


class _Rules:
    """The unit test that runs now, and what it did against the rules."""

    def __init__(self) -> None:
        self.is_on = False
        self.broken: list[str] = []

    @contextlib.contextmanager
    def of(self, item: pytest.Item) -> Iterator[None]:
        """Apply the rules to a test, if it is a unit test."""
        self.is_on = is_unit(item)
        try:
            yield
        finally:
            self.is_on = False

    def check(self, what: str) -> None:
        """If a unit test runs now, record what it did and raise."""
        if self.is_on:
            self.broken.append(what)
            raise RuleBroken(f"a unit test {what}; mark it `integration`, or give it a fake")


rules = _Rules()


def is_unit(item: pytest.Item) -> bool:
    """Return whether the rules apply to a test."""
    inside = any(item.path.is_relative_to(folder) for folder in UNIT_FOLDERS)
    return inside and item.get_closest_marker("integration") is None


def _forbid(owner: Any, name: str, what: str, applies: Callable[..., bool] = lambda *_, **__: True) -> None:
    """Have a function checked before it runs."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def checked(*arguments: Any, **named: Any) -> Any:
        if applies(*arguments, **named):
            rules.check(what)
        return original(*arguments, **named)

    setattr(owner, name, checked)


def _is_called_by_us(*_: object) -> bool:
    """Return whether this project's code or the test's own thread made the call; threads of libraries may do it."""
    caller = sys._getframe(3).f_code.co_filename
    return caller.startswith(_OURS) or threading.current_thread() is threading.main_thread()


def _forbid_timers() -> None:
    """Refuse an event loop that sleeps until a timer; a loop that waits for a thread or socket is woken by it."""
    original = selectors.DefaultSelector.select

    def select(self: Any, timeout: float | None = None) -> Any:
        found = original(self, timeout)
        # threads that libraries left behind have loops of their own
        is_tests_own = threading.current_thread() is threading.main_thread()
        if rules.is_on and is_tests_own and not found and timeout is not None and timeout > 0:
            rules.broken.append(f"waited {timeout:.3f} s on an event loop")
        return found

    selectors.DefaultSelector.select = select  # type: ignore[method-assign]


def pytest_configure() -> None:
    """Install the checks; they do nothing while no unit test runs."""
    _forbid(subprocess.Popen, "__init__", "starts a process")
    _forbid(multiprocessing.util, "spawnv_passfds", "starts a process")
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
        _forbid(os, name, "starts a process")
    _forbid(socket.socket, "listen", "opens a server")
    _forbid(time, "sleep", "sleeps", lambda seconds: seconds > 0 and _is_called_by_us())
    _forbid_timers()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Apply the rules while a unit test is set up."""
    rules.broken.clear()
    with rules.of(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Apply the rules while a unit test runs; not at its end, when servers of other tests may be stopped."""
    with rules.of(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a unit test that broke a rule, whatever the code did with the error."""
    report = yield
    if rules.broken and report.when == "call" and is_unit(item) and report.outcome == "passed":
        report.outcome = "failed"
        report.longrepr = (
            f"a unit test {', '.join(sorted(set(rules.broken)))}; mark it `integration`, or give it a fake"
        )
    return report
