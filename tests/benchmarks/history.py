"""How long a start takes over many earlier runs: `python -m tests.benchmarks.history [RUNS ...]` (5 500).

Each earlier run has 200 shards with a journal each, a day old. It measures the first start, which indexes them, a
second start with another prompt, and a start with nothing to do. There is no Prefect, and the service answers at once.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.tools.answering import Answering
from tests.tools.direct import job_of, run_steps

SHARDS = 200
DAY_S = 86_400


def build(folder: Path, runs: int) -> dict[str, Any]:
    """Return a job whose state has this many finished runs; their shards are links to files of one run."""
    settings = job_of(folder, [f"text {number}" for number in range(20)], "http://127.0.0.1:9/v1")
    run_steps(settings, transport=Answering().open)
    folder_of_runs = Path(settings["output"]) / ".parquill" / "runs"
    first = next(folder_of_runs.iterdir())
    for number in range(runs):
        run = folder_of_runs / f"20251201-{number:06d}-aaaaaa"
        shutil.copytree(first, run)
        for name in ("journals", "done", "begun"):
            whole = next((run / name).iterdir())
            for shard in range(1, SHARDS):
                os.link(whole, run / name / f"{shard:06d}{whole.suffix}")
    before = time.time() - DAY_S
    for path in sorted(folder_of_runs.rglob("*"), key=lambda path: -len(path.parts)):
        os.utime(path, (before, before))
    return settings


def _seconds(settings: dict[str, Any]) -> float:
    began = time.monotonic()
    run_steps(settings, transport=Answering().open)
    return time.monotonic() - began


def main() -> None:
    """Print one line for each number of runs."""
    for runs in [int(each) for each in sys.argv[1:]] or [5, 500]:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PARQUILL_LEDGER_URL"] = f"sqlite:///{folder}/ledger.sqlite"
            settings = build(Path(folder), runs)
            first, second, idle = (
                _seconds({**settings, "prompt": {"user": f"{{{{ text }}}} {word}"}}) for word in ("a", "b", "b")
            )
            sys.stdout.write(
                f"{runs} earlier runs: first start {first:.2f} s, next {second:.2f} s, nothing to do {idle:.2f} s\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
