"""A command waits for the Prefect server that the user named."""

from __future__ import annotations

import http.server
import ipaddress
import logging
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prefect._internal.analytics.ci_detection import CI_ENV_VARS
from prefect.analytics import is_telemetry_enabled
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    PREFECT_API_URL,
    Settings,
    temporary_settings,
)

from parquill.flows.cli.doctor import examine
from parquill.flows.cli.prefect_server import (
    SERVER_TIMEOUT_S,
    EmbeddedServer,
    _ask,
    check_home,
    check_patience,
    set_prefect_defaults,
)
from parquill.tasks.errors import ParquillError
from tests.tools.clock import Clock
from tests.tools.jobs import PARQUILL


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Suppress the access log."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_prefect_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command turns off the telemetry of Prefect's library and embedded server, unless the user turned it on."""
    ours = ("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "PREFECT_INTERNAL_LOGGING_LEVEL", "PREFECT_CLIENT_MAX_RETRIES")
    for name in (*ours, *CI_ENV_VARS, "DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # registers the variable, so that the test's end resets it
        monkeypatch.delenv(name)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    assert is_telemetry_enabled()
    set_prefect_defaults()
    assert not is_telemetry_enabled()
    assert not Settings().server.analytics_enabled
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    set_prefect_defaults()
    assert is_telemetry_enabled()


@pytest.mark.integration
def test_a_server_that_is_restarted_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a server answers only after half a minute, the command continues, and says only once that it waits."""
    port, clock = _free_port(), Clock()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    started: list[http.server.HTTPServer] = []

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > SERVER_TIMEOUT_S / 2 and not started:
            started.append(http.server.HTTPServer(("127.0.0.1", port), _Healthy))
            threading.Thread(target=started[0].serve_forever, daemon=True).start()

    try:
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            EmbeddedServer().wait(clock, sleep)
    finally:
        for server in started:
            server.shutdown()
            server.server_close()
    assert SERVER_TIMEOUT_S / 2 < clock.now < SERVER_TIMEOUT_S / 2 + 1
    assert capsys.readouterr().err.count("waiting up to 60 s for it") == 1


def test_a_server_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute without an answer the command ends, with the address and advice."""
    port, clock = _free_port(), Clock()
    address = f"http://127.0.0.1:{port}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    with (
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(ParquillError, match=f"no Prefect server answers at PREFECT_API_URL={address}; start the"),
    ):
        EmbeddedServer().wait(clock, clock.sleep)
    assert SERVER_TIMEOUT_S <= clock.now < SERVER_TIMEOUT_S + 1


def test_an_address_without_a_scheme_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command does not wait for an address without a scheme, because no server can answer there."""
    address, clock = "127.0.0.1:4200/api", Clock()
    monkeypatch.setenv("PREFECT_API_URL", address)
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(ParquillError, match="no Prefect server"):
        EmbeddedServer().wait(clock, clock.sleep)
    assert clock.now == 0


@pytest.mark.integration
@pytest.mark.parametrize("path", ["/another", ":no-port/api"])
def test_a_wrong_address_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """An address that no server can have, or where another service answers, is an error at once."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}{path}"
    clock = Clock()
    monkeypatch.setenv("PREFECT_API_URL", address)
    try:
        with temporary_settings({PREFECT_API_URL: address}), pytest.raises(ParquillError, match="no Prefect server"):
            EmbeddedServer().wait(clock, clock.sleep)
    finally:
        server.shutdown()
        server.server_close()
    assert clock.now == 0


@pytest.fixture
def own_certificate(tmp_path: Path) -> Path:
    """Return a file with a key and its self-signed certificate, like that of a company's own server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a company's own")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "own.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    file.write_bytes(secret + made.public_bytes(pem))
    return file


@pytest.fixture
def own_server(own_certificate: Path) -> Iterator[str]:
    """Start a server with that certificate and return the address of its API."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_certificate)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Healthy)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


@pytest.mark.integration
@pytest.mark.parametrize("setting", ["file", "unverified"])
def test_a_server_with_a_certificate_of_its_own(
    own_server: str, own_certificate: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """A server is found with the certificates that Prefect's own settings name, and not without them."""
    monkeypatch.setenv("PREFECT_API_URL", own_server)
    clock = Clock()
    with (
        temporary_settings({PREFECT_API_URL: own_server}),
        pytest.raises(ParquillError, match="no Prefect server answers"),
    ):
        EmbeddedServer().wait(clock, clock.sleep)
    clock = Clock()
    trust: dict[Any, Any] = {PREFECT_API_SSL_CERT_FILE: str(own_certificate)}
    if setting == "unverified":
        trust = {PREFECT_API_TLS_INSECURE_SKIP_VERIFY: True}
    with temporary_settings({PREFECT_API_URL: own_server, **trust}):
        EmbeddedServer().wait(clock, clock.sleep)
    assert clock.now == 0


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If a certificate file cannot be read, the error names its setting."""
    address = "https://127.0.0.1:9/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    none = tmp_path / "none.pem"
    with (
        temporary_settings({PREFECT_API_URL: address, PREFECT_API_SSL_CERT_FILE: str(none)}),
        pytest.raises(ParquillError, match=f"PREFECT_API_SSL_CERT_FILE={none} holds no certificates"),
    ):
        EmbeddedServer().wait(Clock())


class _Guarded(http.server.BaseHTTPRequestHandler):
    """Requires credentials, like a server with PREFECT_SERVER_API_AUTH_STRING or a proxy in front of it."""

    words = ("Basic YWRtaW46c2VjcmV0", "Bearer pnu_123")

    def do_GET(self) -> None:
        self.send_response(200 if self.headers["Authorization"] in self.words else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Suppress the access log."""


@pytest.fixture
def guarded() -> Iterator[str]:
    """Start a server that requires credentials and return the address of its API."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


@pytest.mark.integration
def test_a_server_that_asks_who_is_there(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own credentials are used. Without the right ones, the command ends at once and names the setting."""
    monkeypatch.setenv("PREFECT_API_URL", guarded)
    clock = Clock()
    known: list[dict[Any, Any]] = [{PREFECT_API_AUTH_STRING: "admin:secret"}, {PREFECT_API_KEY: "pnu_123"}]
    for credentials in known:
        with temporary_settings({PREFECT_API_URL: guarded, **credentials}):
            EmbeddedServer().wait(clock, clock.sleep)
    with (
        temporary_settings({PREFECT_API_URL: guarded, PREFECT_API_AUTH_STRING: "admin:wrong"}),
        pytest.raises(ParquillError, match=r"refuses the credentials \(HTTP 401\); set PREFECT_API_AUTH_STRING"),
    ):
        EmbeddedServer().wait(clock, clock.sleep)
    assert clock.now == 0


class _Moved(http.server.BaseHTTPRequestHandler):
    """Redirects every request."""

    def do_GET(self) -> None:
        self.send_response(308)
        self.send_header("Location", f"https://elsewhere.example{self.path}?CANARY")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Suppress the access log."""


@pytest.mark.integration
def test_a_server_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect is not followed with credentials; the error shows its target at once."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Moved)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    clock = Clock()
    try:
        with (
            temporary_settings({PREFECT_API_URL: address}),
            pytest.raises(ParquillError, match=r"redirects to https://elsewhere\.example/api, which is not followed"),
        ):
            EmbeddedServer().wait(clock, clock.sleep)
    finally:
        server.shutdown()
        server.server_close()
    assert clock.now == 0


@pytest.mark.integration
def test_a_proxy_on_the_way_to_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command uses the proxy of the environment, as Prefect's own clients do, and its error says so."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{_free_port()}")
    monkeypatch.setenv("http_proxy", os.environ["HTTP_PROXY"])
    for name in ("NO_PROXY", "no_proxy"):  # a run on an embedded server in this process sets them
        monkeypatch.delenv(name, raising=False)
    clock = Clock()
    try:
        with temporary_settings({PREFECT_API_URL: address}):
            with pytest.raises(ParquillError, match=r"through the proxy that the environment sets"):
                EmbeddedServer().wait(clock, clock.sleep)
            monkeypatch.setenv("NO_PROXY", "elsewhere.example,127.0.0.1")
            EmbeddedServer().wait(clock, clock.sleep)
    finally:
        server.shutdown()
        server.server_close()


def test_no_password_of_an_address_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a command that waits for the server nor `doctor` shows a password in PREFECT_API_URL."""
    location = f"127.0.0.1:{_free_port()}/api"
    address = f"http://somebody:CANARY@{location}"
    monkeypatch.setenv("PREFECT_API_URL", address)
    clock = Clock()
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(ParquillError) as caught:
        EmbeddedServer().wait(clock, clock.sleep)
    outputs = [str(caught.value), capsys.readouterr().err, *(str(check.as_dict()) for check in examine(None))]
    assert sum(location in each for each in outputs) == 3
    assert "CANARY" not in "".join(outputs)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".env", "PREFECT_API_URL={}"),
        pytest.param("pyproject.toml", '[tool.prefect.api]\nurl = "{}"', marks=pytest.mark.nightly),
        pytest.param(
            *("home/profiles.toml", 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{}"'),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_a_server_is_named_in_a_file(tmp_path: Path, file: str, text: str) -> None:
    """A command and `doctor` use the server that Prefect itself would use, wherever it is set."""
    address = f"http://127.0.0.1:{_free_port()}/api"
    (tmp_path / "home").mkdir()
    (tmp_path / file).write_text(text.format(address), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [PARQUILL, "doctor"],
        cwd=tmp_path,
        env={**environment, "PREFECT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"no server answers at PREFECT_API_URL={address}" in done.stdout + done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("address", "at_health", "at_api", "found"),
    [
        ("http://h:4200", 404, (200, "application/json"), "http://h:4200/api"),
        ("http://h:4200", 200, (200, "application/json"), "http://h:4200/api"),  # the UI's page answers any path
        ("http://h:4200", 404, (401, "application/json"), "http://h:4200/api"),
        ("http://u:secret@h:4200/prefect", 404, (200, "application/json"), "http://h:4200/prefect/api"),
        ("http://h:4200", 404, (404, "text/plain"), None),
        ("http://h:4200", 200, (200, "text/html"), None),
        ("http://h:4200/api", 404, (200, "application/json"), None),
    ],
)
def test_an_address_that_lacks_api(address: str, at_health: int, at_api: tuple[int, str], found: str | None) -> None:
    """If an address lacks /api, the server is found with it, and the error shows the address to set."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/api/health"):
            status, kind = at_api if not address.endswith("/api") else (404, "text/plain")
            return httpx.Response(status, headers={"content-type": kind})
        return httpx.Response(at_health, headers={"content-type": "text/html"})

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        asked = _ask(client, address)
    assert asked.is_at == found
    if found is not None:
        assert asked.is_wrong
        message = EmbeddedServer()._away("http://h:4200", asked)
        assert message.endswith(f"set PREFECT_API_URL={found}")


def test_a_time_in_which_no_server_answers_is_refused() -> None:
    """A PREFECT_API_REQUEST_TIMEOUT below one second is refused by its name; one second is accepted."""
    with temporary_settings({PREFECT_API_REQUEST_TIMEOUT: 0.001}), pytest.raises(ParquillError) as caught:
        check_patience()
    assert str(caught.value).startswith("PREFECT_API_REQUEST_TIMEOUT = 0.001 is too short")
    with temporary_settings({PREFECT_API_REQUEST_TIMEOUT: 1}):
        check_patience()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Prefect's folder cannot be created, the error names it and the setting before the embedded server starts."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "prefect"))
    with pytest.raises(ParquillError, match=r"Prefect's folder .*file/prefect cannot be written: .*set PREFECT_HOME"):
        check_home()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    assert check_home() == str(tmp_path / "prefect")
