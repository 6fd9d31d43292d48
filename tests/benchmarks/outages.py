"""What an outage of the service costs a run: `python -m tests.benchmarks.outages [--seconds 30]`.

The real command runs with default settings over the fake service, which fails every request for a while after its first
hundred answers: with its own error body or a gateway's page. A third kind fails 30 % of the requests during the whole
run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fakes.running import FakeService, fake_openai
from tests.tools.jobs import Jobs

ROWS = 1_208
KINDS: dict[str, dict[str, Any]] = {
    "error body": {"kind": "status:500", "after": 100},
    "gateway's page": {"kind": "gateway:502", "after": 100},
    "a third, always": {"kind": "status:500", "probability": 0.3},
}


def study(folder: Path, service: FakeService, name: str, seconds: float) -> str:
    """Run one job through one outage."""
    service.reset()
    folder.mkdir()
    rule = KINDS[name]
    service.configure(latency_ms=20, faults=[rule])

    def recover() -> None:
        while service.stats()["requests"] <= 100:
            time.sleep(0.05)
        time.sleep(seconds)
        service.configure(latency_ms=20, faults=[])

    recovery = threading.Thread(target=recover, daemon=True)
    if "after" in rule:
        recovery.start()
    jobs = Jobs(folder, service)
    try:
        done = jobs.run(jobs.job([f"text {n}" for n in range(ROWS)], budget={"run_usd": 0.06}))
    finally:
        jobs.close()
    rows = ", ".join(f"{status} {count:,}" for status, count in Counter(done.column("status")).items())
    failed = sum(count for status, count in service.stats()["statuses"].items() if not status.startswith("2"))
    return (
        f"| {name} | {rows} | {failed:,} | ${done.summary['in_doubt_usd']} | {done.exit_code} "
        f"| {done.summary['duration_s']:.0f} s |\n"
    )


def main() -> None:
    """Run each kind of outage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, fake_openai() as service:
        sys.stdout.write(
            "| outage | rows | failed requests | in doubt | exit | in all |\n|---|---|---:|---:|---:|---:|\n"
        )
        for number, name in enumerate(KINDS):
            sys.stdout.write(study(Path(folder) / str(number), service, name, given.seconds))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
