"""How far a run is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from parquill.tasks.llm.member_figures import MemberFigures


@dataclass(slots=True)
class Progress:
    """The figures of a progress bar. Only the event loop writes them; any thread may read them."""

    total: int = 0
    done: int = 0
    not_ok: int = 0
    done_before: int = 0  # rows that earlier, interrupted starts have done
    started: float = field(default_factory=time.monotonic)

    def with_members(self, members: MemberFigures) -> Progress:
        """Return the progress of a run with that of the processes that joined it."""
        return replace(
            self,
            done=self.done + members.done,
            not_ok=self.not_ok + members.not_ok,
            done_before=self.done_before + members.done_before,
        )

    @property
    def left(self) -> int:
        """Rows that have no outcome yet."""
        return max(0, self.total - self.done)

    def rate(self, now: float) -> float:
        """Return the rows per second since the start; `now` is of the monotonic clock."""
        return (self.done - self.done_before) / max(0.001, now - self.started)

    def eta_s(self, now: float) -> float | None:
        """Return the seconds to the end at the current rate; None before there is a rate."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate else None
