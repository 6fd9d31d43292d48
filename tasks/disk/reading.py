"""Reads what runs have written: the latest summary, the rows that are not ok."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parquill.tasks.disk.files import read_json
from parquill.tasks.disk.own_table import OwnTable
from parquill.tasks.errors import BadInput

READ_ROWS = 10_000
_SHOWN = ("source_file", "row_number", "status", "error_code", "error_message")


def latest_summary(output: Path) -> dict[str, Any]:
    """The summary of the latest run. Raises BadInput when there is none."""
    found: dict[str, Any] | None = read_json(output / "summary.json")
    if found is None:
        raise BadInput(f"{output} has no summary.json: no run has begun there yet")
    return found


def failed_rows(output: Path) -> Iterator[dict[str, Any]]:
    """Every row of the results that is not ok: where it is, its status, code and message. Raises DiskFailed."""
    manifest = read_json(output / ".parquill" / "manifest.json")
    for part in manifest["parts"] if manifest else ():
        with OwnTable(output / "results" / part["file"], part.get("crc32")) as results:
            names = results.schema.names
            # the prefix is whatever stands before the last of Parquill's columns
            prefix = next(name.removesuffix("finished_at") for name in reversed(names) if name.endswith("finished_at"))
            for batch in results.batches(READ_ROWS, [prefix + name for name in _SHOWN]):
                for row in batch.to_pylist():
                    if row[f"{prefix}status"] != "ok":
                        yield {name: row[prefix + name] for name in _SHOWN}
