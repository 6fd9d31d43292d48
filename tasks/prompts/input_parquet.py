"""One Parquet file of the input: reads its footer, and its rows in portions that stay small even for a bomb.

Files are read through `ParquetFile` with a small buffer and not through a Dataset: a row group of 289 MiB takes 63 MiB
with the former and 892 MiB with the latter.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.input_files import InputFile
from parquill.tasks.prompts.int96 import ExactTimes, Inexact, int96_columns
from parquill.tasks.prompts.other_formats import tell_content, tell_format
from parquill.tasks.prompts.page_sizes import MAX_CHUNKS, mean_row_bytes
from parquill.tasks.prompts.unpacked_size import unpacked_bytes
from parquill.tasks.storage.uri import is_uri, redact_uri

BUFFER_BYTES = 1 << 20
BATCH_BYTES = 8 << 20
BATCH_ROWS = 1024
# A value of a dictionary is stored once but may occur in every row, so rows may be far larger than their bytes in the
# file. They are read in portions that fit into memory even with the largest values. Row by row, which is slow, is only
# for files that are packed more tightly than any text.
PORTION_BYTES = 16 << 20
PORTION_ROWS = 16
TIGHTLY_PACKED = 100
# A file that grows by more than this is not a table of prompts but a trap (zstd of text reaches 20).
MAX_EXPANSION = 2_000
EXPANSION_FLOOR_BYTES = 4 << 30
# Smaller files that may grow so much are read once before anything is counted; larger ones are checked during reading.
LOOKED_THROUGH_BYTES = 64 << 20
MAX_GROUPS = 10_000  # the most that are checked in a footer
FOOTERS_AT_ONCE = 16  # from a store


class RowBytes(NamedTuple):
    """Bytes of a row, unpacked: on average by the footer, at most in memory, and on average in the heaviest pages."""

    mean: float
    largest: int
    heaviest: float


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file; `name` is its path below the input, `partitions` its key=value folders, `tag` its store's ETag.

    `footer` is the hash of its footer, which has offsets, sizes and statistics; "" if the store's tag is enough. A text
    file has no footer: there it is the hash of all its bytes.
    """

    path: str
    name: str
    size: int
    mtime_ns: int
    tag: str
    footer: str
    rows: int
    row_bytes: RowBytes
    partitions: tuple[tuple[str, Any], ...]
    columns: tuple[str, ...]
    schema: pa.Schema | None = None  # of a text file, whose types were found by reading it

    @property
    def most_bytes(self) -> int:
        """The most bytes to which the file may grow in memory; a larger one is refused as a bomb."""
        return max(EXPANSION_FLOOR_BYTES, self.size * MAX_EXPANSION)


class _Found(NamedTuple):
    """The result of opening a file."""

    footer: pq.FileMetaData
    schema: pa.Schema
    tag: str
    digest: str
    row_bytes: RowBytes


def read_footers(
    places: Sequence[InputFile], partitions: Iterable[tuple[tuple[str, Any], ...]]
) -> Iterator[tuple[SourceFile, pa.Schema]]:
    """Read the footers of files in order; `partitions` are their key=value folders. Raises BadInput."""
    last: tuple[str, ...] = ()
    for file, keys, found in zip(places, partitions, _footers(places), strict=True):
        about = (file.path, file.name, file.size, file.mtime_ns, found.tag, found.digest)
        names = tuple(found.schema.names)
        last = names if names != last else last  # files of the same columns share them
        yield SourceFile(*about, found.footer.num_rows, found.row_bytes, keys, last), found.schema


def _footers(places: Sequence[InputFile]) -> Iterator[_Found]:
    """Yield the footers in order; several at once from a store, where each takes round trips. Raises BadInput."""
    if not is_uri(places[0].path):
        yield from map(_footer, places)
        return
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        # in portions: a footer may be large, and none is kept
        for first in range(0, len(places), FOOTERS_AT_ONCE):
            yield from threads.map(_footer, places[first : first + FOOTERS_AT_ONCE])


