"""How `parquill run` ends when Prefect's server does not."""

from __future__ import annotations

import httpx
import pytest

from parquill.flows.cli.run import _of_server
from parquill.tasks.errors import ParquillError


@pytest.mark.parametrize("kind", [httpx.ReadTimeout, httpx.ConnectError, httpx.PoolTimeout, httpx.RemoteProtocolError])
def test_a_server_that_does_not_answer_is_told(kind: type[httpx.TransportError]) -> None:
    """A connection to Prefect's server that fails in the middle of a run has a sentence with what to do, and not the library's text."""
    told = _of_server(kind("CANARY"))
    assert isinstance(told, ParquillError)
    assert f"Prefect's server did not answer ({kind.__name__})" in str(told)
    assert "PREFECT_API_REQUEST_TIMEOUT" in str(told)
    assert "CANARY" not in str(told)


def test_another_error_is_left_alone() -> None:
    """Any other error is told by kind and place, as everywhere."""
    error = ZeroDivisionError("x")
    assert _of_server(error) is error
