"""The time of the fake service in seconds since the epoch: it stands still until a test moves it.

Batches, files, bills and the organization's figures use this time. Rate limits, latency and the log of requests use
the machine's own clock.

    still     starts at `clock_start`, or at the real time of the start or reset; moves only by `/_control/clock` and
              by `batch.poll_advance_s`
    running   the same, and it also goes on by itself
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ServiceClock:
    """Tells and moves the time of one service."""

    def __init__(self, start: float | None, *, running: bool, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self.restart(start, running=running)

    def restart(self, start: float | None, *, running: bool) -> None:
        """Begin at `start`, or at the real time."""
        self._since = self._wall()
        self._at = self._since if start is None else start
        self._running = running

    def run(self, *, running: bool) -> None:
        """Let the time go on by itself from here, or stop it here."""
        self._at, self._since, self._running = self.now, self._wall(), running

    @property
    def now(self) -> float:
        """Return the time."""
        return self._at + (self._wall() - self._since if self._running else 0.0)

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self._at += seconds
