"""Runs a job's steps without Prefect, for tests of the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from parquill.tasks.job.load import make_job
from parquill.tasks.llm.abandoned import collect_abandoned
from parquill.tasks.llm.client import aiohttp_transport
from parquill.tasks.llm.open_senders import open_sender
from parquill.tasks.llm.pace import REAL, Pace
from parquill.tasks.llm.rounds import Rounds
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.results.finish import finish_run, summary_while_running
from parquill.tasks.results.totals import ResultTotals
from parquill.tasks.results.writer import write_results
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.folders import Folders, lock_folders


def job_of(folder: Path, texts: Sequence[str], url: str, **settings: Any) -> dict[str, Any]:
    """Write texts as a Parquet file with ids, and return the settings of a job over it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": [f"r{row}" for row in range(len(texts))], "text": list(texts)})
    pq.write_table(table, folder / "prompts.parquet")
    return {
        "name": "direct",
        "input": str(folder / "prompts.parquet"),
        "output": str(folder / "out"),
        "id_column": "id",
        "prompt": {"user": "{{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 50,
        **({} if "endpoints" in settings else {"endpoint": {"base_url": url}}),
        **settings,
    }


def run_steps(
    settings: Mapping[str, Any],
    *,
    redo: Sequence[str] = (),
    limit: int | None = None,
    transport: Callable[[], httpx.AsyncBaseTransport] = aiohttp_transport,
    disk: Disk = DISK,
    pace: Pace = REAL,
    stay_s: float | None = None,
) -> tuple[Run, ResultTotals] | None:
    """Read, complete, write and summarize a job to its end, as the flow does; return None if it has nothing to do."""
    job, options = resolve_job(make_job(settings), None, limit, redo)
    folders = Folders.of(job.output, job.state)
    folders.create(disk)
    with lock_folders(folders, "a test"):
        run = prepare_run(job, options, disk=disk, collect=partial(collect_abandoned, transport=transport, pace=pace))
        if run is None:
            return None
        with summary_while_running(run, disk):
            with open_sender(run, transport, disk, pace=pace) as run_sender, ThreadPoolExecutor(4) as threads:
                rounds = Rounds(run, run_sender, stay_s)
                for shards in rounds:
                    rounds.add(threads.map(run_sender.complete, shards))
                ending = rounds.ending()
            sums, _ = write_results(run, budget_short=ending.over_budget > 0, disk=disk)
            finish_run(run, sums, ending, disk)
        return run, sums


def results(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a job's results, in their order."""
    rows: list[dict[str, Any]] = pq.read_table(Path(settings["output"]) / "results").to_pylist()
    return rows


def summary_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a job's latest run."""
    found: dict[str, Any] = orjson.loads((Path(settings["output"]) / "summary.json").read_bytes())
    return found
