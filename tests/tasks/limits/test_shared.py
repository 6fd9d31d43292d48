"""Whole runs share limits through the ledger, without Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.limits.rate_ledger import RateHolder, RateLedger, describe
from parquill.tasks.limits.shared import SharedLimits
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.storage.folders import Folders
from tests.fakes.running import FakeService
from tests.tools.direct import job_of, results, run_steps

PER_MINUTE = 60_000
pytestmark = pytest.mark.integration


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RateLedger:
    """The ledger of these runs."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    monkeypatch.setenv("PARQUILL_LEDGER_URL", url)
    return RateLedger(url)


def _job(folder: Path, service: FakeService, **limits: Any) -> dict[str, Any]:
    return job_of(folder, [f"row {row}" for row in range(40)], service.url, limits={**limits, "shared": "all"})


def _other(ledger: RateLedger, dimension: str, limit: int, largest: int = 1) -> RateHolder:
    """Register another run under the same name."""
    other = RateHolder("all", dimension, "another", "another-run", "another job", "another host", limit, largest)
    ledger.lease(other, 0, 0)
    return other


def test_every_request_leaves_against_a_lease(service: FakeService, tmp_path: Path, ledger: RateLedger) -> None:
    """A run that shares its limits sends nothing that was not leased, and leaves no lease behind at its end."""
    leased: dict[str, int] = {}
    lease = RateLedger.lease

    def counted(self: RateLedger, holder: RateHolder, *arguments: Any) -> Any:
        answer = lease(self, holder, *arguments)
        leased[holder.dimension] = leased.get(holder.dimension, 0) + answer.units
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RateLedger, "lease", counted)
        settings = _job(tmp_path, service, requests_per_minute=PER_MINUTE, tokens_per_minute=1_000_000)
        assert run_steps(settings) is not None
    assert [row["status"] for row in results(settings)] == ["ok"] * 40
    assert leased["requests"] >= 40
    assert leased["tokens"] >= sum(service.arrivals()["tokens"]) > 0
    assert ledger.holders() == []


def test_a_limit_that_only_others_set_holds_too(service: FakeService, tmp_path: Path, ledger: RateLedger) -> None:
    """A job that sets only one of the two limits also keeps to the other one that runs under its name share."""
    _other(ledger, "requests", PER_MINUTE)
    settings = _job(tmp_path, service, tokens_per_minute=1_000_000)
    assert run_steps(settings) is not None
    assert [row["status"] for row in results(settings)] == ["ok"] * 40


def test_a_request_that_others_limit_forbids(service: FakeService, tmp_path: Path, ledger: RateLedger) -> None:
    """A run whose requests do not fit a limit that others share is refused before anything is sent."""
    _other(ledger, "tokens", 20)
    settings = _job(tmp_path, service, requests_per_minute=PER_MINUTE, tokens_per_minute=1_000_000)
    with pytest.raises(BadJob, match="more than the 20 a minute that runs share under the name 'all'"):
        run_steps(settings)
    assert service.stats()["requests"] == 0


def test_processes_of_a_run_share_its_limits(tmp_path: Path, ledger: RateLedger) -> None:
    """Each process of a run that several complete leases the run's limits; a limit that is not set is not leased."""
    limits, url = {"requests_per_minute": 60}, "http://127.0.0.1:9/v1"
    job, options = resolve_job(make_job(job_of(tmp_path, ["one"], url, limits=limits)), None, None, ())
    Folders.of(job.output, job.state).create()
    run = prepare_run(job, options)
    assert run is not None

    async def call(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    async def names(within_run: str | None) -> list[tuple[str, str]]:
        shared = SharedLimits(run, job.limits, call, within_run=within_run)
        await shared.begin()
        found = [(holder["name"], holder["dimension"]) for holder in ledger.holders()]
        await shared.end()
        return found

    assert asyncio.run(names("run-1-0")) == [("run-1-0", "requests")]
    assert asyncio.run(names(None)) == []


def test_who_shares_what_is_shown(ledger: RateLedger) -> None:
    """`doctor` and `spend` name the runs that share a limit, what each leased in the last minute, and its wait."""
    other = _other(ledger, "requests", PER_MINUTE)
    ledger.lease(other, 1, 1)
    answer = ledger.lease(other, 700, 2)
    assert describe(ledger.holders()) == [
        "all requests: run another-run of another job on another host, 60,000 a minute, "
        + ("701 leased in the last minute" if answer.units else "1 leased in the last minute, waits for 700")
    ]
    ledger.leave(other, [])
    assert ledger.holders() == []
