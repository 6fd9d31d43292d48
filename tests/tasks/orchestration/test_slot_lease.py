"""A deployed run keeps its concurrency slot while it lives, and continues if the slot is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self
from uuid import uuid4

import httpx
import pytest
from prefect import flow_engine
from prefect.exceptions import PrefectHTTPStatusError

from parquill.flows import complete_prompts, estimate_cost  # noqa: F401 - the import itself matters
from parquill.tasks.orchestration import slot_lease as slot
from parquill.tasks.orchestration.slot_lease import (
    GONE,
    LEASE_EXPIRY_S,
    RENEW_INTERVAL_S,
    keep_lease,
    maintain_slot_lease,
    outlive_slots,
)


def _answer(status: int) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1/renew")
    return PrefectHTTPStatusError(str(status), request=request, response=httpx.Response(status, request=request))


class Server:
    """A server that knows one lease, by a clock that passes while the run waits; it is away between two times."""

    def __init__(self, away: tuple[float, float], lives_s: float, error: Callable[[], Exception]) -> None:
        self.now, self.until = 0.0, LEASE_EXPIRY_S
        self._away, self._lives_s, self._error = away, lives_s, error

    def renew(self) -> None:
        if self._away[0] <= self.now < self._away[1]:
            raise self._error()
        if self.now > self.until:
            raise _answer(GONE)
        self.until = self.now + LEASE_EXPIRY_S

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.now >= self._lives_s


@pytest.mark.parametrize("error", [lambda: httpx.ConnectError("away"), lambda: _answer(503), lambda: OSError("away")])
@pytest.mark.parametrize("begins", [0.1, 29.0, 30.0, 31.0, 1234.5])
def test_a_lease_outlives_two_minutes_without_a_server(begins: float, error: Callable[[], Exception]) -> None:
    """If the server is away for two minutes, at any time, it still knows the lease later, until the run's end."""
    server = Server((begins, begins + 120), 3_600, error)
    assert keep_lease(server.renew, server.wait)
    assert server.until >= 3_600


def test_the_slot_of_a_dead_machine_is_soon_free() -> None:
    """A lease that is no longer renewed ends within three minutes."""
    server = Server((0, 0), 600, OSError)
    keep_lease(server.renew, server.wait)
    assert server.until - server.now <= LEASE_EXPIRY_S <= 180


def test_a_lease_that_is_lost_is_asked_for_no_more() -> None:
    """When the server no longer knows the lease, renewal ends at once and reports it."""
    server = Server((10, 10 + LEASE_EXPIRY_S + 60), 3_600, OSError)
    assert not keep_lease(server.renew, server.wait)
    assert server.now <= 10 + LEASE_EXPIRY_S + 60 + RENEW_INTERVAL_S


def test_a_run_outlives_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that the server no longer knows causes a warning and ends no run.

    Prefect itself would raise an exception in the thread of the run.
    """
    warned = threading.Event()

    def renew(*_: object) -> None:
        raise _answer(GONE)

    class Client(SimpleNamespace):
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            """Hold nothing."""

    monkeypatch.setattr(slot, "get_client", lambda **_: Client(renew_concurrency_lease=renew))
    monkeypatch.setattr(slot, "get_run_logger", lambda: SimpleNamespace(warning=lambda _: warned.set()))
    engine: Any = vars(flow_engine)
    monkeypatch.setitem(engine, "maintain_concurrency_lease", None)
    outlive_slots()
    assert engine["maintain_concurrency_lease"] is maintain_slot_lease
    with engine["maintain_concurrency_lease"](uuid4(), 300, raise_on_lease_renewal_failure=True):
        assert warned.wait(60)
        for _ in range(1000):  # an exception from another thread would be raised here
            threading.Event().wait(0.0001)
