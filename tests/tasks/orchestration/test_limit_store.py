"""Global concurrency limits of a real Prefect server as buckets to lease from."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings

from parquill.tasks.job.load import make_job
from parquill.tasks.limits.lending import LenderAwayError, NoBucketError
from parquill.tasks.limits.shares import Bucket
from parquill.tasks.orchestration.limit_store import EMBEDDED, PrefectLender, sharing_of
from tests.direct import job_of

_T = TypeVar("_T")
pytestmark = pytest.mark.integration


class Asking(PrefectLender):
    """Asks again when a server whose database is locked says 503, as leases do; its transaction was rolled back."""

    async def _again(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        for _ in range(100):
            try:
                return await ask()
            except LenderAwayError as error:
                if "503" not in str(error):
                    raise
                await asyncio.sleep(0.05)
        return await ask()

    async def read(self, kind: str) -> Bucket | None:
        ask = super().read
        return await self._again(lambda: ask(kind))

    async def create(self, kind: str, bucket: Bucket) -> None:
        ask = super().create
        await self._again(lambda: ask(kind, bucket))

    async def reshape(self, kind: str, bucket: Bucket) -> None:
        ask = super().reshape
        await self._again(lambda: ask(kind, bucket))

    async def take(self, kind: str, slots: int, capacity: int) -> bool:
        ask = super().take
        return await self._again(lambda: ask(kind, slots, capacity))


def lend(work: Callable[[PrefectLender], Awaitable[None]], by: type[PrefectLender] = Asking) -> None:
    """Work with a lender of a name of its own."""

    async def run() -> None:
        lender = by(f"test-{uuid4()}")
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


@pytest.mark.nightly  # it measures what a real server lends in real time
def test_a_refused_lease_costs_nothing(prefect_server: str) -> None:
    """Slots are lent as they decay, and asking in vain, however often, does not slow that down."""
    assert prefect_server

    async def work(lender: PrefectLender) -> None:
        begun = now = time.monotonic()
        await lender.create("requests", Bucket(10_000, 2_000.0))
        granted = refused = 0
        slowest = 0.0
        while now < begun + 2.2:
            with contextlib.suppress(LenderAwayError):  # busy with something else at this moment
                if await lender.take("requests", 1_000, 10_000):
                    granted += 1
                else:
                    refused += 1
            slowest, now = max(slowest, time.monotonic() - now), time.monotonic()
        assert refused > granted
        # a slow answer delays a grant; what flowed in meanwhile is there for the next
        assert 2_000 * (now - begun - slowest) - 1_000 <= granted * 1_000 <= 2_000 * (now - begun)

    lend(work, PrefectLender)


def test_the_last_grant_is_known(prefect_server: str) -> None:
    """When a limit last granted anything is told on the server's clock, and asking in vain changes nothing of it."""
    assert prefect_server

    async def work(lender: PrefectLender) -> None:
        async def changed_at() -> float:
            found = await lender.read("tokens")
            assert found is not None
            return found.changed_at

        await lender.create("tokens", Bucket(100, 100.0))
        await lender.reshape("tokens", Bucket(50, 1.0, taken=90))
        assert (bucket := await lender.read("tokens")) is not None
        assert bucket.taken >= 60  # fuller than full
        begun = await changed_at()
        assert abs(begun - time.time()) < 60
        assert not await lender.take("tokens", 50, 50)
        assert await changed_at() == begun
        await lender.reshape("tokens", Bucket(50, 1_000.0))
        await asyncio.sleep(0.1)
        assert await lender.take("tokens", 20, 50)
        assert begun < await changed_at() < begun + 60

    lend(work)


def test_what_cannot_be_leased_from_is_told(prefect_server: str) -> None:
    """A limit that is gone, narrower than a lease or without decay grants nothing; one that is switched off is seen."""
    assert prefect_server

    async def work(lender: PrefectLender) -> None:
        with pytest.raises(NoBucketError):
            await lender.take("tokens", 1, 100)
        await lender.create("tokens", Bucket(100, 1_000.0))
        with pytest.raises(NoBucketError):
            await lender.take("tokens", 101, 100)
        await lender.reshape("tokens", Bucket(200, 100_000.0))
        assert await lender.take("tokens", 101, 200)
        with pytest.raises(NoBucketError):
            await lender.take("tokens", 1, 100)
        await lender.reshape("tokens", Bucket(200, 0.0))
        with pytest.raises(NoBucketError):
            await lender.take("tokens", 1, 200)
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


@pytest.fixture(params=[408, 429, 502, 503])
def busy_server(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that is too busy for everything, and says so in one of the ways that its client would sit
    out; and what it was asked.
    """
    asked: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(request.param)
            self.send_header("content-length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api", asked
        server.shutdown()
        thread.join(5)


def test_a_busy_server_is_asked_again_at_once(busy_server: tuple[str, list[str]]) -> None:
    """A server whose database is locked says 503, a proxy other things: that is reported at once, before Prefect's client
    asks a second time, seconds later, in which a lease would run out.
    """
    address, asked = busy_server

    async def work(lender: PrefectLender) -> None:
        for question in (lambda: lender.take("requests", 1, 1), lambda: lender.read("requests")):
            asked.clear()
            with pytest.raises(LenderAwayError, match="status"):
                await question()
            assert len(asked) == len(set(asked)) > 0

    with temporary_settings({PREFECT_API_URL: address}):
        lend(work, PrefectLender)


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
