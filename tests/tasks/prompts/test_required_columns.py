"""A column may be required in one file and have nulls in another."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.storage.folders import Folders


def test_a_column_may_be_required_in_some_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that is required in one file and nullable in another is planned, or the refusal names the difference."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    (tmp_path / "in").mkdir()
    pq.write_table(
        pa.table({"text": ["a"]}, pa.schema([pa.field("text", pa.string(), nullable=False)])), tmp_path / "in/1.parquet"
    )
    pq.write_table(pa.table({"text": ["b", None]}), tmp_path / "in/2.parquet")
    least = {"name": "x", "input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "model": "gpt-4o-mini"}
    job, options = resolve_job(
        make_job({**least, "prompt": {"user": "{{ text }}"}, "max_output_tokens": 5}), date(2026, 11, 23), None, ()
    )
    Folders.of(job.output, job.state).create()
    run = prepare_run(job, options)
    assert run is not None
    assert run.estimate.rows == 3
