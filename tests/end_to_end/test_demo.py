"""`make demo` with the real local model, on a few rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
PARQUILL = str(Path(sys.executable).with_name("parquill"))
JOB = "data/jobs/summarize-articles.yaml"


@pytest.mark.nightly
def test_the_real_model_through_the_whole_flow(tmp_path: Path) -> None:
    """One command serves a real model, completes rows through Prefect, and writes answers, usage and cost."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment["PREFECT_HOME"] = str(tmp_path / "prefect")
    output = tmp_path / "out"
    command = [PARQUILL, "serve-model", "--port", "0", "--"]
    command += [PARQUILL, "run", JOB, "--limit", "6", "--set", f"output={output}"]
    command += ["--set", "endpoint.base_url={url}", "--set", "tolerate.not_ok=1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(output / "results")
    summary = orjson.loads((output / "summary.json").read_bytes())
    assert table.num_rows == summary["rows"]["total"] == 6
    assert set(table["status"].to_pylist()) <= {"ok", "truncated"}
    assert all(text.strip() for text in table["completion"].to_pylist())
    # usage comes from the service, not from the estimate: the model's own tokenizer counts differently
    assert summary["tokens"]["prompt"] == sum(table["prompt_tokens"].to_pylist()) > 0
    assert summary["tokens"]["completion"] == sum(table["completion_tokens"].to_pylist()) > 6
    assert summary["cost_usd"] == "0.000000000"
    assert float(summary["price_as"]["cost_usd"]) > 0
    assert "starting the local model" in done.stderr
    assert str(output / "results") in done.stdout.replace("\n", "")


AT_ONCE = "assert 'prefect' not in sys.modules and 'pandas' not in sys.modules"
SOON = "assert time.process_time() - began < 2.0"


@pytest.mark.parametrize("what", [AT_ONCE, pytest.param(SOON, marks=pytest.mark.nightly)], ids=["imports", "seconds"])
def test_an_estimate_answers_at_once(what: str) -> None:
    """`estimate` on the sample starts no server and does not import Prefect, so it answers within two seconds."""
    program = (
        "import sys, time; began = time.process_time(); from parquill.flows.cli.commands import main\n"
        f"try: main(['estimate', '{JOB}', '--json'])\n"
        f"except SystemExit as ended: assert ended.code == 0\n{what}"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout)["rows"] >= 24
