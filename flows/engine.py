"""Prefect on the command line: quiet, and with its embedded server started while something else goes on."""

from __future__ import annotations

import os
import threading


def configure() -> None:
    """Set what must be set before Prefect is imported; what the user has set stays."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
    # one sentence at the end tells what Prefect's tracebacks tell in fifty lines; its own log has them
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_PROMPT", "false")


class EmbeddedServer:
    """Starts Prefect's embedded server in the background, unless PREFECT_API_URL names a running one.

    Prefect itself stops it when the process ends, after its last logs and events were sent: stopping it earlier makes
    Prefect's workers knock at a closed door for a minute.
    """

    def __init__(self) -> None:
        self.needed = not _has_server()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> bool:
        """Begin to start it, if it is needed; True if it was begun."""
        if self.needed and self._thread is None:
            self._thread = threading.Thread(target=self._start, name="parquill-server", daemon=True)
            self._thread.start()
            return True
        return False

    def _start(self) -> None:
        try:
            from prefect.server.api.server import SubprocessASGIServer

            SubprocessASGIServer().start()
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            self._error = error

    def wait(self) -> None:
        """Wait until it answers, or see that the running one does. Raises ParquillError if it does not."""
        if not self.needed:
            _check_running()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            from parquill.tasks.errors import ParquillError

            raise ParquillError(
                f"Prefect's embedded server did not start ({type(self._error).__name__}); start one with "
                "`prefect server start` and set PREFECT_API_URL"
            ) from None


def _check_running() -> None:
    import httpx
    from parquill.tasks.errors import ParquillError
    from prefect.settings import PREFECT_API_URL

    address = str(PREFECT_API_URL.value()).rstrip("/")
    try:
        httpx.get(f"{address}/health", timeout=10).raise_for_status()
    except httpx.HTTPError:
        raise ParquillError(
            f"no Prefect server answers at PREFECT_API_URL={address}; start it, or unset the variable to use the "
            "embedded one"
        ) from None


def _has_server() -> bool:
    if os.environ.get("PREFECT_API_URL"):
        return True
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())
