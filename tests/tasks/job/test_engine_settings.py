"""The setting `engine`: how many processes complete a run, and what each of them may do."""

from __future__ import annotations

import os
from typing import Any

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.prompts.resolve import resolve_job

JOB: dict[str, Any] = {
    "name": "engines",
    "input": "in.parquet",
    "output": "out",
    "prompt": {"user": "x"},
    "model": "gpt-6-luna",
    "max_output_tokens": 10,
}


def _resolved(**changes: Any) -> Any:
    return resolve_job(make_job({**JOB, **changes}), None, None, ())[0]


def test_a_run_is_completed_in_one_process_by_default() -> None:
    """Without the setting, and with `kind: threads`, the process of the run completes it."""
    assert _resolved().parts == _resolved(engine={"kind": "threads"}).parts == 1


def test_processes_default_to_one_for_each_core() -> None:
    """With `kind: processes` there is one process for each core that this process may use."""
    assert _resolved(engine={"kind": "processes"}).parts == min(64, len(os.sched_getaffinity(0)))
    assert _resolved(engine={"kind": "processes", "workers": 5}).parts == 5


def test_each_process_has_a_place() -> None:
    """No more processes are started than requests may be under way, also at one of several endpoints."""
    engine = {"kind": "processes", "workers": 8}
    assert _resolved(engine=engine, limits={"max_at_once": 3}).parts == 3
    endpoints = [
        {"base_url": "https://a.example/v1", "limits": {"max_at_once": 2}},
        {"base_url": "https://b.example/v1"},
    ]
    assert _resolved(engine=engine, endpoints=endpoints).parts == 2


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_all_processes_together_keep_the_most_at_once(workers: int) -> None:
    """Each process gets its share of `max_at_once`, of the job and of each endpoint; their sum is not larger."""
    endpoints = [
        {"base_url": "https://a.example/v1", "limits": {"max_at_once": 10, "requests_per_minute": 60}},
        {"base_url": "https://b.example/v1"},
    ]
    job = _resolved(engine={"kind": "processes", "workers": workers}, limits={"max_at_once": 50}, endpoints=endpoints)
    part = job.one_part()
    for whole, own in zip(job.each_endpoint, part.each_endpoint, strict=True):
        assert 1 <= own.limits.max_at_once * workers <= whole.limits.max_at_once
        assert own.limits.requests_per_minute == whole.limits.requests_per_minute
    assert 1 <= part.limits.max_at_once * workers <= 50
    assert job.limits.max_at_once == 50


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"engine": {"workers": 2}}, "`workers` needs `kind: processes`"),
        ({"engine": {"kind": "processes", "workers": 0}}, "greater than or equal to 1"),
        ({"engine": {"kind": "dusk"}}, "threads"),
        ({"engine": {"kind": "processes"}, "lane": "batch"}, "`lane: batch` is planned in one process"),
        ({"engine": {"kind": "processes"}, "lane": "auto", "finish_by": "8h"}, "`lane: auto` is planned in one"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], reason: str) -> None:
    """A number of processes without processes, unknown engines, and lanes that one process plans are refused."""
    with pytest.raises(BadJob, match=reason):
        make_job({**JOB, **changes})
