"""Runs a job's steps without Prefect, for tests of what lies below it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from parquill.tasks.disk.results import RowSums, write_results
from parquill.tasks.disk.run import Run
from parquill.tasks.disk.state import Folders, hold
from parquill.tasks.job_file import make_job
from parquill.tasks.place import place
from parquill.tasks.rows.prepare import prepare_run
from parquill.tasks.wire.sending import sending


def job_of(folder: Path, texts: list[str], url: str, **settings: Any) -> Mapping[str, Any]:
    """Write texts as a Parquet file and give the settings of a job over it."""
    pq.write_table(pa.table({"text": texts}), folder / "prompts.parquet")
    return {
        "name": "direct",
        "input": str(folder / "prompts.parquet"),
        "output": str(folder / "out"),
        "prompt": {"user": "{{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 50,
        "endpoint": {"base_url": url},
        **settings,
    }


def run_steps(settings: Mapping[str, Any]) -> tuple[Run, RowSums]:
    """Read, complete and write a job to its end."""
    job, options = place(make_job(settings), None, None, ())
    folders = Folders.of(job)
    folders.create()
    with hold(folders, "a test"):
        run = prepare_run(job, options)
        assert run is not None
        with sending(run) as opened, ThreadPoolExecutor(4) as threads:
            list(threads.map(opened.complete, run.shards))
            short = opened.sender.over_budget > 0
        return run, write_results(run, budget_short=short)[0]
