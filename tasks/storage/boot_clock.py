"""How long a run took, by a clock that cannot be set.

The wall clock may be set back or forward during a run, or between an interruption and the next start. Linux counts the
seconds since the machine booted, sleep included, and gives each boot an id. Two times with the same boot id can be
compared in any process. After a reboot, or on another machine, only the wall clock is left.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds since the machine booted, and the id of that boot; None where the system has no boot id."""

    boot_id: str | None
    boot_s: float

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        boot_id = None
        with contextlib.suppress(OSError, UnicodeDecodeError):
            boot_id = _BOOT_ID.read_text(encoding="ascii").strip() or None
        return cls(boot_id, seconds_since_boot())


def seconds_since_boot() -> float:
    """Seconds since the machine booted, sleep included; the same clock in all processes."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def elapsed_s(began: Moment | None, ended: Moment, started_at: datetime, finished_at: datetime) -> float:
    """Seconds from `began` to `ended`, never negative; the wall clock's times are used if the boot ids differ."""
    if began is not None and began.boot_id is not None and began.boot_id == ended.boot_id:
        # promise: clock: a change of the wall clock does not affect a duration
        return max(0.0, ended.boot_s - began.boot_s)
    # promise: clock: a duration is never negative
    return max(0.0, (finished_at - started_at).total_seconds())
