"""Two real processes that share a limit by a real Prefect server: what arrived, and when both of them sent."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from parquill.tasks.wire.shares import GUARD_S, REQUEST_SLOTS, Share
from tests.end_to_end.jobs import Done, Jobs


@dataclass(frozen=True)
class Shared:
    """How two runs ended; `arrivals` are times (time.monotonic) at the service, `both` is while both were sending."""

    runs: list[Done]
    arrivals: list[float]
    both: tuple[float, float]

    def busiest(self, window_s: float) -> int:
        """The most arrivals in any window."""
        first = most = 0
        for number, at in enumerate(self.arrivals):
            while self.arrivals[first] <= at - window_s:
                first += 1
            most = max(most, number - first + 1)
        return most

    def used(self, per_minute: int) -> float:
        """The part of the limit that was used while both were sending."""
        begin, end = self.both
        return sum(begin <= at < end for at in self.arrivals) / (per_minute * (end - begin) / 60)


def allowed(per_minute: int, window_s: float) -> float:
    """Requests that may arrive in a window, by formula (1) of `shares`."""
    share = Share.of(per_minute, 1, slots=REQUEST_SLOTS)
    seconds = window_s + share.life_s + GUARD_S
    return (share.bucket.capacity + share.bucket.per_second * seconds) / REQUEST_SLOTS


def settings_of(jobs: Jobs, number: int, rows: int, per_minute: int, name: str | None) -> dict[str, Any]:
    """One of the jobs that share a limit."""
    input_path = jobs.write([f"{number}-{row}" for row in range(rows)], f"prompts-{number}.parquet")
    limits = {"max_at_once": 32, "requests_per_minute": per_minute, "shared": name}
    output = str(jobs.folder / f"out-{number}")
    return jobs.job(name=f"shared-{number}", input=str(input_path), output=output, limits=limits)


def run_two(jobs: Jobs, rows: int, per_minute: int, name: str, timeout_s: float = 60) -> Shared:
    """Run two jobs at the same time as real commands."""
    spawned = [jobs.spawn(settings_of(jobs, number, rows, per_minute, name)) for number in range(2)]
    runs = [each.wait(timeout_s) for each in spawned]
    to_monotonic = time.monotonic() - time.time()
    ended = [sorted(at.timestamp() + to_monotonic for at in run.column("finished_at")) for run in runs]
    both = (max(times[0] for times in ended), min(times[-1] for times in ended))
    return Shared(runs, sorted(jobs.service.arrivals()["at"]), both)
