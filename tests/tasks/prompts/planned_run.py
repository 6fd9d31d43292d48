"""A planned run in a test's folder, for tests that only need a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parquill.tasks.job.load import make_job
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.folders import Folders


def plan_run(folder: Path, **budget: Any) -> Run:
    """Plan a run of three rows; nothing is sent."""
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), folder / "in.parquet")
    settings = {"input": str(folder / "in.parquet"), "output": str(folder / "out"), "prompt": {"user": "{{ text }}"}}
    job = make_job({"name": "x", **settings, "model": "gpt-4o-mini", "max_output_tokens": 50, "budget": budget})
    resolved, options = resolve_job(job, None, None, ())
    Folders.of(resolved.output, resolved.state).create()
    run = prepare_run(resolved, options)
    assert run is not None
    return run


def more_expensive(run: Run, by: int = 1) -> Run:
    """Return the run as if a pilot had found it to be more expensive, by nano-dollars."""
    return replace(run, estimate=replace(run.estimate, expected_nano=run.estimate.expected_nano + by))
