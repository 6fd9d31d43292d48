"""Prefect on the command line: kept quiet, and its embedded server started while other work is done."""

from __future__ import annotations

import atexit
import ctypes
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from parquill.flows.cli.console import print_line
from parquill.tasks.errors import ParquillError

if TYPE_CHECKING:
    import httpx

HOST = "127.0.0.1"
_OWN_SETTINGS = {  # of the embedded server
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    # promise: server: the API of the embedded server has a fixed base path
    "PREFECT_SERVER_API_BASE_PATH": "/api",  # where the user's own server has it is another matter
}
START_TIMEOUT_S = 90.0
MIN_TIMEOUT_S = 1.0
SERVER_TIMEOUT_S = 60.0  # a server that restarts while a nightly command begins must not fail the run


def set_prefect_defaults() -> None:
    """Set what must be set before Prefect is imported, unless the user has set it."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # of the embedded server
    os.environ.setdefault("DO_NOT_TRACK", "1")  # of Prefect's library, also where a server has telemetry on
    # one sentence at the end replaces Prefect's tracebacks of fifty lines; Prefect's own log has them
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # and its services would print whole events and logs that a server did not take
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    logging.raiseExceptions = False
    # try a server that is gone for seconds, not for minutes: a run loses no more than its report
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "2")


class EmbeddedServer:
    """Prefect's server as a child process of this command, unless PREFECT_API_URL names a running one.

    Prefect can start such a server too, but only after importing all of itself (2 s of CPU, in a thread that competes
    with our imports), and leaves the server running if this process is killed.
    """

    def __init__(self) -> None:
        self.needed = not configured_server_url()
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    def begin(self) -> bool:
        """Start the server, if needed, without waiting; return whether it was started. Call it in the main thread."""
        if not self.needed or self._process is not None:
            return False
        check_home()
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        self._url = f"http://{HOST}:{port}/api"
        # -P: a file in the current folder must not shadow a module of the server
        # promise: server: files in the current folder do not shadow the embedded server's modules
        command = [sys.executable, "-P", "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
        command += ["--host", HOST, "--port", str(port), "--log-level", "error", "--lifespan", "on"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("UVICORN_")}
        environment = {**inherited, **_OWN_SETTINGS}
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in the terminal must reach only the run, which still needs its server
            # promise: C7 Ctrl-C in a terminal does not reach the run's embedded server
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into libc
        )
        # registered before Prefect is imported, so it runs after Prefect has sent its last logs and events
        atexit.register(self._stop)
        return True

    def wait(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until a server answers, and make Prefect use it. Raises ParquillError if none does."""
        from prefect.context import refresh_global_settings_context
        from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_AUTH_STRING

        from parquill.tasks.orchestration.api_client import http_client, without_password

        check_patience()
        if self._process is not None:
            from parquill.tasks.orchestration.api_client import EMBEDDED

            os.environ["PREFECT_API_URL"] = os.environ[EMBEDDED] = self._url
            # promise: server: the run authenticates with its embedded server
            if PREFECT_SERVER_API_AUTH_STRING.value():  # the embedded server reads this setting too
                os.environ["PREFECT_API_AUTH_STRING"] = PREFECT_SERVER_API_AUTH_STRING.value()
            # promise: server: the embedded server is reached without proxies
            _bypass_proxies(HOST)
            refresh_global_settings_context()
        address = str(PREFECT_API_URL.value()).rstrip("/")
        named = without_password(address)
        is_told = self._process is not None
        until = clock() + (START_TIMEOUT_S if self._process is not None else SERVER_TIMEOUT_S)
        with http_client(address) as client:
            while not (answer := _ask(client, address)).is_there:
                ended = self._process is not None and self._process.poll() is not None
                if answer.is_wrong or ended or clock() >= until:
                    raise ParquillError(self._away(named, answer))
                if not is_told:
                    print_line(
                        f"no Prefect server answers at PREFECT_API_URL={named}; "
                        f"waiting up to {SERVER_TIMEOUT_S:.0f} s for it"
                    )
                    is_told = True
                sleep(0.1)

    def _away(self, address: str, answer: _HealthCheck) -> str:
        if answer.refusal is not None:
            return (
                f"the Prefect server at PREFECT_API_URL={address} refuses the credentials (HTTP {answer.refusal}); set "
                "PREFECT_API_AUTH_STRING or PREFECT_API_KEY to what it expects"
            )
        if answer.moved_to is not None:
            return (
                f"PREFECT_API_URL={address} redirects to {answer.moved_to}, which is not followed: it would "
                "receive the credentials. Set PREFECT_API_URL to the server's own address"
            )
        if answer.is_at is not None:
            return f"PREFECT_API_URL={address} lacks the end of the address: set PREFECT_API_URL={answer.is_at}"
        if self._process is None:
            way = ", through the proxy that the environment sets (NO_PROXY bypasses it)" if _has_proxy(address) else ""
            return (
                f"no Prefect server answers at PREFECT_API_URL={address}{way}; start the server, or unset "
                "PREFECT_API_URL to use the embedded one"
            )
        return "Prefect's embedded server did not start: run `prefect server start` to see why, or set PREFECT_API_URL"

    def _stop(self) -> None:
        os.environ.pop("PREFECT_API_URL", None)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()


