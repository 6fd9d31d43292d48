"""Waiting for Prefect's server at the end of a deployed run."""

from __future__ import annotations

import pytest

from parquill.tasks.server.flow_run import AWAY_S, KNOCK_S, wait_for_server
from tests.clock import Clock


@pytest.mark.parametrize("knocks", [0, 1, 20, int(AWAY_S / KNOCK_S)])
def test_it_waits_as_long_as_the_server_is_away(knocks: int) -> None:
    """It knocks every five seconds, and goes on at once when the server answers."""
    clock = Clock()
    wait_for_server(lambda: clock.now >= knocks * KNOCK_S, clock, clock.sleep)
    assert clock.now == knocks * KNOCK_S


def test_it_does_not_wait_for_ever() -> None:
    """After ten minutes it goes on without, and raises nothing: the files are whole."""
    clock = Clock()
    wait_for_server(lambda: False, clock, clock.sleep)
    assert clock.now == AWAY_S


def test_a_run_that_is_not_deployed_waits_for_nobody() -> None:
    """Outside of a deployment's run there is nothing to wait for."""
    wait_for_server()
