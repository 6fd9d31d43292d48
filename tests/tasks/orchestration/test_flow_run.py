"""A run notices a cancellation while it sends, and a deployed run waits for Prefect's server at its end."""

from __future__ import annotations

import threading

import httpx
import pytest

from parquill.tasks.errors import Interrupted
from parquill.tasks.llm.open_senders import stop_requested
from parquill.tasks.orchestration.flow_run import (
    POLL_INTERVAL_S,
    RETRY_INTERVAL_S,
    SERVER_TIMEOUT_S,
    retry_while_unavailable,
    wait_for_server,
    watch,
)
from tests.tools.clock import Clock

LONG_S = 60.0


class _Over(threading.Event):
    """An event that waits by a clock, and is set after a minute."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._clock.sleep(timeout)
        if self._clock.now >= LONG_S:
            self.set()
        return self.is_set()


class _Server:
    """A server that returns the type of a flow run's state after a delay."""

    def __init__(self, clock: Clock, takes_s: float, cancelled_at: float = LONG_S, away_until: float = 0.0) -> None:
        self.looks: list[float] = []
        self.stopped: list[float] = []
        self._clock, self._takes_s = clock, takes_s
        self._cancelled_at, self._away_until = cancelled_at, away_until

    def read_type(self) -> str:
        """Return the state as it was when the server began to answer."""
        began = self._clock.now
        self.looks.append(began)
        self._clock.sleep(self._takes_s)
        if began < self._away_until:
            raise httpx.ConnectError("away")
        return "CANCELLING" if began >= self._cancelled_at else "RUNNING"

    def stop(self) -> None:
        """Note the time of the stop."""
        self.stopped.append(self._clock.now)


@pytest.mark.parametrize("takes_s", [0.0, 0.2, 0.45])
@pytest.mark.parametrize("away_until", [0.0, 9.9])
def test_a_cancellation_is_seen_within_a_second(takes_s: float, away_until: float) -> None:
    """A run notices a cancellation within a second, also if the server is slow or has just come back."""
    for tenth in range(20):
        clock = Clock()
        cancelled_at = 10 + tenth / 10
        server = _Server(clock, takes_s, cancelled_at, away_until)
        watch(server.read_type, server.stop, _Over(clock), clock)
        (at,) = server.stopped
        assert cancelled_at <= at < cancelled_at + 1


def test_looks_are_no_burden() -> None:
    """Each run that sends polls the server twice a second, never with two polls at once.

    Nothing is stopped if nothing is cancelled.
    """
    for takes_s, most in ((0.0, LONG_S / POLL_INTERVAL_S), (3.0, LONG_S / 3.0)):
        clock = Clock()
        server = _Server(clock, takes_s)
        watch(server.read_type, server.stop, _Over(clock), clock)
        assert not server.stopped
        assert most - 2 <= len(server.looks) <= most


@pytest.mark.parametrize("tries", [0, 1, 20, int(SERVER_TIMEOUT_S / RETRY_INTERVAL_S)])
def test_it_waits_as_long_as_the_server_is_away(tries: int) -> None:
    """A run tries the server every five seconds, and continues at once when the server answers."""
    clock = Clock()
    wait_for_server(lambda: clock.now >= tries * RETRY_INTERVAL_S, clock, clock.sleep)
    assert clock.now == tries * RETRY_INTERVAL_S


def test_it_does_not_wait_for_ever() -> None:
    """After ten minutes a run continues without the server and raises nothing, since its files are complete."""
    clock = Clock()
    wait_for_server(lambda: False, clock, clock.sleep)
    assert clock.now == SERVER_TIMEOUT_S


def _refusal(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1/api")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize("error", [httpx.ConnectError("away"), httpx.RemoteProtocolError("cut"), _refusal(503)])
def test_what_a_run_cannot_do_without_is_asked_for_again(error: Exception) -> None:
    """A server that is away or busy is asked every five seconds until it answers, for ten minutes at most."""
    for away_s in (0.0, 120.0, SERVER_TIMEOUT_S + 1):
        clock = Clock()

        def ask(clock: Clock = clock, away_s: float = away_s) -> str:
            if clock.now < away_s:
                raise error
            return "answer"

        if away_s > SERVER_TIMEOUT_S:
            with pytest.raises(type(error)):
                retry_while_unavailable(ask, clock, clock.sleep)
            assert clock.now == SERVER_TIMEOUT_S
        else:
            assert retry_while_unavailable(ask, clock, clock.sleep) == "answer"
            assert clock.now == away_s


def test_a_refusal_is_an_answer() -> None:
    """A request that the server refuses is not repeated."""
    clock = Clock()

    def ask() -> None:
        raise _refusal(409)

    with pytest.raises(httpx.HTTPStatusError):
        retry_while_unavailable(ask, clock, clock.sleep)
    assert clock.now == 0


def test_a_stop_ends_the_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the server is away ends the run at once, as an interruption."""
    clock = Clock()
    monkeypatch.setattr(stop_requested, "is_set", lambda: clock.now >= 60)

    def ask() -> None:
        raise httpx.ConnectError("away")

    with pytest.raises(Interrupted):
        retry_while_unavailable(ask, clock, clock.sleep)
    assert clock.now == 60


def test_a_run_that_is_not_deployed_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run outside a deployment asks no server and does not wait; a deployed run waits for a server that is away."""
    clock, asked = Clock(), list[float]()

    def is_there() -> bool:
        asked.append(clock.now)
        return False

    monkeypatch.setattr("parquill.tasks.orchestration.flow_run._answers", is_there)
    wait_for_server(clock=clock, sleep=clock.sleep)
    assert (asked, clock.now) == ([], 0)
    monkeypatch.setattr("parquill.tasks.orchestration.flow_run.is_deployed", lambda: True)
    wait_for_server(clock=clock, sleep=clock.sleep)
    assert asked[:2] == [0, RETRY_INTERVAL_S]
    assert SERVER_TIMEOUT_S <= clock.now < SERVER_TIMEOUT_S + RETRY_INTERVAL_S
