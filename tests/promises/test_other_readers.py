"""Spark, DuckDB, Polars, datasets and pandas read the results, from inputs that each of them has written."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.fakes.running import FakeService
from tests.tools.direct import job_of, results, run_steps
from tests.tools.readers import IDS, INPUTS, STARS, TEXTS, TIMES, TOOLS

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build" / "readers" / "bin" / "python"


def _call(command: str, folder: Path) -> str:
    assert PYTHON.exists(), "this test needs `make readers`, which installs the other tools into build/readers"
    script = ROOT / "tests" / "tools" / "readers.py"
    done = subprocess.run([PYTHON, script, command, folder], capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stdout.decode()


@pytest.mark.nightly
def test_other_tools_read_the_results(tmp_path: Path, service: FakeService) -> None:
    """Each of the five tools finds all columns, dates and nulls of the input in the results, next to the answers.
    This holds for an input of each tool.
    """
    _call("write", tmp_path)
    answers: dict[str, list[str]] = {}
    for name in INPUTS:
        text = "row[\"('text', 'x')\"]" if "levels" in name else "text"
        folders = {"input": str(tmp_path / name / "in"), "output": str(tmp_path / name / "out")}
        job = {**job_of(tmp_path / "job", [], service.url), **folders, "id_column": None}
        run_steps({**job, "prompt": {"user": f"{{{{ {text} }}}}"}})
        answers[name] = [row["completion"] for row in results(job)]
    found = json.loads(_call("read", tmp_path).splitlines()[-1])
    for name in INPUTS:
        rows = [list(row) for row in zip(IDS, TEXTS, map(str, TIMES), STARS, answers[name], strict=True)]
        assert len(set(answers[name])) == len(rows)
        for tool in TOOLS:
            assert found[name][tool] == rows, f"{tool} reads results of an input of {name}"
        assert found[name]["index of pandas"] == ("id" if "index" in name else None)


@pytest.mark.nightly
def test_the_page_on_results_runs(tmp_path: Path, service: FakeService) -> None:
    """The code in docs/how-to/results.md for DuckDB, Polars and Spark runs on results unchanged."""
    job = job_of(tmp_path, TEXTS, service.url, output=str(tmp_path / "runs" / "audience"))
    run_steps(job)
    assert json.loads(_call("page", tmp_path).splitlines()[-1]) == ["duckdb", "polars", "pyspark"]
