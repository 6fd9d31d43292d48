"""Runs jobs one after another in one process: `python -m tests.tools.measured BATCH_ROWS JOB...`; JSON after each.

A line shows what the process has taken so far and what it still holds: `peak_kib`, `cpu_s` and `seconds` of the job,
`files` and `threads` after it, `tasks` that were left on the event loop at its end. If BATCH_ROWS is not 0, shards and
batches have this number of rows: a few thousand rows then fill and empty every buffer as often as a million.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson

from parquill.tasks.job.load import load_job
from parquill.tasks.llm.open_senders import open_sender
from parquill.tasks.llm.shard_report import SendResult
from parquill.tasks.prompts import input_parquet, prepare, shards
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.results.finish import clear_run
from parquill.tasks.results.writer import write_results
from parquill.tasks.storage.folders import Folders, lock_folders
from tests.tools.peak import peak_kib

ROOT = Path(__file__).resolve().parents[2]


class HostileServer:
    """A running hostile service."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/v1"

    def seen(self) -> dict[str, int]:
        """Return how many requests came for each name."""
        counts: dict[str, int] = httpx.get(f"{self.origin}/seen", trust_env=False).json()
        return counts


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """Run the hostile service as a process."""
    command = [sys.executable, "-m", "tests.tools.hostile_server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield HostileServer(int(process.stdout.readline().split()[1]))
        finally:
            process.kill()


def measure(
    folder: Path,
    jobs: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
    batch_rows: int = 0,
    timeout_s: float = 600,
) -> tuple[list[dict[str, float]], str]:
    """Run jobs in one process of their own; return its lines, and what it wrote to stderr."""
    paths = []
    for number, job in enumerate(jobs):
        paths.append(folder / f"measured-{number}.yaml")
        paths[-1].write_bytes(orjson.dumps(dict(job)))
    done = subprocess.run(
        [sys.executable, "-W", "always", "-m", "tests.tools.measured", str(batch_rows), *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "user-state"), **environment},
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    stderr = done.stderr.decode(errors="replace")
    assert done.returncode == 0, stderr
    return [orjson.loads(line) for line in done.stdout.splitlines()], stderr


def _complete(path: Path) -> int:
    """Run a job's steps; return the number of tasks that its event loop holds when every row is done."""
    job, options = resolve_job(load_job(path), None, None, ())
    folders = Folders.of(job.output, job.state)
    folders.create()
    with lock_folders(folders, "a test"):
        run = prepare_run(job, options)
        assert run is not None
        with open_sender(run) as run_sender, ThreadPoolExecutor(4) as threads:
            ending = SendResult.of(run.shards, list(threads.map(run_sender.complete, run.shards)))
            time.sleep(0.2)  # closed connections take one more turn of the loop
            tasks = len(asyncio.all_tasks(run_sender._loop))
        write_results(run, budget_short=False)
        if not ending.is_stop:
            clear_run(run)
    return tasks


def peak_of(code: str) -> int:
    """Return the most memory (MB) of a process that imports the reader of inputs and runs a line of code."""
    lines = [
        "import contextlib",
        "from parquill.tasks.errors import BadInput",
        "from parquill.tasks.prompts.source import find_source, read_batches",
        "with contextlib.suppress(BadInput):",
        f"    {code}",
        "from tests.tools.peak import peak_kib",
        "print(peak_kib() // 1024)",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=600, check=True)
    return int(done.stdout)


def main() -> None:
    """Run the named jobs."""
    if rows := int(sys.argv[1]):
        prepare.MIN_SHARD = input_parquet.BATCH_ROWS = shards.READ_ROWS = shards.READ_ROWS_WITHOUT_REQUESTS = rows
    for path in sys.argv[2:]:
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        tasks = _complete(Path(path))
        after = resource.getrusage(resource.RUSAGE_SELF)
        line = {
            "peak_kib": peak_kib(),
            "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "seconds": time.monotonic() - began,
            "files": len(list(Path("/proc/self/fd").iterdir())),
            "threads": threading.active_count(),
            "tasks": tasks,
        }
        sys.stdout.write(orjson.dumps(line).decode() + "\n")


if __name__ == "__main__":
    main()
