"""Code of a user, which `make check` checks: the public names are typed, and wrong uses of them are found.

mypy also fails if an error that is expected here no longer occurs (`warn_unused_ignores`).
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import assert_type

import pandas as pd

import parquill
from parquill.flows import CompletedRun, CostEstimate, complete_prompts, estimate_cost, summarize, translate


def right(frame: pd.DataFrame, job: dict[str, object]) -> None:
    """Use what is documented."""
    assert_type(parquill.__version__, str)
    assert_type(estimate_cost(job, input=frame, pilot="auto"), CostEstimate)
    assert_type(estimate_cost(Path("job.yaml")).cost_usd_worst, Decimal)
    run = complete_prompts("job.yaml", input=frame, settings={"budget.run_usd": 5}, redo=["failed"])
    assert_type(run, CompletedRun)
    assert_type(run.summary["rows"]["ok"], int)
    assert_type(run.summary["exit_code"], int | None)
    assert_type(run.cost_usd, Decimal)
    assert_type(run.to_pandas(["id", "completion"]), pd.DataFrame)
    assert_type(translate(frame, "out", ["fr"], run_usd=Decimal(1)), CompletedRun)
    assert_type(summarize("in.parquet", "out"), CompletedRun)


def wrong(frame: pd.DataFrame) -> None:
    """Use what does not exist."""
    complete_prompts("job.yaml", inptu=frame)  # type: ignore[call-arg]
    complete_prompts(3)  # type: ignore[arg-type]
    complete_prompts("job.yaml", redo=["bad"])  # type: ignore[list-item]
    translate(frame, "out")  # type: ignore[call-arg]
    run = complete_prompts("job.yaml")
    run.run_id = "x"  # type: ignore[misc]
    run.summary["rows"]["okay"]  # type: ignore[typeddict-item]
    run["rows"]  # type: ignore[index]
