"""Time bounds, which only `make nightly` checks: the speed of a machine must not decide a CI run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

# `make nightly-tests` sets it, and selects the tests marked `timed` in addition to those marked `nightly`.
IS_TIMED = os.environ.get("TIMED_TESTS") == "1"


@contextlib.contextmanager
def within(seconds: float, clock: Callable[[], float] = time.monotonic, *, is_timed: bool = IS_TIMED) -> Iterator[None]:
    """Fail when the block takes longer than `seconds` by `clock`; a test that uses this is marked `timed`."""
    began = clock()
    yield
    took = clock() - began
    assert not is_timed or took < seconds, f"took {took:.1f} s; the bound is {seconds} s"
