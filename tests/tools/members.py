"""The processes that joined a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def members(settings: Mapping[str, Any]) -> list[int]:
    """Return the pids of the processes that joined the latest run."""
    runs = sorted((Path(settings["output"]) / ".parquill" / "runs").glob("*"))
    return [int(path.stem.partition("-")[0]) for path in (runs[-1] / "members").glob("*.json")] if runs else []


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
