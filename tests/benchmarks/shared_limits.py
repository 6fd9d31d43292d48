"""Processes that share a limit over real minutes: `python -m tests.benchmarks.shared_limits [--minutes 3]`.

Real `parquill run` processes use one ledger, a separate Prefect server and the fake service, once with a limit of
requests and once with a limit of tokens. It prints the most that arrived in any minute, and the share of the limit that
was used while all were sending.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.deployed.live_stack import LiveStack
from tests.fakes.running import FakeService, fake_openai
from tests.tools.jobs import Jobs
from tests.tools.sharing import run_together

REQUESTS, TOKENS = 1_200, 120_000  # a minute
TOKENS_A_ROW = 62  # about: the template, the row, and the reservation for the answer


def study(folder: Path, service: FakeService, unit: str, processes: int, minutes: float) -> str:
    """Run one limit, shared by this many processes."""
    service.reset()
    folder.mkdir()
    per_minute = REQUESTS if unit == "requests" else TOKENS
    limits: dict[str, Any] = {f"{unit}_per_minute": per_minute, "shared": f"{unit}-{processes}"}
    rows = int(minutes * per_minute / (1 if unit == "requests" else TOKENS_A_ROW) / processes)
    jobs = Jobs(folder, service)
    try:
        done = run_together(jobs, rows, limits, processes=processes, timeout_s=minutes * 60 + 120, unit=unit)
    finally:
        jobs.close()
    codes = {run.exit_code for run in done.runs}
    return (
        f"| {unit} | {processes} | {per_minute:,} | {done.seconds:.0f} s | {done.busiest(60.0) / per_minute:.1%} "
        f"| {done.used(per_minute):.1%} | {codes} |\n"
    )


def main() -> None:
    """Run both kinds of limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        fake_openai(latency_ms=50, prompt_tokens="tiktoken:o200k_base") as service,
    ):
        stack = LiveStack(Path(folder))
        stack.start_server()
        os.environ |= {name: stack.environment[name] for name in ("PREFECT_HOME", "PREFECT_API_URL", "XDG_STATE_HOME")}
        try:
            sys.stdout.write(
                "| limit of | processes | a minute | all sent for | busiest minute | used | exit codes |\n"
            )
            sys.stdout.write("|---|---:|---:|---:|---:|---:|---|\n")
            for unit in ("requests", "tokens"):
                sys.stdout.write(study(Path(folder) / unit, service, unit, given.processes, given.minutes))
                sys.stdout.flush()
        finally:
            stack.close()


if __name__ == "__main__":
    main()
