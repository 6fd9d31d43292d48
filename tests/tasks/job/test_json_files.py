"""A job in JSON is read as JSON.

`json.dumps` writes an emoji as two escapes, which YAML would read as two lone surrogates.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from parquill.tasks.errors import RowFault
from parquill.tasks.job.load import make_job
from parquill.tasks.job.resolved import resolve
from parquill.tasks.prompts.request import KeyMaker
from tests.tools.small_jobs import LEAST


@pytest.mark.parametrize("setting", ["vars", "response_format"])
def test_a_json_file_is_read_as_json(tmp_path: Path, setting: str) -> None:
    """A file that json.dumps wrote is read back as the same value."""
    value = {"type": "object", "description": "\U0001f600", "properties": {"a": {"type": "string"}}}
    (tmp_path / "value.json").write_text(json.dumps(value), encoding="utf-8")
    job = resolve(make_job({**LEAST, setting: str(tmp_path / "value.json")}), date(2026, 11, 23))
    assert getattr(job, setting) == value


def test_a_lone_surrogate_rejects_its_row() -> None:
    """A message with a lone surrogate, which JSON cannot hold, raises a RowFault."""
    with pytest.raises(RowFault):
        KeyMaker(resolve(make_job(LEAST), date(2026, 11, 23))).key([{"role": "user", "content": "\ud800"}], None, [])
