"""How `parquill run` ends if Prefect's server does not answer."""

from __future__ import annotations

import httpx
import pytest

from parquill.flows.cli.run import _of_server
from parquill.tasks.errors import ParquillError


@pytest.mark.parametrize("kind", [httpx.ReadTimeout, httpx.ConnectError, httpx.PoolTimeout, httpx.RemoteProtocolError])
def test_a_server_that_does_not_answer_is_told(kind: type[httpx.TransportError]) -> None:
    """If a connection to Prefect's server fails, the error is a sentence with advice, without the library's text."""
    error = _of_server(kind("CANARY"))
    assert isinstance(error, ParquillError)
    assert f"Prefect's server did not answer ({kind.__name__})" in str(error)
    assert "PREFECT_API_REQUEST_TIMEOUT" in str(error)
    assert "CANARY" not in str(error)


def test_another_error_is_left_alone() -> None:
    """Any other error is returned unchanged, to be reported with type and code location."""
    error = ZeroDivisionError("x")
    assert _of_server(error) is error
