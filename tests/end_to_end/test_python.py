"""Flows that are called from Python: tables as input, job files with settings, results, notebooks' running loop."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from parquill.data import FOLDER
from parquill.flows import CompletedRun, complete_prompts, estimate_cost, translate
from parquill.tasks.errors import BadInput, BadJob, RefusedByBudget, StoppedByBudget
from tests.docs.pages import ROOT, blocks
from tests.end_to_end.test_prefect import Api
from tests.tools.expected import billed_usd
from tests.tools.jobs import Jobs, Spawned
from tests.tools.kills import wait_for_requests
from tests.tools.prefect_api import ask_prefect

SECRET = "the text of a cell"


def _frame(rows: int = 3) -> pd.DataFrame:
    index = pd.Index([f"r{row}" for row in range(rows)], name="id")
    return pd.DataFrame({"text": [f"{SECRET} {row}" for row in range(rows)]}, index=index)


def test_a_table_is_paid_for_once(jobs: Jobs, prefect_server: str) -> None:
    """A DataFrame is an input: its rows and named index are in the results, and the same frame again pays nothing."""
    settings = jobs.job(None, name="frame", id_column="id", output=str(jobs.folder / "dt=2026-11-30"))
    del settings["input"]
    estimate = estimate_cost(settings, input=_frame())
    run = complete_prompts(settings, input=_frame())
    assert estimate.rows_to_send == 3
    frame = run.to_pandas()
    assert list(frame.columns[:2]) == ["id", "text"]
    assert "dt" not in frame.columns  # the folder of the output is no column of the table
    assert list(frame["id"]) == ["r0", "r1", "r2"]
    assert frame["cost_usd"].sum() == run.cost_usd == billed_usd(jobs.service) > 0
    assert run.to_pandas(["status", "id"]).to_dict("list") == {"status": ["ok"] * 3, "id": ["r0", "r1", "r2"]}
    assert complete_prompts(settings, input=_frame().copy()) == run
    assert jobs.service.stats()["requests"] == 3
    (kept,) = (jobs.folder / "dt=2026-11-30" / ".parquill" / "tables").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    for flow_run in Api(prefect_server, "frame").flow_runs():
        assert flow_run["parameters"]["job"]["input"] == str(kept)


def test_a_table_is_never_sent_to_prefect(jobs: Jobs, prefect_server: str) -> None:
    """No flow run's parameters hold a value of a table, and a table inside a job or its settings is refused before."""
    settings = jobs.job(None, name="hidden")
    table = pa.Table.from_pandas(_frame())
    for give in (
        lambda: complete_prompts({**settings, "input": table}),
        lambda: complete_prompts(settings, settings={"vars.rows": [_frame()]}),
        lambda: complete_prompts.with_options(name="other")({**settings, "vars": {"rows": table}}),
    ):
        with pytest.raises(BadJob, match="the parameter `input`"):
            give()
    assert Api(prefect_server, "hidden").flow_runs() == []
    complete_prompts.with_options(name="other")(settings, input=table)
    given = {"endpoint": {"base_url": jobs.service.url}}
    done = translate(table, str(jobs.folder / "fr"), ["fr"], name="hidden", settings=given)
    assert done.to_pandas()["language"].tolist() == ["fr"] * 3
    runs = Api(prefect_server, "hidden").flow_runs()
    assert len(runs) == 2
    assert SECRET not in str(ask_prefect(prefect_server, "POST", "/flow_runs/filter"))


def test_a_job_file_has_settings_beside_it(jobs: Jobs) -> None:
    """A job file is called with other settings, by dotted names or groups, and with another input."""
    file = jobs.job_file(jobs.job(["a"], budget={"run_usd": 1, "soft_fraction": 0.5}))
    other = jobs.write(["b", "c"], "other.parquet")
    output = jobs.folder / "elsewhere"
    run = complete_prompts(
        file, input=other, settings={"budget.run_usd": 2, "labels": {"team": "x"}, "output": str(output)}
    )
    assert (run.output, run.summary["rows"]["total"]) == (str(output), 2)
    assert (run.summary["budget"]["run_usd"], run.summary["labels"]) == ("2", {"team": "x"})
    with pytest.raises(BadJob, match=r"`settings\.input` is the parameter `input`"):
        complete_prompts(file, input=other, settings={"input": "x"})
    with pytest.raises(BadJob, match=r"`budget\.run_use`.*did you mean"):
        complete_prompts(str(file), settings={"budget.run_use": 2})
    assert jobs.service.stats()["requests"] == 2


def test_an_error_leaves_its_results_to_be_read(jobs: Jobs) -> None:
    """A refusal raises and sends nothing. After a run that its budget stopped, the rows are there to be loaded."""
    settings = jobs.job([f"text {n}" for n in range(20)], name="short")
    output = settings["output"]
    with pytest.raises(RefusedByBudget, match="exceeds the budget"):
        complete_prompts(settings, settings={"budget.run_usd": 0.00001})
    assert jobs.service.stats()["requests"] == 0
    with pytest.raises(BadInput, match="no run has begun there"):
        CompletedRun.load(output)
    with pytest.raises(StoppedByBudget):
        complete_prompts(settings, settings={"budget": {"run_usd": 0.0002, "when_short": "partial"}})
    stopped = CompletedRun.load(output)
    assert (stopped.summary["state"], stopped.summary["exit_code"]) == ("stopped", 4)
    assert set(stopped.to_pandas()["status"]) == {"ok", "not_sent"}
    whole = complete_prompts(settings)
    assert set(whole.to_arrow(["status"])["status"].to_pylist()) == {"ok"}
    assert jobs.service.stats()["billed_twice"] == []


