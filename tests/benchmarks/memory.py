"""Peak memory and pace of the real command at 20,000 and at 200,000 rows, side by side.

    python -m tests.benchmarks.memory [--rows 20000,200000] [--max-at-once 256]

Each run is one `parquill run` process with Prefect's embedded server, against the fast fake service on loopback.
The peak is VmHWM of that process as the kernel reports it, read until the process ends.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.measured_run import measure_run
from tests.fakes.running import fake_openai


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each size, and the ratio of the last peak to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="20000,200000")
    parser.add_argument("--max-at-once", type=int, default=256)
    options = parser.parse_args(arguments)
    found = []
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory() as folder, fake_openai(remember=False) as service:
            figures = measure_run(Path(folder), service.url, rows, options.max_at_once)
            stats = service.stats()
        pace = rows / (stats["last_arrival"] - stats["first_arrival"])
        found.append(figures.peak_mib)
        print(  # noqa: T201 - a benchmark prints
            f"{rows:>9,} rows: peak {figures.peak_mib:.0f} MiB, {pace:,.0f} rows/s while completing, "
            f"{figures.seconds:.0f} s in all",
            flush=True,
        )
    print(f"peak, last to first: {found[-1] / found[0]:.3f}")  # noqa: T201 - a benchmark prints


if __name__ == "__main__":
    main()
