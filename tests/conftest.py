"""Fixtures for tests of whole runs: a Prefect server, a fake service, and ways to run a job.

Prefect reads its settings when it is imported. So this file sets the server's address and a home folder that is not the
user's before any test is imported. The server starts only when a test asks for it: unit tests do not wait for it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes.options import Options
from tests.fakes.running import FakeService, fake_openai
from tests.fakes.terminate import end
from tests.tools.jobs import Jobs
from tests.tools.prefect_api import is_up
from tests.tools.prefect_database import database_in

pytest_plugins = ["tests.tools.unit_rules"]
# The result of a test must not depend on chance or on how busy the machine is. To draw new examples, use `make fuzz`
# or `pytest --hypothesis-profile default`.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
TETHER = Path(__file__).parent / "fakes" / "die_with_parent.py"
START_S = 180.0
# Only deployments and automations need these. The recorders of task runs and events stay on: tests read both.
IDLE_SERVICES = (
    "scheduler late_runs cancellation_cleanup db_vacuum foreman pause_expirations repossessor cleanup_reconciler "
    "triggers"
).split()


def _reserve_port() -> socket.socket:
    """Bind a port without listening: no other process gets it, and the server, which shares it, can listen."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def _settle_environment(home: Path, port: int) -> None:
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "PARQUILL_"))]:
        del os.environ[name]
    os.environ |= {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "XDG_STATE_HOME": str(home / "state"),  # the ledger is never the user's own
    }


HOME = Path(tempfile.mkdtemp(prefix="parquill-tests-"))
_HELD = _reserve_port()
PORT: int = _HELD.getsockname()[1]
_settle_environment(HOME, PORT)


_servers: list[subprocess.Popen[bytes]] = []


def _leave_nothing() -> None:
    for process in _servers:
        end(process)
    _HELD.close()
    shutil.rmtree(HOME, ignore_errors=True)


# Registered before Prefect is imported, so it runs after Prefect has sent its last logs and events: without a server,
# Prefect would retry for a minute.
atexit.register(_leave_nothing)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """Start a Prefect server and return the address of its API.

    Flows in this process send no heartbeats: at the end of each flow, Prefect would wait up to a second for the thread
    that sends them.
    """
    wanted = {f"PREFECT_SERVER_SERVICES_{name.upper()}_ENABLED": "false" for name in IDLE_SERVICES}
    wanted["PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL"] = "0.5"
    command = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid())]
    command += [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PORT)]
    command += ["--no-ui", "--analytics-off", "--log-level", "ERROR"]
    with database_in(HOME / "prefect"), tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env=os.environ | wanted,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        _servers.append(process)
        address = os.environ["PREFECT_API_URL"]
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # while the server starts

        deadline = time.monotonic() + START_S
        while not is_up(address):
            if process.poll() is not None or time.monotonic() > deadline:
                output.seek(0)
                pytest.fail(f"Prefect's server did not start: {output.read()[-2000:].decode(errors='replace')}")
            time.sleep(0.1)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield address


@pytest.fixture(scope="session")
def running_service() -> Iterator[FakeService]:
    """One fake service for all tests."""
    with fake_openai() as running:
        yield running


@pytest.fixture
def service(running_service: FakeService) -> FakeService:
    """The fake service with its default options and nothing recorded."""
    running_service.configure(**asdict(Options()))
    running_service.reset()
    return running_service


@pytest.fixture
def jobs(prefect_server: str, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """Write and run jobs against the fake service, with a ledger of their own; stop what they started at the end."""
    assert prefect_server
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user-state"))
    made = Jobs(tmp_path, service)
    yield made
    made.close()


@pytest.fixture
def no_server(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name no Prefect server, and start no embedded one, for runs in this process that are refused before they use it.

    In a process of their own it would end with them; here it would run until the last test.
    """
    assert jobs
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setattr("parquill.flows.cli.prefect_server.EmbeddedServer.begin", lambda _: False)
