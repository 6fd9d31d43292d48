"""Services as context managers: started as processes of their own, stopped by their pid.

with fake_openai(latency_ms=50, rpm=600) as service:
    complete(base_url=service.url)
    assert service.stats()["billed_twice"] == []
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import orjson

from tests.fakes.controls import Controls
from tests.fakes.terminate import end

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
_TETHER = Path(__file__).with_name("die_with_parent.py")
_START_S = 120.0
_STOP_S = 3.0
LLMOCK_JOURNAL_SIZE = 10_000  # llmock 0.2.2 keeps no more and has no setting for it


class ServiceError(RuntimeError):
    """A service did not start, or it refused a control request."""


class _Service:
    """What both services have: a process, a port, and a client for the control routes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.pid = process.pid
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/v1"
        # trust_env off: a proxy of the environment must never see a test's traffic.
        self._client = httpx.Client(base_url=self.origin, trust_env=False, timeout=30.0)

    def close(self) -> None:
        """Close the control client; the context manager does."""
        self._client.close()

    def _ask(self, method: str, path: str, content: bytes | None = None) -> Any:
        reply = self._client.request(method, path, content=content)
        if reply.status_code >= 400:
            raise ServiceError(f"{method} {path}: {reply.status_code} {reply.text}")
        return orjson.loads(reply.content)


class FakeService(_Service, Controls):
    """A running fake_openai."""


class LlmockService(_Service):
    """A running llmock: an independent implementation of the same limits."""

    def requests(self) -> list[dict[str, Any]]:
        """Return its journal, oldest first, the last 10,000 requests; wait up to 2 s for those in flight."""
        entries: list[dict[str, Any]] = self._ask("GET", "/_llmock/requests")["requests"]
        if len(entries) >= LLMOCK_JOURNAL_SIZE:
            raise ServiceError("llmock's journal is full: earlier requests are forgotten, counts would be wrong")
        return entries

    def throttled(self) -> list[float]:
        """Return when (time.monotonic, one clock for all processes of a machine) it answered 429."""
        return [entry["ended_at"] for entry in self.requests() if entry["status"] == 429]

    def statuses(self) -> dict[int, int]:
        """Return how often it answered with each status."""
        counts: dict[int, int] = {}
        for entry in self.requests():
            counts[entry["status"]] = counts.get(entry["status"], 0) + 1
        return counts

    def verdict(self) -> dict[str, Any]:
        """Return its own judgment of the client."""
        judged: dict[str, Any] = self._ask("GET", "/_llmock/verdict")
        return judged

    def reset(self) -> None:
        """Empty journal and limits."""
        self._ask("POST", "/_llmock/reset")


@contextmanager
def fake_openai(**options: Any) -> Iterator[FakeService]:
    """Run fake_openai with these options (see options.py) on a free port."""
    command = [sys.executable, "-m", "tests.fakes.fake_openai", "--port", "0"]
    for name, value in options.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        command.append(f"--{name.replace('_', '-')}={text}")
    with _process(command) as (process, errors):
        service = FakeService(process, _ready_port(process, errors))
        try:
            yield service
        finally:
            service.close()


@contextmanager
def llmock_service(
    rpm: int | None = None,
    tpm: int | None = None,
    latency_ms: int | None = None,
    extra_args: Sequence[str] = (),
) -> Iterator[LlmockService]:
    """Run `llmock serve` with these limits (for each API key) on a free port."""
    port = _free_port()
    command = [sys.executable, "-m", "llmock.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    for flag, value in (("--rpm", rpm), ("--tpm", tpm), ("--latency-ms", latency_ms)):
        if value is not None:
            command += [flag, str(value)]
    with _process([*command, "--log-level", "warning", *extra_args]) as (process, errors):
        service = LlmockService(process, port)
        try:
            _wait_healthy(service, process, errors)
            yield service
        finally:
            service.close()


def busiest_window(arrivals: dict[str, list[Any]], window_s: float = 60.0) -> tuple[int, int]:
    """Return the most requests, and the most tokens, that came in any half-open window of this length."""
    at, tokens = arrivals["at"], arrivals["tokens"]
    most_requests = most_tokens = inside = first = 0
    for last, time_of_last in enumerate(at):
        inside += tokens[last]
        while at[first] <= time_of_last - window_s:
            inside -= tokens[first]
            first += 1
        most_requests = max(most_requests, last - first + 1)
        most_tokens = max(most_tokens, inside)
    return most_requests, most_tokens


@contextmanager
def _process(command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start a process in its own session that dies with this one, and always stop it at the end."""
    launcher = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid())]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "TZ": "UTC"}
    with tempfile.TemporaryFile() as errors:
        # A session of its own: a Ctrl-C or a kill of the test's process group must not hit the service.
        process = subprocess.Popen(
            launcher + command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            yield process, errors
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process, then close its output."""
    end(process, _STOP_S)
    if process.stdout is not None:
        process.stdout.close()


def _ready_port(process: subprocess.Popen[bytes], errors: IO[bytes]) -> int:
    """Wait for `READY <port>`."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _START_S)
    words = process.stdout.readline().split() if readable else []
    if len(words) != 2 or words[0] != b"READY":
        raise _not_started(process, errors)
    return int(words[1])


def _wait_healthy(service: LlmockService, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{service.origin}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise _not_started(process, errors)


def _not_started(process: subprocess.Popen[bytes], errors: IO[bytes]) -> ServiceError:
    _stop(process)
    errors.seek(0)
    output = errors.read()[-2000:].decode("utf-8", "replace")
    return ServiceError(f"the service did not start (exit code {process.returncode}):\n{output}")


def _free_port() -> int:
    """Return a port that was free just now; llmock cannot report which port it took when it is given 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
