"""A run's sender completes one shard after another."""

from __future__ import annotations

from pathlib import Path

import pytest

from parquill.tasks.llm.open_senders import open_sender
from tests.fakes.running import FakeService
from tests.tools.direct import job_of, results, run_steps

pytestmark = pytest.mark.integration


def test_a_shard_with_nothing_to_send_has_no_mark_of_being_done(tmp_path: Path, service: FakeService) -> None:
    """A shard that holds only rejected rows is completed without a journal, and its results are written."""
    texts = [" "] * 3  # blank prompts
    settings = job_of(tmp_path, texts, service.url, tolerate={"rejected": 1, "not_ok": 1})
    done = run_steps(settings)
    assert done is not None
    run, _ = done
    assert not run.folder.done(0).exists()
    assert [row["status"] for row in results(settings)] == ["rejected"] * 3
    with open_sender(run) as run_sender:
        assert run_sender.complete(run.shards[0]).is_done
    assert not run.folder.done(0).exists()
