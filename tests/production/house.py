"""A Prefect server and a worker of their own, with everything in prefect.yaml deployed: for the tests, and `make ui`.

`python -m tests.production.house FOLDER [PORT]` keeps all of it in the folder, prints the address of the UI, and stops
everything on Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.services.ending import end

ROOT = Path(__file__).resolve().parents[2]
TETHER = ROOT / "tests" / "services" / "tether.py"
BIN = Path(sys.executable).parent
START_S = 90.0


class House:
    """Server, worker and deployments; everything lies in one folder and ends with it."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        """With port 0 a free one is taken; with another, OSError if it is not free."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            self.port = int(probe.getsockname()[1])
        self.folder = folder
        self.ui = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.ui}/api"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PARQUILL_"))}
        self.environment = kept | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_API_SERVICES_FOREMAN_LOOP_SECONDS": "5",
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start everything and deploy what prefect.yaml says, as it stands."""
        self.start_server()
        self.command("work-pool", "create", "--overwrite", "--type", "process", "parquill")
        self.command("--no-prompt", "deploy", "--all")
        self._worker = self._start("worker", [str(BIN / "prefect"), "worker", "start", "--pool", "parquill"])

    def close(self) -> None:
        """Stop everything by its pid."""
        for process in (self._worker, self._server):
            if process is not None:
                end(process, within_s=15)

    def start_server(self) -> None:
        """Start the server, or start it again, and wait until it answers."""
        command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self._server = self._start("server", [*command, "--analytics-off", "--log-level", "ERROR"])
        self.wait("the server", self._answers, START_S)

    def stop_server(self) -> None:
        """Take the server away."""
        assert self._server is not None
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(30)

    def command(self, *arguments: str) -> str:
        """Run `prefect ...` in the project's folder."""
        done = subprocess.run(
            [str(BIN / "prefect"), *arguments], cwd=ROOT, env=self.environment, capture_output=True, check=False
        )
        said = done.stdout.decode() + done.stderr.decode()
        assert done.returncode == 0, said
        return said

    def parquill(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `parquill ...` with this server."""
        return subprocess.run(
            [str(BIN / "parquill"), *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """Ask the server's API."""
        for _ in range(10):  # its SQLite may be busy
            reply = httpx.request(method, self.api + path, json=body or None, timeout=30, trust_env=False)
            if reply.status_code != 503:
                break
            time.sleep(0.5)
        assert reply.status_code < 300, reply.text
        return reply.json() if reply.content else None

    def start_run(self, deployment: str, parameters: dict[str, Any], at: str | None = None) -> str:
        """Have a deployment run, now or as scheduled at a time; gives the flow run's id."""
        found = self.ask("GET", f"/deployments/name/{deployment}")
        details = {"type": "SCHEDULED", "state_details": {"scheduled_time": at}} if at else {"type": "SCHEDULED"}
        run = self.ask("POST", f"/deployments/{found['id']}/create_flow_run", parameters=parameters, state=details)
        return str(run["id"])

    def run(self, flow_run: str) -> dict[str, Any]:
        """A flow run as it is now."""
        found: dict[str, Any] = self.ask("GET", f"/flow_runs/{flow_run}")
        return found

    def ended(self, flow_run: str, types: Sequence[str] = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")) -> Any:
        """Wait until a flow run is in a state of these types; gives the run."""
        self.wait(f"one of {types}", lambda: self.run(flow_run)["state_type"] in types, 90)
        return self.run(flow_run)

    def artifact(self, key: str) -> dict[str, Any]:
        """The latest artifact with a key; its id is that of its page."""
        wanted = {"key": {"any_": [key]}}
        found = self.ask("POST", "/artifacts/filter", artifacts=wanted, sort="CREATED_DESC", limit=1)
        assert found, f"no artifact {key}"
        latest: dict[str, Any] = found[0]
        return latest

    def flow_process(self) -> int:
        """The pid of the process in which the worker runs a flow."""
        assert self._worker is not None
        found = [pid for pid in _children(self._worker.pid) if b"prefect" in _command(pid)]
        assert found, "no flow runs"
        return found[-1]

    @staticmethod
    def wait(what: str, happened: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something has happened."""
        until = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.api}/health", timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *command],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )


def _children(pid: int) -> list[int]:
    """All processes below one, the nearest first."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *_children(int(child))]
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def main(folder: Path, port: int) -> None:
    """Open the house, say where it is, and close it when asked to."""
    folder.mkdir(parents=True, exist_ok=True)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    house = House(folder.resolve(), port)
    try:
        house.open()
        sys.stdout.write(f"{house.ui}  (server and worker run until Ctrl-C; what they keep is in {folder})\n")
        sys.stdout.flush()
        over.wait()
    finally:
        house.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
