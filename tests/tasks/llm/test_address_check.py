"""Parquill checks that an address belongs to an API without sending a request that could cost money."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest

from parquill.tasks.errors import ParquillError
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key
from parquill.tasks.llm.address_check import Service, ask_for_models, trusted

MODELS = {"data": [{"id": "m"}]}
HOST = "http://127.0.0.1:8000"


class Web:
    """A service that answers by path: with a status, or a status and a document. Any other path gets 404."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, url: str, headers: dict[str, str]) -> httpx.Response:
        assert headers == {"Authorization": "Bearer sk-test-0123456789"}
        path = url.removeprefix(HOST)
        self.asked.append(path)
        answer = self.answers.get(path, 404)
        if isinstance(answer, Exception):
            raise answer
        status, document = answer if isinstance(answer, tuple) else (answer, {"error": "x"})
        return httpx.Response(status, json=document)


def _ask(web: Web, base: str) -> Service:
    endpoint = Endpoint.model_validate({"base_url": HOST + base})
    return ask_for_models(endpoint, "/chat/completions", Key("sk-test-0123456789"), web)


def _refused(web: Web, base: str) -> str:
    with pytest.raises(ParquillError) as caught:
        _ask(web, base)
    assert "sk-test" not in str(caught.value)
    return str(caught.value)


def test_a_list_is_enough() -> None:
    """If the service lists its models, the check sends no other request."""
    web = Web(**{"/v1/models": (200, MODELS)})
    assert _ask(web, "/v1").models is not None
    assert web.asked == ["/v1/models"]


@pytest.mark.parametrize("at_models", [404, 405, (200, {"data": []}), (200, "text"), 501])
@pytest.mark.parametrize("at_path", [405, 400, 422, 401, 415])
def test_a_service_without_a_list(at_models: Any, at_path: int) -> None:
    """A service that lists no models passes the check if the path of its requests exists."""
    assert _ask(Web(**{"/v1/models": at_models, "/v1/chat/completions": at_path}), "/v1").models is None


def test_a_missing_v1_is_found() -> None:
    """If an address lacks /v1, the check fails and names the address to write."""
    for at_v1 in ((200, MODELS), 401):
        message = _refused(Web(**{"/v1/models": at_v1}), "")
        assert "(HTTP 404)" in message
        assert f"set `base_url: {HOST}/v1`" in message


def test_too_long_an_address_is_found() -> None:
    """If an address continues after its version, the check fails and names the address to write."""
    assert f"set `base_url: {HOST}/api/v1`" in _refused(Web(**{"/api/v1/models": (200, MODELS)}), "/api/v1/openai")


def test_an_address_of_nothing() -> None:
    """If every path of an address gives 404, the check fails and says what to look for."""
    assert f"try {HOST}/v1" in _refused(Web(), "")
    assert "check the address" in _refused(Web(), "/v1")


@pytest.mark.parametrize(("status", "words"), [(401, "refuses the key"), (403, "refuses the key"), (503, "HTTP 503"),
                                               (429, "HTTP 429"), (302, "another address")])  # fmt: skip
def test_other_answers(status: int, words: str) -> None:
    """The check fails with its own message for a rejected key, a failing server and a redirect."""
    assert words in _refused(Web(**{"/v1/models": status}), "/v1")


def test_no_answer_is_told_without_its_cause() -> None:
    """The check replaces the text of a transport error, because that text may hold the header with the key."""
    message = _refused(Web(**{"/v1/models": ValueError("sk-test-0123456789")}), "/v1")
    assert "does not answer" in message


def test_the_settings_of_the_endpoint_are_used() -> None:
    """The check sends the query, the key's header and the other headers of the job's requests to every path."""
    asked: list[tuple[str, dict[str, str]]] = []

    def ask(url: str, headers: dict[str, str]) -> httpx.Response:
        asked.append((url, headers))
        return httpx.Response(405 if "/chat/completions" in url else 404, json={})

    given = {"base_url": f"{HOST}/openai/deployments/d", "auth": "api-key", "query": {"api-version": "2024-10-21"}}
    key = Key("sk-test-0123456789", "api-key", {"X-Team": "search"})
    assert ask_for_models(Endpoint.model_validate(given), "/chat/completions", key, ask).models is None
    assert len(asked) >= 2
    for url, headers in asked:
        assert url.endswith("?api-version=2024-10-21")
        assert headers == {"api-key": "sk-test-0123456789", "X-Team": "search"}


def test_what_is_trusted_is_what_a_run_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check trusts the certificates that the environment names and writes no TLS secrets to a file."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "tls.log"))
    one = Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----")
    (tmp_path / "one.pem").write_text(one[0] + one[1] + "\n", encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
    context = trusted()
    assert context.cert_store_stats()["x509_ca"] == 1
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(ParquillError, match="SSL_CERT_FILE"):
        trusted()
    assert context.keylog_filename is None
