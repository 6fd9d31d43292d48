"""The input: which Parquet files, with which columns, streamed batch by batch.

Files are read through `ParquetFile` with a small buffer and not through a Dataset: a row group of 289 MiB costs 63 MiB
that way and 892 MiB the other way.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from parquill.tasks.disk.address import is_uri, shown
from parquill.tasks.errors import BadInput
from parquill.tasks.rows.listing import Place, check_apart, list_files, partitions_of

BUFFER_BYTES = 1 << 20
BATCH_BYTES = 8 << 20
BATCH_ROWS = 1024
# A value of a dictionary is written once and may come in every row, so rows may be far larger than their bytes in the
# file say. They are read in portions of which even the largest values would not fill the memory; but row by row, which
# is slow, only from files that are packed as no text is.
PORTION_BYTES = 16 << 20
PORTION_ROWS = 16
TIGHTLY_PACKED = 100
# A file that grows by more than this is not a table of prompts but a trap (zstd of text reaches 20).
MAX_EXPANSION = 2_000
EXPANSION_FLOOR_BYTES = 4 << 30
# Smaller files that may hide so much are read once before anything is counted; of larger ones it is seen on the way.
LOOKED_THROUGH_BYTES = 64 << 20
MOST_GROUPS = 10_000  # of a footer that are looked at
FOOTERS_AT_ONCE = 16  # of a store


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file; `name` is its path below the input, `partitions` its key=value folders, `tag` its store's ETag.

    `row_bytes` is what a row takes in the file, unpacked; `largest_row_bytes` what one may take in memory.
    """

    path: str
    name: str
    size: int
    mtime_ns: int
    tag: str
    rows: int
    row_bytes: float
    largest_row_bytes: int
    partitions: tuple[tuple[str, Any], ...]

    @property
    def most_bytes(self) -> int:
        """What it may grow to in memory, and still be taken for a table of prompts."""
        return max(EXPANSION_FLOOR_BYTES, self.size * MAX_EXPANSION)


@dataclass(frozen=True, slots=True)
class Source:
    """The whole input, as it was when it was looked at."""

    files: tuple[SourceFile, ...]
    schema: pa.Schema
    fingerprint: str

    @property
    def rows(self) -> int:
        """Input rows, before `for_each`."""
        return sum(file.rows for file in self.files)


def find_source(location: str, output: str | None = None) -> Source:
    """Look at the files behind a file, folder, glob or URI without reading their rows.

    Raises BadInput (the file and what is wrong with it named).
    """
    places = list_files(location)
    paths = [place.path for place in places]
    check_apart(location, paths, output)
    stamp = hashlib.sha256()
    partitions = partitions_of(paths)
    files: list[SourceFile] = []
    schema: pa.Schema | None = None
    for place, keys, (footer, found, tag) in zip(places, partitions, _footers(places), strict=True):
        path = place.path
        if schema is None:
            schema = found
        elif not _same(schema, found):
            raise BadInput(
                f"{shown(path)}: its columns differ from those of {shown(files[0].path)}: {_difference(schema, found)}"
            )
        # whether a column may hold nulls is no difference of type, but a column that may in one file may in all
        schema = pa.schema(
            [f.with_nullable(f.nullable or found.field(f.name).nullable) for f in schema], metadata=schema.metadata
        )
        # a store's clock may be too coarse to tell two writes of a second apart: its tag does
        tagged = f"\0{tag}" if tag else ""
        stamp.update(f"{place.name}\0{place.size}\0{place.mtime_ns}\0{footer.num_rows}{tagged}\n".encode())
        sizes = _row_bytes(footer)
        file = SourceFile(path, place.name, place.size, place.mtime_ns, tag, footer.num_rows, *sizes, keys)
        _look_through(file)
        files.append(file)
    if schema is None:
        raise BadInput(f"no Parquet file in {shown(location)}")
    for key, _ in files[0].partitions:
        if key not in schema.names:
            values = [dict(file.partitions)[key] for file in files]
            kind = pa.int64() if any(isinstance(v, int) for v in values) else pa.string()
            schema = schema.append(pa.field(key, kind))
    return Source(tuple(files), schema, stamp.hexdigest())