def test_a_run_has_no_rows_of_another(jobs: Jobs) -> None:
    """If a later run has replaced the results, the earlier run's object refuses to return them."""
    settings = jobs.job(["a", "b"], name="replaced")
    first = complete_prompts(settings, limit=1)
    assert first.to_arrow().num_rows == 1
    second = complete_prompts(settings)
    assert second.to_arrow().num_rows == 2
    with pytest.raises(BadInput, match=f"are those of run {second.run_id}, not of {first.run_id}"):
        first.to_arrow()
    with pytest.raises(BadInput, match="have no column 'answer'; they have text, completion"):
        second.to_pandas(["answer"])
    assert CompletedRun.load(Path(settings["output"])) == second


def test_an_index_of_the_input_is_a_column(jobs: Jobs) -> None:
    """Rows are numbered from 0 in the DataFrame, also if pandas wrote the input with an index, which is a column then."""
    _frame().to_parquet(jobs.folder / "indexed.parquet")
    run = complete_prompts(jobs.job(None, name="indexed", id_column="id"), input=jobs.folder / "indexed.parquet")
    frame = run.to_pandas()
    assert list(frame.index) == [0, 1, 2]
    assert set(frame["id"]) == {"r0", "r1", "r2"}


def test_a_flow_is_called_within_a_running_loop(jobs: Jobs) -> None:
    """A cell of a notebook runs in an event loop: there the flows are called like anywhere else."""
    settings = jobs.job(["a", "b"], name="loop")

    async def cell() -> tuple[Decimal, CompletedRun]:
        return estimate_cost(settings).cost_usd_worst, complete_prompts(settings)

    worst, run = asyncio.run(cell())
    assert 0 < run.cost_usd <= worst


def test_the_page_is_true(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The code of the Python page runs from top to bottom, on another service, and prints what the page shows."""
    monkeypatch.chdir(jobs.folder)
    shutil.copy(FOLDER / "samples" / "products.parquet", "products.parquet")
    jobs.job_file(jobs.job(["a"]))
    Path("job-1.yaml").rename("job.yaml")
    page = (ROOT / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
    price = {"usd_per_mtok_input": "0.1", "usd_per_mtok_output": "0.5"}
    service = f'"endpoint": {{"base_url": "{jobs.service.url}"}}, "price": {price}, "limits": {{}},'
    jobs.service.configure(output_tokens="fixed:3", faults=[{"kind": "length", "match": "Gift card"}])
    code = [each.text for each in blocks(page) if each.language == "python" and "getpass" not in each.text]
    names: dict[str, Any] = {"__name__": "the_page"}
    for block in code:
        exec(compile(block.replace('"model":', f'{service} "model":'), "python.md", "exec"), names)  # noqa: S102 - our own page
    printed = capsys.readouterr().out
    shown = next(each.text for each in blocks(page) if each.language == "text").splitlines()
    assert printed.startswith("39 ")
    assert " True\n5 " in printed
    assert shown[2].partition(" warning: ")[2] in printed
    names["nightly"]()
    assert "1 of 40 rows are not ok" in capsys.readouterr().out
    assert len(names["frame"]) == 2


# A kernel sets the handler of SIGINT. A process that a script starts in the background would ignore the signal.
SCRIPT = """
import asyncio, signal, sys
import pandas as pd
from parquill.flows import complete_prompts

signal.signal(signal.SIGINT, signal.default_int_handler)

frame = pd.DataFrame({"text": [f"text {n}" for n in range(100)]})

async def cell():
    return complete_prompts(sys.argv[1], input=frame)

loop = asyncio.new_event_loop()  # like that of a notebook, it leaves SIGINT to Python
try:
    run = loop.run_until_complete(cell())
except KeyboardInterrupt:
    print("interrupted")
else:
    print(run.summary["rows"]["ok"], run.summary["requests"]["sent"])
"""


def test_a_stopped_cell_resumes(jobs: Jobs) -> None:
    """SIGINT, a notebook's stop button, is a KeyboardInterrupt of the cell; the same cell again pays nothing twice."""
    settings = jobs.job(None, name="stopped", limits={"max_at_once": 4})
    (jobs.folder / "cell.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(jobs.folder / "cell.py"), str(jobs.job_file(settings))]
    jobs.service.configure(latency_ms=2_000)  # the run cannot end before it is stopped
    with (jobs.folder / "cell.err").open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
    try:
        wait_for_requests(jobs.service, Spawned(process, jobs, settings, jobs.folder / "cell"), 4)
        os.kill(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=180)
    finally:
        process.kill()
    assert out.split() == [b"interrupted"], (jobs.folder / "cell.err").read_text(encoding="utf-8")
    stopped: Any = CompletedRun.load(settings["output"]).summary
    assert (stopped["state"], stopped["exit_code"]) == ("stopped", 130)
    jobs.service.configure(latency_ms=0)
    again = subprocess.run(command, capture_output=True, check=True, timeout=180)
    assert again.stdout.split() == [b"100", b"100"], again.stderr
    stats = jobs.service.stats()
    assert (stats["billed"], stats["billed_twice"]) == (100, [])
