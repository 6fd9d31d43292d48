"""An estimate learns from earlier runs of the same job."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.job.settings import Job
from parquill.tasks.money.learning import keep_past, read_past
from parquill.tasks.money.ledger import Ledger, RunEntry
from parquill.tasks.money.length_stats import History
from parquill.tasks.records import Usage

NOW = datetime(2026, 11, 29, 3, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def _job(user: str, **changes: Any) -> Job:
    least = {"name": "nightly", "input": "in", "output": "out", "model": "gpt-4o-mini", "max_output_tokens": 50}
    return make_job({**least, "prompt": {"user": user}, **changes})


def _run(job: Job, run_id: str, expected: int, paid: int) -> None:
    ledger = Ledger()
    ledger.open_run(
        RunEntry(run_id, job.name, job.model, "", {}, "out", "state", "host", expected, NOW), paid, 0, 0, NOW
    )
    ledger.close()
    history = History(runs=1)
    history.add(10, Usage(prompt=10, completion=5), job.max_output_tokens)
    keep_past(job, run_id, history, NOW)


def test_the_last_run_is_one_of_the_same_prompt() -> None:
    """The last estimate comes from the latest run with the same prompt and output settings."""
    one, other = _job("{{ text }}"), _job("Translate: {{ text }}")
    _run(one, "20261127-030000-aaaaaa", 1_000, 900)
    _run(other, "20261128-030000-bbbbbb", 7_000, 3_000)
    assert read_past(one).last == (1_000, 900)
    assert read_past(other).last == (7_000, 3_000)
    assert read_past(one, "20261127-030000-aaaaaa").last is None
    assert read_past(_job("{{ text }}", max_output_tokens=60)).last is None
    assert read_past(_job("{{ text }}", input="elsewhere")).last == (1_000, 900)
