"""`make ui`: a house for people."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import httpx

from tests.production.house import ROOT, House, _children


def test_everything_is_there_and_goes_away(tmp_path: Path) -> None:
    """`make ui` prints the address of a server with every deployment and a worker that is online, and on Ctrl-C leaves no process and no open port."""
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            ["make", "--no-print-directory", "ui", "PORT=0"], cwd=ROOT, stdout=said, stderr=said, start_new_session=True
        )
    try:
        House.wait("its address", lambda: b"http://" in (tmp_path / "said").read_bytes(), 120)
        found = re.search(r"http://127.0.0.1:\d+", (tmp_path / "said").read_text())
        assert found
        below = _children(process.pid)
        assert len(below) >= 3
        deployed = httpx.post(f"{found[0]}/api/deployments/filter", json={}, timeout=30, trust_env=False).json()
        assert {each["name"] for each in deployed} == {"translate-nightly", "summarize-nightly", "estimate", "complete"}

        def is_online() -> bool:
            workers = httpx.post(
                f"{found[0]}/api/work_pools/parquill/workers/filter", json={}, timeout=30, trust_env=False
            ).json()
            return any(each["status"] == "ONLINE" for each in workers)

        House.wait("the worker", is_online, 60)
        assert httpx.get(found[0], timeout=30, trust_env=False).status_code == 200
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        House.wait("the end of all processes", lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
