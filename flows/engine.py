"""Prefect on the command line: quiet, and with its embedded server started while something else goes on."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

from parquill.tasks.errors import ParquillError

START_S = 90.0


def configure() -> None:
    """Set what must be set before Prefect is imported; what the user has set stays."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # one sentence at the end tells what Prefect's tracebacks tell in fifty lines; its own log has them
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # a server that is gone is knocked at for seconds, not for minutes: it costs a run no more than its report
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "2")


class EmbeddedServer:
    """Prefect's server as a process of this run's own, unless PREFECT_API_URL names a running one.

    Prefect can start such a server too, but only after importing all of it (2 s of CPU, in a thread beside our own
    imports), and leaves it behind when this process is killed.
    """

    def __init__(self) -> None:
        self.needed = not os.environ.get("PREFECT_API_URL") and not _profile_has_server()
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    def begin(self) -> bool:
        """Begin to start it, if it is needed; True if it was begun. Call it in the main thread."""
        if not self.needed or self._process is not None:
            return False
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}/api"
        command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
        environment = {**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into libc
        )
        # registered before Prefect is imported, so it runs after Prefect has sent its last logs and events
        atexit.register(self._stop)
        return True

    def wait(self) -> None:
        """Wait until a server answers, and have Prefect use it. Raises ParquillError if none does."""
        import httpx
        from prefect.context import refresh_global_settings_context
        from prefect.settings import PREFECT_API_URL

        if self._process is not None:
            from parquill.tasks.lender import EMBEDDED

            os.environ["PREFECT_API_URL"] = os.environ[EMBEDDED] = self._url
            refresh_global_settings_context()
        address = str(PREFECT_API_URL.value()).rstrip("/")
        until = time.monotonic() + (START_S if self._process is not None else 0.0)
        while True:
            try:
                httpx.get(f"{address}/health", timeout=10, trust_env=False).raise_for_status()
            except httpx.HTTPError:
                ended = self._process is not None and self._process.poll() is not None
                if ended or time.monotonic() >= until:
                    raise ParquillError(self._away(address)) from None
                time.sleep(0.1)
            else:
                return

    def _away(self, address: str) -> str:
        if self._process is None:
            return (
                f"no Prefect server answers at PREFECT_API_URL={address}; start it, or unset it to use the embedded one"
            )
        return (
            "Prefect's embedded server did not start; `prefect server start` shows why, PREFECT_API_URL names another"
        )

    def _stop(self) -> None:
        os.environ.pop("PREFECT_API_URL", None)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()


def _die_with_parent() -> None:
    # a server must not outlive a killed run; the terminal's Ctrl-C is for the run, which still needs its server
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _profile_has_server() -> bool:
    """Whether the user's Prefect profile names a server; Prefect (1.3 s to import) is asked only if there is one."""
    from pathlib import Path

    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    if not (home / "profiles.toml").exists() and not Path("prefect.toml").exists():
        return False
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())
