"""CSV and JSON lines as input: the first reading checks a file and finds its types, the second yields its rows.

The types are of all files of the input together and never of one block or one file, so a column has one type.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts import json_lines
from parquill.tasks.prompts.csv_kinds import CsvKinds
from parquill.tasks.prompts.csv_text import csv_text
from parquill.tasks.prompts.input_files import InputFile
from parquill.tasks.prompts.input_parquet import (
    BATCH_BYTES,
    BATCH_ROWS,
    RowBytes,
    SourceFile,
    changed,
    reason_of,
)
from parquill.tasks.prompts.json_kinds import Conflict, Kind, Place
from parquill.tasks.prompts.text_names import CSV, kind_of, separator_of
from parquill.tasks.prompts.text_stream import TextStream, open_text
from parquill.tasks.storage.uri import is_uri, redact_uri


@dataclass(slots=True)
class _Seen:
    """The first reading of a file."""

    columns: tuple[str, ...] = ()
    rows: int = 0
    digest: str = ""
    tag: str = ""
    bytes: int = 0


def read_texts(
    places: Sequence[InputFile], partitions: Iterable[tuple[tuple[str, Any], ...]], notes: list[str]
) -> Iterator[tuple[SourceFile, pa.Schema]]:
    """Read text files of one kind, and yield each with its columns. Raises BadInput.

    `notes` gets what a reader of the estimate should know.
    """
    is_csv = places[0].kind == CSV
    whole, kinds = Kind(), CsvKinds()
    seen = [_look(file, kinds if is_csv else whole) for file in places]
    if is_csv:
        types = {name: kinds.of(name) for each in seen for name in each.columns}
    else:
        types = {name: kind.type for name, kind in whole.fields.items()}
        notes += [
            f"{name!r} has whole and fractional numbers, and is read as double: a prompt shows 1 as 1.0; if this is "
            "not intended, write it as text"
            for name in whole.as_double()
        ]
    last = pa.schema([])
    for file, keys, found in zip(places, partitions, seen, strict=True):
        schema = pa.schema([(name, types[name]) for name in found.columns])
        last = schema if schema != last else last  # files of the same columns share it
        about = (file.path, file.name, file.size, file.mtime_ns, found.tag, found.digest)
        mean = found.bytes / max(1, found.rows)
        size = RowBytes(mean, BATCH_BYTES, mean)
        yield SourceFile(*about, found.rows, size, keys, tuple(last.names), last), last


def _look(file: InputFile, kinds: CsvKinds | Kind) -> _Seen:
    """Read a file for the first time."""
    shown, seen = redact_uri(file.path), _Seen()
    if file.size == 0:
        raise BadInput(f"{shown} is empty (0 bytes)")
    try:
        with open_text(file.path) as stream:
            if isinstance(kinds, Kind):
                _look_at_lines(stream, kinds, seen)
            else:
                _look_at_cells(stream, kinds, seen, separator_of(shown))
            seen.digest, size = stream.finish()
            seen.bytes, seen.tag = stream.bytes, stream.tag
    except PermissionError:
        raise BadInput(f"{shown} cannot be opened: permission denied") from None
    except BadInput:
        _check_as_listed(file)  # then this is why
        raise
    except (pa.ArrowException, OSError) as error:
        _check_as_listed(file)
        raise BadInput(f"{shown} cannot be read: {reason_of(file.path, error)}") from None
    # promise: input: a text file that changes during the first reading is refused
    _check_as_listed(file, size)
    return seen


def _look_at_cells(stream: TextStream, kinds: CsvKinds, seen: _Seen, separator: str) -> None:
    text = csv_text(separator)
    names: list[str] = []
    for block in stream.blocks(text.cut, text.explain):
        if not names:
            names, block = text.header(block, stream.shown)  # noqa: PLW2901
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise BadInput(f"{stream.shown} has the column {twice!r} more than once")
            seen.columns = tuple(names)
        if block.data.strip(b"\r\n"):
            # text stays text, so its columns are only counted
            table = text.cells(block, names, kinds.undecided(names) or names[:1], stream.shown)
            kinds.see(table)
            seen.rows += table.num_rows
    if not names:
        raise BadInput(f"{stream.shown} has no header row with the names of the columns")


def _look_at_lines(stream: TextStream, whole: Kind, seen: _Seen) -> None:
    names: dict[str, None] = {}
    for block in stream.blocks(json_lines.cut, json_lines.explain):
        for line, row in json_lines.objects(block, stream.shown):
            try:
                whole.see(row, Place(stream.shown, line), "")
            except Conflict as conflict:
                raise BadInput(f"{stream.shown}, line {line:,}: {conflict}") from None
            names.update(dict.fromkeys(row))
            seen.rows += 1
    seen.columns = tuple(names)


def _check_as_listed(file: InputFile, size: int | None = None) -> None:
    """Refuse a file that has changed since it was listed. Raises BadInput."""
    if is_uri(file.path):
        same = size in {None, file.size}
    else:
        try:
            found = Path(file.path).stat()
            same = (found.st_size, found.st_mtime_ns) == (file.size, file.mtime_ns) and size in {None, file.size}
        except OSError:
            same = False
    if not same:
        raise changed(file)


def batches_of_text(file: SourceFile, columns: Collection[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a text file for the second time, or some of its columns. Raises BadInput if it is another one by now."""
    schema = file.schema or pa.schema([])
    if columns is not None:
        wanted = [field for field in schema if field.name in columns]
        schema = pa.schema(wanted or list(schema)[:1])
    is_csv = kind_of(redact_uri(file.path)) == CSV
    with open_text(file.path) as stream:
        if stream.tag != file.tag:
            raise changed(file)
        try:
            yield from _cells(stream, file, schema) if is_csv else _objects(stream, schema)
        except (BadInput, pa.ArrowInvalid, pa.ArrowTypeError, KeyError):
            raise changed(file) from None  # the first reading found no fault in it
        # promise: input: a text file that changed between its two readings is refused
        if stream.finish() != (file.footer, file.size):
            raise changed(file)


def _cells(stream: TextStream, file: SourceFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    text, names = csv_text(separator_of(redact_uri(file.path))), list(file.columns)
    is_first = True
    for block in stream.blocks(text.cut, text.explain):
        if is_first:
            _, block = text.header(block, stream.shown)  # noqa: PLW2901
            is_first = False
        if block.data.strip(b"\r\n"):
            table = text.cells(block, names, schema.names, stream.shown).cast(schema)
            yield from table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS)


def _objects(stream: TextStream, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    size = 0
    for block in stream.blocks(json_lines.cut, json_lines.explain):
        for _, row in json_lines.objects(block, stream.shown):
            rows.append(row)
            if len(rows) == BATCH_ROWS:
                yield json_lines.to_batch(rows, schema)
                rows, size = [], 0
        size += len(block.data)
        if rows and size > BATCH_BYTES:
            yield json_lines.to_batch(rows, schema)
            rows, size = [], 0
    if rows:
        yield json_lines.to_batch(rows, schema)
