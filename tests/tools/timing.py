"""Bounds on time, which only `make nightly` checks: how fast a machine is decides nothing in CI."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

# `make nightly-tests` sets it, and selects the tests that are marked `timed` beside those of the night.
IS_TIMED = os.environ.get("TIMED_TESTS") == "1"


@contextlib.contextmanager
def within(seconds: float, clock: Callable[[], float] = time.monotonic, *, is_timed: bool = IS_TIMED) -> Iterator[None]:
    """Fail when the block takes longer than `seconds` by `clock`; a test that uses this is marked `timed`."""
    began = clock()
    yield
    took = clock() - began
    assert not is_timed or took < seconds, f"took {took:.1f} s; the bound is {seconds} s"