def _footer(input_file: InputFile) -> _Found:
    path, size, shown = input_file.path, input_file.size, redact_uri(input_file.path)
    # promise: input: an empty file of 0 bytes is refused
    if size == 0:
        raise BadInput(f"{shown} is empty (0 bytes)")
    try:
        parquet, tag = _open(path)
        with parquet:
            footer, schema = parquet.metadata, parquet.schema_arrow
        digest = "" if is_uri(path) else _footer_digest(path)
    except PermissionError:
        raise BadInput(f"{shown} cannot be opened: permission denied") from None
    except pa.ArrowInvalid as error:
        other = tell_format(path) or tell_content(path)
        raise BadInput(
            f"{shown} is {other}" if other else f"{shown} is not a readable Parquet file: {_first_line(error)}"
        ) from None
    except (pa.ArrowException, OSError) as error:
        kind = "cannot be read" if is_uri(path) else "is not a readable Parquet file"
        raise BadInput(f"{shown} {kind}: {reason_of(path, error)}") from None
    names = schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    # promise: input: a file with a duplicate column name is refused
    if twice:
        raise BadInput(f"{shown} has the column {twice[0]!r} more than once")
    _check_counts(shown, footer)
    claimed = sum(footer.row_group(i).total_byte_size for i in range(min(footer.num_row_groups, MAX_GROUPS)))
    # promise: input: a decompression bomb is refused by its footer
    if claimed > EXPANSION_FLOOR_BYTES and claimed > size * MAX_EXPANSION:
        raise BadInput(f"{shown} would grow from {size:,} to {claimed:,} bytes: a decompression bomb?")
    try:
        return _Found(footer, schema, tag, digest, _row_bytes(path, footer))
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{shown} cannot be read: {reason_of(path, error)}") from None


