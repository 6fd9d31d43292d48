"""Jobs that are long enough to be cancelled, killed or left alone in their midst, and what must hold of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.tools.jobs import Jobs, read_results


def summary_of(settings: dict[str, Any]) -> dict[str, Any]:
    """What a run says of itself at the moment."""
    found: dict[str, Any] = orjson.loads((Path(settings["output"]) / "summary.json").read_bytes())
    return found


def check_settled(made: Jobs, settings: dict[str, Any], rows: int) -> None:
    """Every row has its answer, and none was paid twice but what was in flight."""
    table = read_results(Path(settings["output"]))
    assert table.column("status").to_pylist() == ["ok"] * rows
    stats = made.service.stats()
    assert stats["billed"] - rows <= settings["limits"]["max_at_once"]


def slow_job(made: Jobs, rows: int, **changes: Any) -> dict[str, Any]:
    """Settings of a job that takes a tenth of a second for eight rows."""
    made.service.configure(latency_ms=100)
    return made.job([f"text {row}" for row in range(rows)], limits={"max_at_once": 8}, **changes)


def nightly(settings: dict[str, Any]) -> dict[str, Any]:
    """The parameters of `summarize-nightly`, one run of which goes at a time, for the input and output of a job."""
    given = {name: settings[name] for name in ("name", "input", "output")}
    return {**given, "settings": {name: settings[name] for name in ("endpoint", "limits")}}
