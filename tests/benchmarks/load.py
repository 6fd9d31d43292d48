"""The full load: tests/promises/test_load.py tests a fraction of it.

    python -m tests.benchmarks.load [replay] [many-at-once] [million]

`replay` replays a million journal records; `many-at-once` completes 100,000 rows with 256 at once; `million` completes
a million rows of 1 KB. The last two run the real command against the fast fake service on loopback, with Prefect's
embedded server; the peak is VmHWM of the command's process. It exits 1 if a bound does not hold. Without a name it runs
all three.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.measured_run import measure_run
from tests.fakes.running import fake_openai
from tests.tools.many_records import replay_records

MAX_PEAK_MIB = 1024
MAX_REPLAY_S = 20.0


def _run(rows: int, max_at_once: int) -> bool:
    with tempfile.TemporaryDirectory() as folder, fake_openai(remember=False) as service:
        figures = measure_run(Path(folder), service.url, rows, max_at_once)
        stats = service.stats()
    pace = rows / (stats["last_arrival"] - stats["first_arrival"])
    sys.stdout.write(
        f"{rows:,} rows of 1 KB at {max_at_once} at once: peak {figures.peak_mib:.0f} MiB, {pace:,.0f} rows/s while "
        f"completing, {figures.seconds:.0f} s in all\n"
    )
    return figures.peak_mib < MAX_PEAK_MIB


def _replay() -> bool:
    records, seconds, peak_mib = replay_records(500_000)
    sys.stdout.write(f"{records:,} journal records replayed in {seconds:.1f} s, peak {peak_mib} MiB\n")
    return seconds < MAX_REPLAY_S


PARTS: dict[str, Callable[[], bool]] = {
    "replay": _replay,
    "many-at-once": lambda: _run(100_000, 256),
    "million": lambda: _run(1_000_000, 64),
}


def main() -> int:
    """Measure the named parts and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all without a name")
    held = True
    for part in parser.parse_args().parts or PARTS:
        held &= PARTS[part]()
        sys.stdout.flush()
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