def _check_counts(file: str, footer: pq.FileMetaData) -> None:
    """Refuse a footer that contradicts itself, since rows would be lost silently. Raises BadInput."""
    counted = sum(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
    # promise: input: a footer whose row groups contradict its row count is refused
    if counted != footer.num_rows:
        raise BadInput(
            f"{file} says that it has {footer.num_rows:,} rows, but its row groups have {counted:,}: write it again"
        )
    flat = [i for i in range(footer.num_columns) if footer.schema.column(i).max_repetition_level == 0]
    # files with more chunks are checked when the rows are read
    for group in map(footer.row_group, range(min(footer.num_row_groups, MAX_CHUNKS // max(1, len(flat))))):
        odd = next((column for column in map(group.column, flat) if column.num_values != group.num_rows), None)
        # promise: input: a column with a different row count is refused
        if odd is not None:
            raise BadInput(
                f"{file} says that a row group has {group.num_rows:,} rows, but its column {odd.path_in_schema!r} "
                f"has {odd.num_values:,}: write it again"
            )


def _footer_digest(path: str) -> str:
    """Return the hash of a file's footer, which changes even if an edit keeps size and time. Raises OSError."""
    with Path(path).open("rb") as file:
        end = file.seek(-8, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
        file.seek(max(0, end - size))
        return hashlib.sha256(file.read(size + 8)).hexdigest()


def _file_digest(path: str) -> str:
    """Return the hash of all bytes of a file. Raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _row_bytes(path: str, footer: pq.FileMetaData) -> RowBytes:
    """Return the bytes of a row; no value is longer than its column's chunk. Raises BadInput for too large pages."""
    groups = [footer.row_group(i) for i in range(min(footer.num_row_groups, MAX_GROUPS))]
    rows = sum(group.num_rows for group in groups)
    mean = sum(group.total_byte_size for group in groups) / rows if rows else 1.0
    with _stream(path) as file:
        heaviest = mean_row_bytes(file, redact_uri(path), groups, is_remote=is_uri(path))
    return RowBytes(mean, max((group.total_byte_size for group in groups), default=1), max(mean, heaviest))


def _stream(path: str) -> contextlib.AbstractContextManager[Any]:
    if is_uri(path):
        from parquill.tasks.storage.object_store import open_object

        return contextlib.closing(open_object(path))
    return Path(path).open("rb", buffering=0)


def _open(path: str, int96_unit: str = "us") -> tuple[pq.ParquetFile, str]:
    """Open a file, and return the tag of its content if its store has one. INT96 timestamps are read in a unit."""
    if is_uri(path):
        from parquill.tasks.storage.object_store import open_parquet

        return open_parquet(path, int96_unit)
    return pq.ParquetFile(
        path,
        buffer_size=BUFFER_BYTES,
        pre_buffer=False,
        # promise: input: page checksums of input files are verified
        page_checksum_verification=True,
        # promise: input: INT96 timestamps keep their value
        coerce_int96_timestamp_unit=int96_unit,
    ), ""


def reject_bombs(file: SourceFile) -> None:
    """Unpack a small file that may be a decompression bomb, before its tokens are counted. Raises BadInput."""
    if file.size > LOOKED_THROUGH_BYTES or file.rows * file.row_bytes.largest <= file.most_bytes:
        return
    # damage is reported with its row when the rows are read
    with contextlib.suppress(pa.ArrowException, OSError):
        for _ in _small_batches(file, BATCH_ROWS):
            pass
    # its largest page may have taken half a gigabyte; free it
    pa.default_memory_pool().release_unused()


def batches_of(file: SourceFile, columns: Collection[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a file, or some of its columns, in small portions, and join them. Raises BadInput for a bomb."""
    most_rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1.0, file.row_bytes.mean))))
    joined: list[pa.RecordBatch] = []
    rows = held = 0
    for portion in _small_batches(file, BATCH_ROWS if columns is not None else most_rows, columns):
        size = unpacked_bytes(portion)
        if joined and (rows + portion.num_rows > BATCH_ROWS or held + size > BATCH_BYTES):
            yield pa.concat_batches(joined)
            joined, rows, held = [], 0, 0
        joined.append(portion)
        rows, held = rows + portion.num_rows, held + size
    if joined:
        yield pa.concat_batches(joined)


def _small_batches(
    file: SourceFile, most_rows: int, columns: Collection[str] | None = None
) -> Iterator[pa.RecordBatch]:
    fewest = 1 if file.rows * file.row_bytes.mean > file.size * TIGHTLY_PACKED else PORTION_ROWS
    # promise: input: a file that unpacks to large rows is read in small batches
    size = min(most_rows, max(fewest, PORTION_BYTES // max(1, file.row_bytes.largest)))
    size = min(size, max(1, int(PORTION_BYTES / file.row_bytes.heaviest)))
    unpacked = 0
    parquet, tag = _open(file.path)
    with parquet:
        if (parquet.metadata.num_rows, tag) != (file.rows, file.tag):
            raise changed(file)
        times = [name for name in int96_columns(parquet) if columns is None or name in columns]
        with ExactTimes(times, size, lambda unit: _open(file.path, unit)[0]) as exact:
            for portion in parquet.iter_batches(batch_size=size, columns=None if columns is None else list(columns)):
                unpacked += unpacked_bytes(portion)
                # promise: input: a decompression bomb is refused while it is unpacked
                if unpacked > file.most_bytes:
                    raise BadInput(
                        f"{redact_uri(file.path)} grows from {file.size:,} to over {unpacked:,} bytes: "
                        "a decompression bomb?"
                    )
                try:
                    exact.check(portion.num_rows)
                except Inexact as error:
                    raise BadInput(
                        f"{redact_uri(file.path)}: {error.place} has a timestamp in the column {error.column!r} that "
                        "microseconds cannot hold, the unit in which INT96 is read; write it as a 64-bit timestamp"
                    ) from None
                yield portion


def check_unchanged(file: SourceFile) -> None:
    """Refuse a file that has changed since its footer was read: rows would be lost or made up. Raises BadInput.

    An object in a store is compared by its tag when it is opened, since a store replaces objects whole.
    """
    if is_uri(file.path):
        return
    try:
        found = Path(file.path).stat()
        same = (found.st_size, found.st_mtime_ns) == (file.size, file.mtime_ns)
        if file.schema is not None:
            # a text file has no footer, and of its rows only the first may have been read
            # promise: input: a text file is read to its end even if a run needs its first rows only
            same = same and _file_digest(file.path) == file.footer
        else:
            # promise: input: an edit that keeps size and time is detected during reading
            same = same and _footer_digest(file.path) == file.footer
    except OSError:
        raise changed(file) from None
    if not same:
        raise changed(file)


def changed(file: SourceFile | InputFile) -> BadInput:
    """Return the error for a file that has changed since it was first read."""
    return BadInput(f"{redact_uri(file.path)} was changed while it was read; run again when no process writes to it")


def reason_of(path: str, error: Exception) -> str:
    """Say in one line why a file cannot be read."""
    if is_uri(path) and isinstance(error, OSError):
        from parquill.tasks.storage.object_store import reason

        return reason(error)
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")[:200]
