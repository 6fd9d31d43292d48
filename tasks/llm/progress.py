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
    done_before: int = 0  # rows that were done before: of an interrupted start
    started: float = field(default_factory=time.monotonic)

    def rate(self, now: float) -> float:
        """Rows a second since the start, by the monotonic clock."""
        return (self.done - self.done_before) / max(0.001, now - self.started)

    def eta_s(self, now: float) -> float | None:
        """Seconds to the end at this rate; None before there is one."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate else None
