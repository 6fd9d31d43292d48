"""Jobs that are long enough to be cancelled, killed or interrupted on the way, and checks of their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.tools.jobs import Jobs, read_results


def summary_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the current summary of a run."""
    found: dict[str, Any] = orjson.loads((Path(settings["output"]) / "summary.json").read_bytes())
    return found


def check_settled(made: Jobs, settings: dict[str, Any], rows: int) -> None:
    """Check that every row has its answer, and that only requests in flight were paid twice."""
    table = read_results(Path(settings["output"]))
    assert table.column("status").to_pylist() == ["ok"] * rows
    stats = made.service.stats()
    assert stats["billed"] - rows <= settings["limits"]["max_at_once"]


def slow_job(made: Jobs, rows: int, **changes: Any) -> dict[str, Any]:
    """Return settings of a job that takes a tenth of a second for eight rows."""
    made.service.configure(latency_ms=100)
    return made.job([f"text {row}" for row in range(rows)], limits={"max_at_once": 8}, **changes)


def nightly(settings: dict[str, Any]) -> dict[str, Any]:
    """Return parameters of `summarize-nightly`, which runs one at a time, for the input and output of a job."""
    given = {name: settings[name] for name in ("name", "input", "output")}
    return {**given, "settings": {name: settings[name] for name in ("endpoint", "limits")}}
