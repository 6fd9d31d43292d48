"""Estimates for runs of 20,000 rows on the fake service: `python -m tests.benchmarks.nights [ROWS]`.

For each spread of output lengths it runs a pilot of 100 rows, then a whole night, and estimates the next night from it.
It prints the pilot's interval with the actual cost, and the error of the next night's expected cost.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from parquill.tasks.job.load import make_job
from parquill.tasks.llm.pilot import run_pilot
from parquill.tasks.prompts.prepare import estimate_job, prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.storage.folders import Folders, lock_folders
from tests.fakes.running import FakeService, fake_openai
from tests.tools.direct import job_of, run_steps

USD = Decimal(10**9)


def texts(rows: int, seed: int) -> Iterator[str]:
    """Yield rows whose input length is log-normal."""
    draw = random.Random(seed)
    for row in range(rows):
        yield f"{seed}-{row} " + "word " * max(1, int(draw.lognormvariate(4.0, 0.6)))


def pilot(settings: dict[str, Any]) -> tuple[int, int, int]:
    """Complete 100 rows; return the interval and the expected cost in nano-dollars."""
    job, options = resolve_job(make_job(settings), None, None, ())
    folders = Folders.of(job.output, job.state)
    folders.create()
    with lock_folders(folders, "a study"):
        run = prepare_run(job, options)
        assert run is not None
        found = run_pilot(run, 100).run.estimate
    assert found.low_nano is not None
    assert found.high_nano is not None
    return found.low_nano, found.expected_nano, found.high_nano


def night(folder: Path, service: FakeService, sigma: float, rows: int, seed: int) -> str:
    """Run one spread: pilot, night, the next night's estimate and the next night."""
    service.reset()
    service.configure(output_tokens=f"proportional:0.8:{sigma}", seed=seed)
    settings = job_of(folder / "one", list(texts(rows, seed)), service.url, name=f"n{sigma}", max_output_tokens=150)
    low, expected, high = pilot(settings)
    done = run_steps(settings)
    assert done is not None
    actual = done[0].totals().settled_nano
    assert service.stats()["billed_twice"] == []
    second = job_of(folder / "two", list(texts(rows, seed + 1)), service.url, name=f"n{sigma}", max_output_tokens=150)
    job, options = resolve_job(make_job(second), None, None, ())
    guess = estimate_job(job, options).result()
    done = run_steps(second)
    assert done is not None
    paid = done[0].totals().settled_nano
    held = "holds" if low <= actual <= high else "DOES NOT HOLD"
    return (
        f"sigma {sigma}, seed {seed}: pilot ${low / USD:.4f} to ${high / USD:.4f}, cost ${actual / USD:.4f}: {held} "
        f"(expected off by {expected / actual - 1:+.1%}); next night expected ${guess.expected_nano / USD:.4f}, "
        f"cost ${paid / USD:.4f}: {guess.expected_nano / paid - 1:+.2%} ({guess.basis_note.split(';')[0]})"
    )


def main(rows: int = 20_000, seeds: int = 1) -> None:
    """Print a line for each spread and seed."""
    with tempfile.TemporaryDirectory() as scratch, fake_openai() as service:
        os.environ["XDG_STATE_HOME"] = f"{scratch}/state"
        for sigma in (0.3, 0.5, 0.8):
            for seed in range(seeds):
                folder = Path(scratch) / f"{sigma}-{seed}"
                sys.stdout.write(night(folder, service, sigma, rows, 10 * seed) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
