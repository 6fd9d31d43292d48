"""`make ui`: a stack for people."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.deployed.live_stack import ROOT, LiveStack, _children
from tests.deployed.slow_jobs import slow_job, summary_of
from tests.tools.jobs import Jobs
from tests.tools.prefect_api import ask_prefect

pytestmark = pytest.mark.nightly


def test_everything_is_there_and_goes_away(tmp_path: Path, made: Jobs) -> None:
    """`make ui` prints the address of a server with every deployment and an online worker.
    Ctrl-C, pressed twice, cancels the current run and leaves no process and no open port.
    """
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            ["make", "--no-print-directory", "ui", "PORT=0"],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        LiveStack.wait("its address", lambda: b"http://" in (tmp_path / "output").read_bytes(), 120)
        found = re.search(r"http://127.0.0.1:\d+", (tmp_path / "output").read_text())
        assert found
        api = f"{found[0]}/api"
        below = _children(process.pid)
        assert len(below) >= 3
        deployed = ask_prefect(api, "POST", "/deployments/filter")
        assert {each["name"] for each in deployed} == {"translate-nightly", "summarize-nightly", "estimate", "complete"}

        def is_online() -> bool:
            workers = ask_prefect(api, "POST", "/work_pools/parquill/workers/filter")
            return any(each["status"] == "ONLINE" for each in workers)

        LiveStack.wait("the worker", is_online, 60)
        assert httpx.get(found[0], timeout=30, trust_env=False).status_code == 200
        settings = slow_job(made, 1_000, name="interrupted")
        complete = ask_prefect(api, "GET", "/deployments/name/complete-prompts/complete")["id"]
        ask_prefect(api, "POST", f"/deployments/{complete}/create_flow_run", parameters={"job": settings})
        LiveStack.wait("requests", lambda: made.service.stats()["requests"] > 30)
        second = subprocess.run(
            ["make", "--no-print-directory", "ui", "PORT=0"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "build/ui has a server and a worker already" in second.stderr  # and it did not affect the run
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)  # a second Ctrl-C while it cancels the run
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        LiveStack.wait("the end of all processes", lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 30)
        assert summary_of(settings)["state"] == "stopped"
        assert 30 < summary_of(settings)["rows"]["ok"] < 1_000
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("after", ["starting a Prefect server", "server.log", "worker.log"])
def test_it_ends_while_it_starts(tmp_path: Path, after: str) -> None:
    """Ctrl-C before the address is printed, once or twice, also ends `make ui`.
    It ends soon, without a traceback, and leaves nothing behind.
    """
    command = [sys.executable, "-m", "tests.deployed.live_stack", str(tmp_path / "ui"), "0"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    try:
        found = tmp_path / "output" if " " in after else tmp_path / "ui" / after
        LiveStack.wait(after, lambda: found.exists() and bool(found.stat().st_size or " " not in after), 120)
        below = _children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)  # a second Ctrl-C while it stops its processes
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(40) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    LiveStack.wait("the end of all processes", lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 30)
    assert "Traceback" not in (tmp_path / "output").read_text()


@pytest.mark.parametrize("port", ["busy", "abc", "99999"])
def test_a_port_that_cannot_be_had_is_a_sentence(port: str) -> None:
    """A port that is in use, or is not a port, is reported in one sentence, without a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = str(taken.getsockname()[1]) if port == "busy" else port
        command = [sys.executable, "-m", "tests.deployed.live_stack", "build/none", given]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert given in done.stderr
    assert "make ui PORT=" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_in_use_is_a_sentence(tmp_path: Path) -> None:
    """If another stack uses the folder, `make ui` says so in one sentence before it starts anything in it."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "tests.deployed.live_stack", str(tmp_path), "0"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path} has a server and a worker already: stop them first (Ctrl-C)\n"
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]
