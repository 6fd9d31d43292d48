"""The flows in a real notebook: a running loop, a progress bar, a table of polars, and the stop button."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.tools.jobs import Jobs

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build" / "readers" / "bin" / "python"
BEGIN = """
import os, signal, site, sys, threading, time
site.addsitedir({packages!r})
import polars as pl
from parquill.flows import complete_prompts
from parquill.tasks.llm.open_senders import open_senders

job = {job!r}
frame = pl.DataFrame({{"id": range(100), "text": [f"text {{n}}" for n in range(100)]}})
"""
# What a notebook's stop button does: a SIGINT for the kernel, here after 12 rows.
STOP = """
def stop():
    while not (open_senders() and open_senders()[0].lane.progress.done >= 12):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=stop).start()
complete_prompts(job, input=frame)
"""
RUN = """
run = complete_prompts(job, input=frame)
print(run.summary["rows"]["ok"], run.summary["requests"]["sent"], len(run.to_pandas(["id"])))
"""


@pytest.mark.nightly
def test_a_notebook_runs_and_stops(jobs: Jobs) -> None:
    """A cell shows a bar while it runs. If it is stopped, the same cell again resumes and pays for nothing twice."""
    assert PYTHON.exists(), "this test needs `make readers`, which installs Jupyter's kernel into build/readers"
    jobs.service.configure(latency_ms=200)
    job = jobs.job(None, name="notebook", limits={"max_at_once": 4}, id_column="id")
    begin = BEGIN.format(packages=sysconfig.get_path("purelib"), job=job)
    cells = jobs.folder / "cells.json"
    cells.write_text(json.dumps([begin, STOP, RUN]), encoding="utf-8")
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(jobs.folder), "IPYTHONDIR": str(jobs.folder)}
    command = [PYTHON, ROOT / "tests" / "tools" / "notebook.py", cells]
    done = subprocess.run(command, capture_output=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    begun, stopped, resumed = json.loads(done.stdout.decode().splitlines()[-1])
    assert begun == []
    assert [each["ename"] for each in stopped if each["output_type"] == "error"] == ["KeyboardInterrupt"]
    assert "of 100 rows" in _bar(stopped)["text/plain"]
    assert _bar(resumed)["text/plain"].startswith("100 of 100 rows")
    assert _bar(resumed)["text/html"].startswith('<progress value="100" max="100">')
    printed = "".join(each["text"] for each in resumed if each.get("name") == "stdout")
    assert printed.split() == ["100", "100", "100"]
    stats = jobs.service.stats()
    assert (stats["billed"], stats["billed_twice"]) == (100, [])


def _bar(outputs: list[dict[str, Any]]) -> dict[str, str]:
    """Return the one bar among the outputs of a cell; Prefect's log lines are outputs too."""
    shown = [each["data"] for each in outputs if each["output_type"] == "display_data"]
    (bar,) = (data for data in shown if "<progress" in "".join(data["text/html"]))
    return {kind: "".join(text) for kind, text in bar.items()}
