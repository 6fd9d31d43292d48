"""How time passes for a lane. Tests pass their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple


class Pace(NamedTuple):
    """Batches use `sleep` and `now`, in seconds since 1970. Requests that are sent one by one use `nap` and `clock`."""

    sleep: Callable[[float], Awaitable[None]]
    now: Callable[[], float]
    nap: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic


REAL: Final = Pace(asyncio.sleep, time.time)
