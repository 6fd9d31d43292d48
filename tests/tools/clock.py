"""A clock for tests of waiting: time passes only by sleeping, so no test waits."""

from __future__ import annotations


class Clock:
    """Returns the seconds that were slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
