"""Shard files hold every prompt, so they are private (0600), whatever the umask (S3)."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.storage.folders import Folders


def test_files_of_prompts_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files under .parquill/ have mode 0600, even with a umask of 022."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "in.parquet")
    least = {
        "name": "x",
        "input": str(tmp_path / "in.parquet"),
        "output": str(tmp_path / "out"),
        "model": "gpt-4o-mini",
    }
    job, options = resolve_job(
        make_job({**least, "prompt": {"user": "{{ text }}"}, "max_output_tokens": 5}), date(2026, 11, 23), None, ()
    )
    before = os.umask(0o022)
    try:
        Folders.of(job.output, job.state).create()
        prepare_run(job, options)
    finally:
        os.umask(before)
    modes = {
        path.name: oct(path.stat().st_mode & 0o777)
        for path in (tmp_path / "out/.parquill").rglob("*")
        if path.is_file()
    }
    assert set(modes.values()) == {"0o600"}, modes
