"""The rules for unit tests hold: what an integration test may do fails a unit test."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.tools.unit_rules import ROOT, RuleBroken, is_unit, rules

BROKEN: dict[str, Callable[[], object]] = {
    "starts a process": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "forks": os.fork,
    "opens a server": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    "sleeps": lambda: time.sleep(0.001),
}


def _item(path: str, *markers: str) -> pytest.Item:
    made = SimpleNamespace(path=ROOT / path, get_closest_marker=lambda name: name if name in markers else None)
    return cast("pytest.Item", made)


def test_which_tests_are_unit_tests() -> None:
    """Tests of tests/tasks, tests/flows and tests/docs are unit tests unless they are marked `integration`."""
    assert is_unit(_item("tests/tasks/llm/test_x.py"))
    assert is_unit(_item("tests/flows/test_x.py", "nightly"))
    assert is_unit(_item("tests/docs/test_x.py"))
    assert not is_unit(_item("tests/flows/test_x.py", "integration"))
    assert not is_unit(_item("tests/promises/test_x.py"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("what", BROKEN)
def test_a_unit_test_may_not(what: str) -> None:
    """A unit test that starts a process, opens a server or sleeps is stopped there.
    It fails even if it swallows the error.
    """
    with rules.of(_item("tests/tasks/test_x.py")):
        with pytest.raises(RuleBroken):
            BROKEN[what]()
        assert rules.broken
    rules.broken.clear()


def test_a_unit_test_may_not_wait_on_an_event_loop() -> None:
    """A unit test that waits for a timer of a real event loop fails; one that waits for a thread does not."""
    with rules.of(_item("tests/tasks/test_x.py")):
        asyncio.run(asyncio.to_thread(Path("/").exists))
        assert not rules.broken
        asyncio.run(asyncio.sleep(0.001))
        assert rules.broken
    rules.broken.clear()


def test_an_integration_test_may() -> None:
    """The rules do not apply to an integration test."""
    with rules.of(_item("tests/tasks/test_x.py", "integration")):
        time.sleep(0.001)
    assert not rules.broken
