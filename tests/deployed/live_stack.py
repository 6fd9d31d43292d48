"""A separate Prefect server and worker with everything in prefect.yaml deployed, for tests and `make ui`.

`python -m tests.deployed.live_stack FOLDER [PORT]` keeps everything in the folder and prints the address of the UI.
Ctrl-C and SIGTERM stop everything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.terminate import end
from tests.tools.prefect_api import ask_prefect, is_up
from tests.tools.prefect_database import database_in

ROOT = Path(__file__).resolve().parents[2]
TETHER = ROOT / "tests" / "fakes" / "die_with_parent.py"
BIN = Path(sys.executable).parent
LEASES = "prefect.server.concurrency.lease_storage.filesystem"
START_S = 180.0
CANCEL_S = 120.0


class LiveStack:
    """Server, worker and deployments, all in one folder."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        """With port 0, uses a free port; with another port, raises OSError if it is in use."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            self.port = int(probe.getsockname()[1])
        self.folder = folder
        self.home = folder / "prefect"
        self.ui = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.ui}/api"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PARQUILL_"))}
        self.environment = kept | {
            "PWD": "/",  # do not inherit a shell's PWD
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # on a slow machine its SQLite file may be locked for longer than the ten seconds that it waits by itself
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_API_SERVICES_FOREMAN_LOOP_SECONDS": "5",
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None

    def open(self, deployed: Path | None = None) -> None:
        """Start everything and deploy prefect.yaml unchanged.

        With `deployed`, only the first stack deploys and keeps its database there; the others begin with a copy.
        """
        with contextlib.nullcontext(False) if deployed is None else database_in(self.home, deployed) as is_deployed:
            self.start_server()
            if not is_deployed:
                self.command("work-pool", "create", "--overwrite", "--type", "process", "parquill")
                self.command("--no-prompt", "deploy", "--all")
        self.start_worker()

    def start_worker(self) -> None:
        """Start a worker for the pool."""
        self._worker = self._start("worker", [str(BIN / "prefect"), "worker", "start", "--pool", "parquill"])

    def kill_worker(self, *, alone: bool = False) -> None:
        """Kill the worker and all its processes, as if the machine died; with `alone`, only the worker."""
        assert self._worker is not None
        for pid in reversed([self._worker.pid, *([] if alone else _children(self._worker.pid))]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._worker.wait(30)

    def cancel_runs(self) -> None:
        """Cancel running flow runs and wait, because a worker that stops kills its runs and leaves them Running."""
        wanted = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}

        def under_way() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self.ask("POST", "/flow_runs/filter", flow_runs=wanted)
            return found

        state = {"type": "CANCELLING", "name": "Cancelling"}
        for run in under_way():
            self.ask("POST", f"/flow_runs/{run['id']}/set_state", state=state, force=False)
        self.wait("the runs to end", lambda: not under_way(), CANCEL_S)

    def close(self) -> None:
        """Stop everything by its pid."""
        for process in (self._worker, self._server):
            if process is not None:
                end(process, within_s=15)

    def output(self) -> str:
        """Return the latest log output of server and worker."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-4_000:]}" for log in logs)

    def start_server(self) -> None:
        """Start the server, also after a stop, and wait until it answers."""
        command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with database_in(self.home):
            self._server = self._start("server", [*command, "--analytics-off", "--log-level", "ERROR"])
            self.wait("the server", lambda: is_up(self.api), START_S)

    def stop_server(self) -> None:
        """Stop the server."""
        assert self._server is not None
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(30)

    def command(self, *arguments: str) -> str:
        """Run `prefect ...` in the project's folder and return its output."""
        done = subprocess.run(
            [str(BIN / "prefect"), *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            check=False,
            start_new_session=True,  # Ctrl-C must reach only the parent
        )
        output = done.stdout.decode() + done.stderr.decode()
        assert done.returncode == 0, output
        return output

    def parquill(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `parquill ...` with this server."""
        return subprocess.run(
            [str(BIN / "parquill"), *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """Call the server's API."""
        return ask_prefect(self.api, method, path, **body)

    def start_run(
        self,
        deployment: str,
        parameters: dict[str, Any],
        at: str | None = None,
        env: dict[str, str] | None = None,
        *,
        enforced: bool = True,
    ) -> str:
        """Start a deployment and return the id of the flow run.

        It starts now or at the scheduled time `at`, with `env` added to its environment.
        The server refuses parameters that its schema does not allow, unless `enforced` is false.
        """
        found = self.ask("GET", f"/deployments/name/{deployment}")
        details = {"type": "SCHEDULED", "state_details": {"scheduled_time": at}} if at else {"type": "SCHEDULED"}
        more = {"job_variables": {"env": {**found["job_variables"].get("env", {}), **env}}} if env else {}
        path = f"/deployments/{found['id']}/create_flow_run"
        asked = {"parameters": parameters, "state": details, "enforce_parameter_schema": enforced}
        return str(self.ask("POST", path, **asked, **more)["id"])

    def run(self, flow_run: str) -> dict[str, Any]:
        """Return a flow run in its current state."""
        found: dict[str, Any] = self.ask("GET", f"/flow_runs/{flow_run}")
        return found

    def ended(self, flow_run: str, types: Sequence[str] = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")) -> Any:
        """Wait until a flow run is in a state of these types, and return the run."""
        self.wait(f"one of {types}", lambda: self.run(flow_run)["state_type"] in types, 240)
        return self.run(flow_run)

    def artifact(self, key: str) -> dict[str, Any]:
        """Return the latest artifact with a key; its id is that of its page."""
        wanted = {"key": {"any_": [key]}}
        found = self.ask("POST", "/artifacts/filter", artifacts=wanted, sort="CREATED_DESC", limit=1)
        assert found, f"no artifact {key}"
        latest: dict[str, Any] = found[0]
        return latest

    def logs(self, flow_run: str, level: int = 0) -> list[str]:
        """Return the log messages of a flow run, from a level upwards."""
        wanted = {"flow_run_id": {"any_": [flow_run]}, "level": {"ge_": level}}
        return [str(log["message"]) for log in self.ask("POST", "/logs/filter", logs=wanted)]

    def flow_process(self) -> int:
        """Return the pid of the process in which the worker runs a flow."""
        assert self._worker is not None
        found = [pid for pid in _children(self._worker.pid) if b"prefect" in _command(pid)]
        assert found, "no flow runs"
        return found[-1]

    @staticmethod
    def wait(what: str, happened: Callable[[], bool], seconds: float = 180.0) -> None:
        """Wait until `happened` returns true."""
        until = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
            time.sleep(0.2)

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *command],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextlib.contextmanager
def open_stack(
    folder: Path, environment: Mapping[str, str] | None = None, deployed: Path | None = None
) -> Iterator[LiveStack]:
    """Open a stack with additions to its environment, and always close it."""
    stack = LiveStack(folder)
    stack.environment |= environment or {}
    try:
        stack.open(deployed)
        yield stack
    finally:
        stack.close()


def _children(pid: int) -> list[int]:
    """Return all processes below one, the nearest first."""
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


class _Over(BaseException):
    """A signal asked the stack to end."""


def _stop(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # one signal is enough: the shutdown must not be interrupted
    raise _Over


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder for this stack: a second stack would run, and finally cancel, the first one's runs."""
    with (folder / "lock").open("w") as lock:
        try:
            # promise: make ui: only one stack at a time uses a folder
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{folder} has a server and a worker already: stop them first (Ctrl-C)") from None
        yield


def main(folder: Path, port: int) -> None:
    """Open the stack, print its address, and close it on request. Raises SystemExit with a sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with contextlib.suppress(_Over), _held(folder):
        _live(folder, port)


def _live(folder: Path, port: int) -> None:
    try:
        stack = LiveStack(folder.resolve(), port)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"port {port} cannot be used ({error}); set another with make ui PORT=...") from None
    # another server opens this folder later, and it knows only what was written to disk
    stack.environment["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] = LEASES
    try:
        _say("starting a Prefect server and a worker, half a minute or so")
        stack.open()
        _say(f"{stack.ui}  (server and worker run until Ctrl-C; what they keep is in {folder})")
        try:
            threading.Event().wait()
        finally:
            with contextlib.suppress(AssertionError, httpx.HTTPError):  # the job's next run resumes its work
                stack.cancel_runs()
    finally:
        stack.close()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _port(text: str) -> int:
    if not text.isdecimal():
        raise SystemExit(f"PORT={text} is not a port; set one, such as make ui PORT=4201")
    return int(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), _port(sys.argv[2]) if len(sys.argv) > 2 else 0)
