"""Read what runs have written: the latest summary, the rows that are not ok."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from parquill.tasks.errors import BadInput
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.parquet_reader import ChecksummedReader
from parquill.tasks.storage.uri import is_uri, redact_uri

READ_ROWS = 10_000
_SHOWN = ("source_file", "row_number", "status", "error_code", "error_message")
_LAST = "finished_at"


def latest_summary(output: Path) -> dict[str, Any]:
    """Return the summary of the latest run. Raises BadInput if there is none."""
    found: dict[str, Any] | None = read_json(output / "summary.json")
    if found is None:
        raise BadInput(f"{output} has no summary.json: no run has begun there yet")
    return found


def parts_of(output: Path) -> list[tuple[str, int | None]]:
    """Return the current files of the results, each with the checksum of the whole file, None if unknown."""
    manifest = read_json(output / ".parquill" / "manifest.json")
    parts = manifest["parts"] if manifest else []
    return [(str(output / "results" / part["file"]), part.get("crc32")) for part in parts]


def failed_rows(parts: Iterable[tuple[str, int | None]]) -> Iterator[dict[str, Any]]:
    """Yield every row of the results that is not ok: its file and row number, its status, code and message.

    A part is a file or an object in a store, and its checksum. Raises BadInput, DiskFailed.
    """
    for part, crc32 in parts:
        for batch in _stored(part) if is_uri(part) else _kept(Path(part), crc32):
            prefix = prefix_of(batch.schema.names)
            for row in batch.to_pylist():
                if row[f"{prefix}status"] != "ok":
                    yield {name: row[prefix + name] for name in _SHOWN}


def _kept(path: Path, crc32: int | None) -> Iterator[pa.RecordBatch]:
    with ChecksummedReader(path, crc32) as results:
        yield from results.batches(READ_ROWS, _shown_columns(results.schema.names))


def _stored(uri: str) -> Iterator[pa.RecordBatch]:
    from parquill.tasks.storage.object_store import open_parquet  # the store's libraries take a while

    try:
        with open_parquet(uri)[0] as results:
            yield from results.iter_batches(READ_ROWS, columns=_shown_columns(results.schema_arrow.names))
    except (pa.ArrowException, OSError):
        raise BadInput(f"{redact_uri(uri)} cannot be read") from None


def _shown_columns(names: list[str]) -> list[str]:
    return [prefix_of(names) + name for name in (*_SHOWN, _LAST)]


def prefix_of(names: list[str]) -> str:
    """The `column_prefix` of results, read from the name of the last of Parquill's columns."""
    return next(name.removesuffix(_LAST) for name in reversed(names) if name.endswith(_LAST))
