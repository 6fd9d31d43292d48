"""The IDs of runs sort by time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from parquill.tasks.storage.folders import new_run_id


def test_names_sort_by_time() -> None:
    """Of two runs that begin in one second, the later one has the later ID: the index of answers relies on it."""
    begin = datetime(2026, 11, 23, 5, 14, 48, tzinfo=UTC)
    names = [new_run_id(begin + timedelta(milliseconds=number)) for number in range(3_000)]
    assert names == sorted(names)
    assert len(set(names)) == len(names)
