"""Read what runs have written: the latest summary, the rows that are not ok."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from parquill.tasks.errors import BadInput
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.parquet_reader import ChecksummedReader
from parquill.tasks.storage.uri import is_uri, redact_uri

READ_ROWS = 10_000
# Files of results, or objects in a store, each with the checksum of the whole file; None if it is unknown.
Parts = Iterable[tuple[str, int | None]]
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


@dataclass(frozen=True, slots=True)
class WrittenRun:
    """The run whose results are there: its summary, and what the manifest keeps for its report, if anything.

    It is not the latest run if that one is under way or was cut off before it wrote results.
    """

    summary: dict[str, Any]
    report: dict[str, Any] | None


def written_run(read: Callable[[str], dict[str, Any] | None], where: str) -> WrittenRun:
    """Find the run whose results are there; `read` reads a JSON file of the output. Raises BadInput if none is."""
    manifest, summary = read(".parquill/manifest.json"), read("summary.json")
    run_id = None if manifest is None else manifest["run_id"]
    if summary is None or summary["run_id"] != run_id or summary["state"] == "running":
        summary = read(f"history/{run_id}.json")
    if manifest is None or summary is None:
        raise BadInput(f"{where} has no results of a run that has ended")
    return WrittenRun(summary, manifest.get("report"))


def failed_rows(parts: Parts) -> Iterator[dict[str, Any]]:
    """Yield every row of the results that is not ok: its file and row number, its status, code and message.

    Raises BadInput, DiskFailed.
    """
    for batch in result_batches(parts, _SHOWN):
        prefix = prefix_of(batch.schema.names)
        for row in batch.to_pylist():
            if row[f"{prefix}status"] != "ok":
                yield {name: row[prefix + name] for name in _SHOWN}


def result_batches(parts: Parts, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the results in order: all columns, or those of Parquill's that are named (without `column_prefix`).

    Raises BadInput, DiskFailed.
    """
    yield from _batches(parts, lambda names: _with_prefix(names, columns))


def result_table(parts: Parts, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the results in order: all columns, or those named, which may be of the input.

    Raises BadInput if a column does not exist or if there are no results; DiskFailed.
    """

    def choose(names: list[str]) -> list[str] | None:
        missing = [name for name in columns or () if name not in names]
        if missing:
            raise BadInput(f"the results have no column {missing[0]!r}; they have {', '.join(names)}")
        return None if columns is None else list(columns)

    batches = list(_batches(parts, choose))
    if not batches:
        raise BadInput("there are no results yet")
    table = pa.Table.from_batches(batches)
    return table if columns is None else table.select(list(columns))  # in the order in which they are named


def _batches(parts: Parts, choose: Callable[[list[str]], list[str] | None]) -> Iterator[pa.RecordBatch]:
    for part, crc32 in parts:
        yield from _stored(part, choose) if is_uri(part) else _kept(Path(part), crc32, choose)


def _kept(path: Path, crc32: int | None, choose: Callable[[list[str]], list[str] | None]) -> Iterator[pa.RecordBatch]:
    with ChecksummedReader(path, crc32) as results:
        names = choose(results.schema.names)
        yield from _or_empty(results.batches(READ_ROWS, names), results.schema, names)


def _stored(uri: str, choose: Callable[[list[str]], list[str] | None]) -> Iterator[pa.RecordBatch]:
    from parquill.tasks.storage.object_store import open_parquet  # the store's libraries take a while

    try:
        with open_parquet(uri)[0] as results:
            names = choose(results.schema_arrow.names)
            yield from _or_empty(results.iter_batches(READ_ROWS, columns=names), results.schema_arrow, names)
    except (pa.ArrowException, OSError):
        raise BadInput(f"{redact_uri(uri)} cannot be read") from None


def _or_empty(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, names: list[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yield the batches; for a file without rows one that has the same columns."""
    batch = None
    for batch in batches:
        yield batch
    if batch is None:
        columns = schema if names is None else [schema.field(name) for name in schema.names if name in names]
        yield pa.RecordBatch.from_pylist([], schema=pa.schema(columns))


def _with_prefix(names: list[str], columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else [prefix_of(names) + name for name in (*columns, _LAST)]


def prefix_of(names: list[str]) -> str:
    """The `column_prefix` of results, read from the name of the last of Parquill's columns."""
    return next(name.removesuffix(_LAST) for name in reversed(names) if name.endswith(_LAST))
