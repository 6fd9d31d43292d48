"""Checks whether a service answers at a job's address and which models it lists; sends nothing that could cost money.

A wrong address often answers too, with 404 to everything. So if GET /models finds nothing, the usual address nearby is
tried, and then the path of the job's requests, by a GET that costs nothing: a path that exists refuses the method (405)
or the request, and a wrong path answers 404 again.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from parquill.tasks.errors import ParquillError
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key
from parquill.tasks.llm.model_list import ModelList, read_model_list
from parquill.tasks.llm.replies import parse_json

TIMEOUT_S = 10.0
_VERSION = re.compile(r"/(?:v\d+\w*|openai)(?:/|$)")  # in an address that names the version of its API
Get = Callable[[str, dict[str, str]], httpx.Response]


@dataclass(frozen=True, slots=True)
class Service:
    """What answers at an address: its models, or in `without` what came instead of a list."""

    models: ModelList | None
    without: str = ""


def get(url: str, headers: dict[str, str]) -> httpx.Response:
    """Send one GET without a proxy; redirects are not followed."""
    return httpx.get(url, headers=headers, timeout=TIMEOUT_S, verify=trusted(), trust_env=False, follow_redirects=False)


def trusted() -> ssl.SSLContext:
    """Return the certificates that a run trusts too: those that the environment names, or certifi's.

    Raises ParquillError if they cannot be read.
    """
    try:
        context = httpx.create_ssl_context(trust_env=True)
    except OSError:
        raise ParquillError("the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read") from None
    # promise: S1 the doctor command writes no TLS secrets to a key log file
    context.keylog_filename = None  # type: ignore[assignment]  # SSLKEYLOGFILE would record what decrypts the key
    return context


def ask_for_models(endpoint: Endpoint, path: str, key: Key | None, ask: Get = get) -> Service:
    """Ask for the models at a job's address; `path` is the path of the job's requests.

    Raises ParquillError if the service does not answer, refuses the key or fails, or if no API is at the address.
    """
    base = endpoint.base_url
    headers = key.headers() if key else {}

    def look(at: str, below: str) -> tuple[int, object]:
        return _ask(ask, endpoint.model_copy(update={"base_url": at}).url(below), headers, base)

    status, document = look(base, "/models")
    if status in {401, 403}:
        raise ParquillError(f"{base} refuses the key (HTTP {status})")
    if 300 <= status < 400:
        raise ParquillError(
            f"{base} redirects to another address (HTTP {status}), which Parquill does not follow; set `base_url` to it"
        )
    if status == 429 or (status >= 500 and status != 501):
        raise ParquillError(f"{base} answered HTTP {status} to a request for its models; try again later")
    models = read_model_list(document, base) if status == 200 else None
    if models is not None:
        return Service(models)
    _check_path(look, base, path, status)
    return Service(None, "an answer in another format" if status == 200 else f"HTTP {status}")


def _check_path(look: Callable[[str, str], tuple[int, object]], base: str, path: str, status: int) -> None:
    """Raise ParquillError unless `path` exists at the address."""
    found = f"{base}/models returned no list of models (HTTP {status})"
    for other in _others(base):
        answer, document = look(other, "/models")
        if answer in {401, 403} or (answer == 200 and read_model_list(document, other) is not None):
            raise ParquillError(f"{found}, but {other}/models exists: set `base_url: {other}`")
    at_path, _ = look(base, path)
    # promise: doctor: a wrong service address is a failure
    if at_path != 404:
        return
    found += f", and {base}{path} does not exist (HTTP 404)"
    advice = "check the address in the service's documentation"
    if not _VERSION.search(urlsplit(base).path):
        advice = f"most addresses end in /v1; try {base}/v1"
    raise ParquillError(f"{found}; {advice}")


def _others(base: str) -> list[str]:
    """Return where the API may be instead: the address with /v1 appended, or cut off after its version."""
    version = re.search(r"^.+/v\d+(?=/)", base)
    return [version.group()] if version else [] if re.search(r"/v\d+$", base) else [f"{base}/v1"]


def _ask(ask: Get, url: str, headers: dict[str, str], base: str) -> tuple[int, object]:
    try:
        reply = ask(url, headers)
    except Exception:  # noqa: BLE001 - whatever it is, it may hold the header
        raise ParquillError(f"{base} does not answer; check the address and whether the service is up") from None
    return reply.status_code, parse_json(reply.content)
