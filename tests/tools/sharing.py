"""Real processes that share a limit through the ledger: what arrived, and the time in which all of them sent."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from parquill.tasks.limits.lease_client import QUANTUM
from parquill.tasks.limits.meters import GUARD_S, MAX_PACE
from parquill.tasks.limits.rate_ledger import LEASE_S
from tests.tools.jobs import Done, Jobs


@dataclass(frozen=True)
class Shared:
    """How the runs ended.

    `arrivals` are (time.monotonic, units) at the service, and `all_sent` is the time in which all were sending.
    """

    runs: list[Done]
    arrivals: list[tuple[float, int]]
    all_sent: tuple[float, float]

    @property
    def seconds(self) -> float:
        """Return how long all were sending."""
        return self.all_sent[1] - self.all_sent[0]

    def busiest(self, window_s: float) -> int:
        """Return the most units that arrived in any window."""
        first = total = most = 0
        for at, units in self.arrivals:
            total += units
            while self.arrivals[first][0] <= at - window_s:
                total -= self.arrivals[first][1]
                first += 1
            most = max(most, total)
        return most

    def used(self, per_minute: int) -> float:
        """Return the part of the limit that was used while all were sending."""
        begin, end = self.all_sent
        return sum(units for at, units in self.arrivals if begin <= at < end) / (per_minute * self.seconds / 60)


def allowed(per_minute: int, window_s: float, processes: int) -> float:
    """Return the requests that may arrive in a window: the fastest pace, and a lease of each process."""
    return per_minute / 60 * MAX_PACE * (window_s + LEASE_S + GUARD_S) + processes * (per_minute * QUANTUM + 1)


def settings_of(jobs: Jobs, number: int, rows: int, limits: dict[str, Any]) -> dict[str, Any]:
    """Return one of the jobs that share a limit."""
    input_path = jobs.write([f"{number}-{row}" for row in range(rows)], f"prompts-{number}.parquet")
    output = str(jobs.folder / f"out-{number}")
    limits = {"max_at_once": 32, **limits}
    return jobs.job(name=f"shared-{number}", input=str(input_path), output=output, limits=limits)


def run_together(
    jobs: Jobs, rows: int, limits: dict[str, Any], *, processes: int = 2, timeout_s: float = 60, unit: str = "requests"
) -> Shared:
    """Run jobs with `rows` rows each at the same time, each as the real command; `unit` is what arrivals count."""
    spawned = [jobs.spawn(settings_of(jobs, number, rows, limits)) for number in range(processes)]
    runs = [each.wait(timeout_s) for each in spawned]
    for run in runs:
        assert run.exit_code == 0, run.stderr
    to_monotonic = time.monotonic() - time.time()
    ended = [sorted(at.timestamp() + to_monotonic for at in run.column("finished_at")) for run in runs]
    arrivals = jobs.service.arrivals()
    units = arrivals["tokens"] if unit == "tokens" else [1] * len(arrivals["at"])
    together = (max(times[0] for times in ended), min(times[-1] for times in ended))
    return Shared(runs, sorted(zip(arrivals["at"], units, strict=True)), together)
