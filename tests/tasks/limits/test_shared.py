"""Whole runs against a lender, without Prefect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.limits.shared import ALONE, Sharing
from parquill.tasks.limits.shares import REQUEST_SLOTS, TOKEN_SLOTS, Bucket, BucketShape
from tests.direct import job_of, run_steps
from tests.services.running import FakeService
from tests.tasks.llm.simulated import SimulatedLender

PER_MINUTE = 60_000
pytestmark = pytest.mark.integration


def _lender() -> SimulatedLender:
    lender = SimulatedLender()
    lender.put("requests", BucketShape.of(PER_MINUTE, 1, slots=REQUEST_SLOTS).bucket, 0.0)
    lender.put("tokens", BucketShape.of(1_000_000, 1_000, slots=TOKEN_SLOTS).bucket, 0.0)
    return lender


def test_every_request_leaves_against_a_lease(service: FakeService, tmp_path: Path) -> None:
    """A run whose job shares its limits sends nothing that was not leased, neither a request nor its tokens."""
    lender, said = _lender(), []
    limits = {"requests_per_minute": PER_MINUTE, "tokens_per_minute": 1_000_000, "shared": "all"}
    settings = job_of(tmp_path, [f"row {row}" for row in range(40)], service.url, limits=limits)
    done = run_steps(settings, sharing=Sharing(lender, lambda _, text: said.append(text)))
    assert done is not None
    assert done[1].rows["ok"] == 40
    assert lender.lent["requests"] >= 40 * REQUEST_SLOTS
    assert lender.lent["tokens"] >= sum(service.arrivals()["tokens"]) > 0
    assert said == [
        "limits.shared, requests: 60,000 a minute are shared by all runs that name it",
        "limits.shared, tokens: 1,000,000 a minute are shared by all runs that name it",
    ]


def test_a_limit_that_only_others_set_holds_too(service: FakeService, tmp_path: Path) -> None:
    """A job that sets only one of the two limits keeps to the other as those do that share it, and the log says so."""
    lender, said = _lender(), []
    limits = {"tokens_per_minute": 1_000_000, "shared": "all"}
    settings = job_of(tmp_path, [f"row {row}" for row in range(40)], service.url, limits=limits)
    assert run_steps(settings, sharing=Sharing(lender, lambda _, text: said.append(text))) is not None
    assert lender.lent["requests"] >= 40 * REQUEST_SLOTS
    assert said[1] == (
        "limits.shared, requests: the job sets no requests_per_minute, but others that name it do: 60,000 hold for this "
        "run too"
    )


@pytest.mark.parametrize("kept", ["nobody", "a person who switched it off", "one that nothing can be leased from"])
def test_a_limit_that_nobody_sets_is_none(service: FakeService, tmp_path: Path, kept: str) -> None:
    """Where nobody shares the limit that a job does not set, its requests are not limited, and the log says that too."""
    lender, said = _lender(), []
    if kept == "nobody":
        del lender.buckets["requests"]
    elif kept == "a person who switched it off":
        lender.put("requests", replace(lender.buckets["requests"], active=False), 0.0)
    else:
        lender.put("requests", Bucket(10, 0.0), 0.0)
    limits = {"tokens_per_minute": 1_000_000, "shared": "all"}
    settings = job_of(tmp_path, ["a"], service.url, limits=limits)
    assert run_steps(settings, sharing=Sharing(lender, lambda _, text: said.append(text))) is not None
    assert lender.lent["requests"] == 0
    assert said[1].endswith("and nobody is known to share one, so its requests are not limited")


def test_without_a_name_nothing_is_leased(service: FakeService, tmp_path: Path) -> None:
    """A job without `limits.shared` asks nobody."""
    lender = _lender()
    settings = job_of(tmp_path, ["a"], service.url, limits={"requests_per_minute": PER_MINUTE})
    assert run_steps(settings, sharing=Sharing(lender, ALONE.say)) is not None
    assert lender.asked == 0


def test_a_request_that_hardly_fits_stops_the_run_before_it_sends(service: FakeService, tmp_path: Path) -> None:
    """A request of more than nine tenths of a shared limit is a bad job: nothing is sent, and nothing is left running."""
    limits = {"requests_per_minute": 600, "tokens_per_minute": 62, "shared": "all"}
    settings = job_of(tmp_path, ["a"], service.url, limits=limits)
    with pytest.raises(BadJob, match="is more than 90% of 62"):
        run_steps(settings, sharing=Sharing(_lender(), ALONE.say))
    assert service.arrivals()["at"] == []
