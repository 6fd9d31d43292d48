"""Reads what runs have written: the latest summary, the rows that are not ok."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parquill.tasks.disk.address import is_uri, shown
from parquill.tasks.disk.files import read_json
from parquill.tasks.errors import BadInput

_SHOWN = ("source_file", "row_number", "status", "error_code", "error_message")


def latest_summary(output: Path) -> dict[str, Any]:
    """The summary of the latest run. Raises BadInput when there is none."""
    found: dict[str, Any] | None = read_json(output / "summary.json")
    if found is None:
        raise BadInput(f"{output} has no summary.json: no run has begun there yet")
    return found


def parts_of(output: Path) -> list[str]:
    """The files of the results that belong together."""
    manifest = read_json(output / ".parquill" / "manifest.json")
    return [str(output / "results" / part["file"]) for part in manifest["parts"]] if manifest else []


def failed_rows(parts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Every row of the results that is not ok: where it is, its status, code and message.

    A part is a file, or an object of a store. Raises BadInput.
    """
    for part in parts:
        try:
            with _open(part) as parquet:
                names = parquet.schema_arrow.names
                # the prefix is whatever stands before the last of Parquill's columns
                prefix = next(n.removesuffix("finished_at") for n in reversed(names) if n.endswith("finished_at"))
                for batch in parquet.iter_batches(columns=[prefix + name for name in _SHOWN]):
                    for row in batch.to_pylist():
                        if row[f"{prefix}status"] != "ok":
                            yield {name: row[prefix + name] for name in _SHOWN}
        except (pa.ArrowException, OSError):
            raise BadInput(f"{shown(part)} cannot be read") from None


def _open(part: str) -> pq.ParquetFile:
    if not is_uri(part):
        return pq.ParquetFile(part)
    from parquill.tasks.disk.store import open_parquet  # the store's libraries take a while

    return open_parquet(part)[0]
