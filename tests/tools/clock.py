"""Time for tests of waiting: it passes by sleeping only, so that no test waits."""

from __future__ import annotations


class Clock:
    """Gives the seconds that were slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
