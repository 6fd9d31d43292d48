"""How far a run is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """What a bar shows; written by the sender, read by anybody."""

    total: int = 0
    done: int = 0
    not_ok: int = 0
    sent: int = 0
    throttled: int = 0
    begun: int = 0  # rows that were done before: of an interrupted start
    started: float = field(default_factory=time.monotonic)

    def pace(self, now: float) -> float:
        """Rows a second since the start, by the monotonic clock."""
        return (self.done - self.begun) / max(0.001, now - self.started)

    def left_s(self, now: float) -> float | None:
        """Seconds to the end at this pace; None before there is one."""
        pace = self.pace(now)
        return (self.total - self.done) / pace if pace else None