def read_batches(source: Source, limit: int | None = None) -> Iterator[tuple[SourceFile, int, pa.RecordBatch]]:
    """Yield (file, number of its first row, rows) in input order, at most `limit` rows in all.

    A batch has at most BATCH_ROWS rows and about BATCH_BYTES. Raises BadInput when a file turns out to be damaged,
    is no longer the one that was looked at, or contradicts its folder.
    """
    left = source.rows if limit is None else limit
    for file in source.files:
        first = 0
        if left <= 0:
            return
        try:
            for batch in _batches(file):
                taken = _complete(batch.slice(0, left), file, source.schema)
                yield file, first, taken
                first += taken.num_rows
                left -= taken.num_rows
                if left <= 0:
                    break
            _check_unchanged(file)
        except (pa.ArrowException, OSError) as error:
            _check_unchanged(file)  # then this is why
            raise BadInput(
                f"{shown(file.path)}: row {first} or later cannot be read: {_reason(file.path, error)}"
            ) from None


def _batches(file: SourceFile) -> Iterator[pa.RecordBatch]:
    """Read a file in small portions, and join them. Raises BadInput for a decompression bomb."""
    most_rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1.0, file.row_bytes))))
    joined: list[pa.RecordBatch] = []
    rows = held = 0
    for portion in _portions(file, most_rows):
        if joined and (rows + portion.num_rows > most_rows or held + portion.nbytes > BATCH_BYTES):
            yield pa.concat_batches(joined)
            joined, rows, held = [], 0, 0
        joined.append(portion)
        rows, held = rows + portion.num_rows, held + portion.nbytes
    if joined:
        yield pa.concat_batches(joined)


def _portions(file: SourceFile, most_rows: int) -> Iterator[pa.RecordBatch]:
    fewest = 1 if file.rows * file.row_bytes > file.size * TIGHTLY_PACKED else PORTION_ROWS
    size = min(most_rows, max(fewest, PORTION_BYTES // max(1, file.largest_row_bytes)))
    unpacked = 0
    parquet, tag = _open(file.path)
    with parquet:
        if (parquet.metadata.num_rows, tag) != (file.rows, file.tag):
            raise _changed(file)
        for portion in parquet.iter_batches(batch_size=size):
            unpacked += portion.nbytes
            if unpacked > file.most_bytes:
                raise BadInput(
                    f"{shown(file.path)} grows from {file.size:,} to over {unpacked:,} bytes: a decompression bomb?"
                )
            yield portion


def _check_unchanged(file: SourceFile) -> None:
    """Refuse a file that is another than was looked at: rows counted by the old footer would be lost or made up.

    An object in a store is compared by its tag when it is opened: a store replaces objects whole.
    """
    if is_uri(file.path):
        return
    try:
        found = Path(file.path).stat()
    except OSError:
        raise _changed(file) from None
    if (found.st_size, found.st_mtime_ns) != (file.size, file.mtime_ns):
        raise _changed(file)


def _changed(file: SourceFile) -> BadInput:
    return BadInput(f"{shown(file.path)} was changed while it was read; run again when nobody writes it any more")


def _look_through(file: SourceFile) -> None:
    """Unpack a small file that may be a decompression bomb, before the tokens of what it holds are counted."""
    if file.size > LOOKED_THROUGH_BYTES or file.rows * file.largest_row_bytes <= file.most_bytes:
        return
    # damage is told with its row when the rows are read
    with contextlib.suppress(pa.ArrowException, OSError):
        for _ in _portions(file, BATCH_ROWS):
            pass


def _open(path: str) -> tuple[pq.ParquetFile, str]:
    """Open a file, with a tag of its content if its store has one."""
    if is_uri(path):
        from parquill.tasks.disk.store import open_parquet

        return open_parquet(path)
    return pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True), ""


def _footers(places: Sequence[Place]) -> Iterator[tuple[pq.FileMetaData, pa.Schema, str]]:
    """The footers in order; those of a store several at once, since each is a few round trips. Raises BadInput."""
    if not is_uri(places[0].path):
        yield from map(_footer, places)
        return
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        # by portions: a footer may be large, and none is kept
        for first in range(0, len(places), FOOTERS_AT_ONCE):
            yield from threads.map(_footer, places[first : first + FOOTERS_AT_ONCE])


def _footer(place: Place) -> tuple[pq.FileMetaData, pa.Schema, str]:
    path, size, told = place.path, place.size, shown(place.path)
    if size == 0:
        raise BadInput(f"{told} is empty (0 bytes)")
    try:
        parquet, tag = _open(path)
        with parquet:
            footer, schema = parquet.metadata, parquet.schema_arrow
    except PermissionError:
        raise BadInput(f"{told} cannot be opened: permission denied") from None
    except pa.ArrowInvalid as error:
        raise BadInput(f"{told} is not a readable Parquet file: {_first_line(error)}") from None
    except (pa.ArrowException, OSError) as error:
        kind = "cannot be read" if is_uri(path) else "is not a readable Parquet file"
        raise BadInput(f"{told} {kind}: {_reason(path, error)}") from None
    names = schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"{told} has the column {twice[0]!r} more than once")
    claimed = sum(footer.row_group(i).total_byte_size for i in range(min(footer.num_row_groups, MOST_GROUPS)))
    if claimed > EXPANSION_FLOOR_BYTES and claimed > size * MAX_EXPANSION:
        raise BadInput(f"{told} would grow from {size:,} to {claimed:,} bytes: a decompression bomb?")
    return footer, schema, tag


