"""Small jobs for unit tests: the fewest settings that are valid, resolved as at a start."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from parquill.tasks.job.load import make_job
from parquill.tasks.job.resolved import ResolvedJob, resolve

DAY = date(2026, 11, 29)
LEAST: dict[str, Any] = {
    "name": "x",
    "input": "in.parquet",
    "output": "out",
    "prompt": {"user": "{{ text }}"},
    "model": "gpt-4o-mini",
    "max_output_tokens": 10,
}


def resolved_job(settings: Mapping[str, Any]) -> ResolvedJob:
    """Resolve a whole mapping of settings for DAY. Raises BadJob."""
    return resolve(make_job(settings), DAY)


def make_test_job(**changes: Any) -> ResolvedJob:
    """Resolve the fewest settings, with changes. Raises BadJob."""
    return resolved_job({**LEAST, **changes})