class _HealthCheck(NamedTuple):
    """The result of a health check; `is_wrong` if no later check at this address can succeed."""

    is_there: bool
    is_wrong: bool = False
    refusal: int | None = None  # the HTTP status, if the server refuses the credentials
    moved_to: str | None = None  # the address that the server redirects to
    is_at: str | None = None  # the right address, if that is /api of this one


def _ask(client: httpx.Client, address: str) -> _HealthCheck:
    import httpx

    try:
        reply = client.get(f"{address}/health")
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        return _HealthCheck(is_there=False, is_wrong=True)
    except httpx.HTTPError:
        return _HealthCheck(is_there=False)
    # promise: server: a server that redirects is reported with its new address
    if reply.next_request is not None:
        return _HealthCheck(is_there=False, is_wrong=True, moved_to=_as_told(reply.next_request.url))
    # promise: server: a server that rejects the credentials is reported as such
    refusal = reply.status_code if reply.status_code in {401, 403} else None
    # Prefect's UI answers any path with an HTML page, its API answers this path with `true`
    is_page = reply.is_success and "html" in reply.headers.get("content-type", "")
    if (is_page or reply.status_code == 404) and not address.endswith("/api") and _is_api(client, f"{address}/api"):
        return _HealthCheck(is_there=False, is_wrong=True, is_at=_as_told(httpx.URL(f"{address}/api")))
    return _HealthCheck(is_there=reply.is_success, is_wrong=reply.is_client_error, refusal=refusal)


def _is_api(client: httpx.Client, address: str) -> bool:
    import httpx

    try:
        reply = client.get(f"{address}/health")
    except httpx.HTTPError:
        return False
    return reply.status_code in {200, 401, 403} and "html" not in reply.headers.get("content-type", "")


def check_patience() -> None:
    """Raise ParquillError if Prefect's request timeout is too short for any answer: Prefect would end the run."""
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT

    seconds = float(PREFECT_API_REQUEST_TIMEOUT.value())
    if seconds < MIN_TIMEOUT_S:
        raise ParquillError(
            f"PREFECT_API_REQUEST_TIMEOUT = {seconds:g} is too short for any answer of a Prefect server; unset it, or "
            f"set it to {MIN_TIMEOUT_S:g} second or more (Prefect's default is 60)"
        )


def check_home() -> str:
    """Return the folder of the embedded server's database. Raises ParquillError if it cannot be written."""
    home = os.environ.get("PREFECT_HOME") or os.path.expanduser("~/.prefect")  # noqa: PTH111 - without HOME Path raises
    try:
        os.makedirs(home, exist_ok=True)  # noqa: PTH103
        if not os.access(home, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ParquillError(
            f"Prefect's folder {home} cannot be written: {error.strerror}; set PREFECT_HOME to a folder that can be, "
            "or PREFECT_API_URL to a server"
        ) from None
    return home


def _as_told(url: httpx.URL) -> str:
    from parquill.tasks.orchestration.api_client import without_password

    return without_password(str(url.copy_with(query=None))).removesuffix("/health")


def _has_proxy(address: str) -> bool:
    parts = urlsplit(address)
    return bool({parts.scheme, "all"} & getproxies().keys()) and not proxy_bypass(parts.hostname or "")


def _bypass_proxies(host: str) -> None:
    """Bypass proxies, in this whole process, for a host that is this machine."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = ",".join(filter(None, [known, host]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = hosts


def _die_with_parent() -> None:
    # a server must not outlive a killed run
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def configured_server_url() -> str:
    """Return the address of the server that the user's environment or Prefect's files name; empty if none does.

    Prefect takes 1.3 s to import, so it is imported only if there is a file that may name a server.
    """
    if address := os.environ.get("PREFECT_API_URL"):
        return address
    if not os.environ.get("PREFECT_PROFILES_PATH") and not any(_mentions(*each) for each in _prefect_config_files()):
        return ""
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value() or "")


def _prefect_config_files() -> Iterator[tuple[str, str]]:
    """Yield files in which Prefect may find a server, each with a word that such a file contains."""
    home = os.environ.get("PREFECT_HOME") or os.path.expanduser("~/.prefect")  # noqa: PTH111 - without HOME Path raises
    yield os.path.join(home, "profiles.toml"), ""  # noqa: PTH118
    yield from (("prefect.toml", ""), (".env", "PREFECT_"), ("pyproject.toml", "tool.prefect"))


def _mentions(file: str, word: str) -> bool:
    try:
        with open(file, encoding="utf-8", errors="replace") as found:  # noqa: PTH123
            return word in found.read()
    except OSError:  # no such file, or a folder without permission
        return False
