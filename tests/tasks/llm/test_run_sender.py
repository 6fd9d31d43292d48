"""A run's sender completes one shard after another."""

from __future__ import annotations

from pathlib import Path

import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.llm.member_figures import MemberFigures, MemberFile
from parquill.tasks.llm.open_senders import open_sender
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.run_lock import RunMember
from tests.deployed.live_stack import LiveStack
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


def _planned(folder: Path, url: str) -> Run:
    settings = job_of(folder, ["one", "two", "three"], url, budget={"run_usd": 0.001, "soft_fraction": 0.5})
    job, options = resolve_job(make_job(settings), None, None, ())
    Folders.of(job.output, job.state).create()
    run = prepare_run(job, options)
    assert run is not None
    return run


def test_a_stop_ends_the_leadership_of_a_run_that_others_complete(tmp_path: Path, service: FakeService) -> None:
    """As soon as a stop is requested, processes that joined the run see that it is not led any more."""
    run = _planned(tmp_path, service.url)
    with open_sender(run, coordinates=True) as run_sender:
        member = RunMember(run.folder)
        assert member.is_led()
        run_sender.request_stop(0).result(30)
        assert not member.is_led()
        member.close()


def test_the_leader_shows_what_all_processes_have_done(tmp_path: Path, service: FakeService) -> None:
    """Rows, money and warnings of the processes that joined are shown as the leader's own, and soft limits are checked.

    What processes of an earlier start had done does not count.
    """
    run = _planned(tmp_path, service.url)
    MemberFile(run.folder).write(MemberFigures(100))
    with open_sender(run, coordinates=True) as run_sender:
        MemberFile(run.folder).write(MemberFigures(2, 1, 0, 600_000, 5, ("the service is slow",)))
        LiveStack.wait("the figures", lambda: run_sender.progress.done == 2, 30)
        assert (run_sender.progress.not_ok, run_sender.progress.total) == (1, 3)
        assert (run_sender.settled_nano, run_sender.in_doubt_nano) == (600_000, 5)
        assert run_sender.lane.warnings == ["the service is slow"]
        assert "more than 50% of the budget is spent" in run_sender.soft_limits.messages[0]
    assert service.stats()["requests"] == 0