def _row_bytes(footer: pq.FileMetaData) -> tuple[float, int]:
    """Bytes of a row: on average as written, and at most in memory, as no value is longer than its column's chunk."""
    groups = [footer.row_group(i) for i in range(min(footer.num_row_groups, MOST_GROUPS))]
    rows = sum(group.num_rows for group in groups)
    average = sum(group.total_byte_size for group in groups) / rows if rows else 1.0
    return average, max((group.total_byte_size for group in groups), default=1)


def _reason(path: str, error: Exception) -> str:
    if is_uri(path) and isinstance(error, OSError):
        from parquill.tasks.disk.store import reason

        return reason(error)
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")[:200]


def _same(first: pa.Schema, other: pa.Schema) -> bool:
    return len(first) == len(other) and all(
        field.name in other.names and other.field(field.name).type == field.type for field in first
    )


def _difference(first: pa.Schema, other: pa.Schema) -> str:
    for field in first:
        if field.name not in other.names:
            return f"{field.name!r} is missing"
        if other.field(field.name).type != field.type:
            return f"{field.name!r} is {other.field(field.name).type} instead of {field.type}"
    return f"{next(name for name in other.names if name not in first.names)!r} is new"


def _complete(batch: pa.RecordBatch, file: SourceFile, schema: pa.Schema) -> pa.RecordBatch:
    keys = dict(file.partitions)
    if not set(schema.names) <= {*batch.schema.names, *keys}:
        raise _changed(file)
    for name in keys.keys() & set(batch.schema.names):
        _check_agreement(batch.column(name), name, keys[name], file)
    columns = [
        batch.column(field.name)
        if field.name in batch.schema.names
        else pa.array([keys[field.name]] * batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _check_agreement(column: pa.Array, name: str, value: Any, file: SourceFile) -> None:
    """Refuse a column that says something else than the key=value folder of its name: nobody knows which is meant."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        return  # a moment of the day that the folder names
    if column.type in {pa.string_view(), pa.binary_view()}:
        column = column.cast(pa.large_binary())
    try:
        told = pa.scalar(None if value is None else str(value)).cast(column.type)
        agrees = column.null_count == len(column) if value is None else bool(pc.all(pc.equal(column, told)).as_py())
        agrees = agrees and (value is None or column.null_count == 0)
    except (pa.ArrowException, ValueError):
        agrees = False
    if not agrees:
        raise BadInput(
            f"{shown(file.path)}: its column {name!r} and its folder {name}=... do not agree; rename one of them"
        )
