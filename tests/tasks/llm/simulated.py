"""`simulate` runs a coroutine on an event loop in simulated time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _NoWaiting(selectors.SelectSelector):
    """A selector that moves the clock to the next timer instead of waiting for it."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "every coroutine waits forever"
        self.now += max(0.0, timeout)
        return []  # nothing happens outside the simulation


def simulate(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on a loop whose clock moves only while no coroutine can continue."""
    selector = _NoWaiting()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(work)
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.wait(pending))
        loop.close()
