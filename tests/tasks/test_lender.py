"""Global concurrency limits of a real Prefect server as buckets to lease from."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings

from parquill.tasks.job_file import make_job
from parquill.tasks.lender import EMBEDDED, PrefectLender, sharing_of
from parquill.tasks.wire.lending import LenderAwayError, NoBucketError
from parquill.tasks.wire.shares import Bucket
from tests.direct import job_of


def lend(work: Callable[[PrefectLender], Awaitable[None]]) -> None:
    """Work with a lender of a name of its own."""

    async def run() -> None:
        lender = PrefectLender(f"test-{uuid4()}")
        try:
            await work(lender)
        finally:
            await lender.close()

    asyncio.run(run())


def test_a_bucket_is_made_full_once(prefect_server: str) -> None:
    """A limit that is missing is made full and with its decay; whoever comes second leaves it as it is."""
    assert prefect_server

    async def work(lender: PrefectLender) -> None:
        assert await lender.read("requests") is None
        await lender.create("requests", Bucket(1_000, 0.5))
        await lender.create("requests", Bucket(7, 7.0))
        found = await lender.read("requests")
        assert found is not None
        assert (found.capacity, found.per_second, found.active) == (1_000, 0.5, True)
        assert found.taken >= 995

    lend(work)


def test_a_refused_lease_costs_nothing(prefect_server: str) -> None:
    """Slots are lent as they decay, and asking in vain, however often, does not slow that down."""
    assert prefect_server

    async def work(lender: PrefectLender) -> None:
        begun = now = time.monotonic()
        await lender.create("requests", Bucket(10_000, 2_000.0))
        granted = refused = 0
        slowest = 0.0
        while now < begun + 2.2:
            if await lender.take("requests", 1_000):
                granted += 1
            else:
                refused += 1
            slowest, now = max(slowest, time.monotonic() - now), time.monotonic()
        assert refused > granted
        # a slow answer delays a grant; what flowed in meanwhile is there for the next
        assert 2_000 * (now - begun - slowest) - 1_000 <= granted * 1_000 <= 2_000 * (now - begun)

    lend(work)


def test_what_cannot_be_leased_from_is_told(prefect_server: str) -> None:
    """A limit that is gone, narrower than a lease or without decay grants nothing; one that is switched off is seen."""
    assert prefect_server

    async def work(lender: PrefectLender) -> None:
        with pytest.raises(NoBucketError):
            await lender.take("tokens", 1)
        await lender.create("tokens", Bucket(100, 1_000.0))
        with pytest.raises(NoBucketError):
            await lender.take("tokens", 101)
        await lender.reshape("tokens", Bucket(200, 100_000.0))
        assert await lender.take("tokens", 101)
        await lender.reshape("tokens", Bucket(200, 0.0))
        with pytest.raises(NoBucketError):
            await lender.take("tokens", 1)
        async with get_client() as client:
            off = GlobalConcurrencyLimitUpdate(active=False)
            await client.update_global_concurrency_limit(lender.name("tokens"), off)
        found = await lender.read("tokens")
        assert found is not None
        assert not found.active

    lend(work)


def test_a_server_that_is_away_is_told_as_such() -> None:
    """Whatever a server that is not there does to Prefect's client, the run is told only that it is away."""

    async def work(lender: PrefectLender) -> None:
        with pytest.raises((LenderAwayError, TimeoutError)):
            await asyncio.wait_for(lender.read("requests"), 0.5)

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        lend(work)


def test_a_server_of_one_command_is_shared_with_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Limits are shared by a server that others know too, not by one that a command started for itself."""
    limits = {"requests_per_minute": 600, "shared": "all"}
    job = make_job(job_of(tmp_path, ["a"], "http://127.0.0.1:9/v1", limits=limits))
    assert sharing_of(job).lender is not None
    monkeypatch.setenv(EMBEDDED, str(PREFECT_API_URL.value()))
    sharing = sharing_of(job)
    assert sharing.lender is None
    with caplog.at_level(logging.INFO, "parquill"):
        sharing.say(logging.WARNING, "said")
    assert "said" in caplog.text
