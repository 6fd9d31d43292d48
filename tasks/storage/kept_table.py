"""Keeps a DataFrame or an Arrow table as a Parquet file, so that a run can read it like any input.

The file is named after its content: the same table is the same input, so a run over it resumes, and its answers are
reused. Another version of pyarrow may write other bytes for it. Then the input counts as changed, but an answer is
still found by its request, and nothing is paid twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from parquill.tasks.errors import BadInput, DiskFailed
from parquill.tasks.storage.disk import DISK, TEMPORARY, Disk, private_folder
from parquill.tasks.storage.parquet_writer import ChecksummedWriter

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "tables"  # in a state folder
MAX_AGE_S = 30 * 86_400.0  # since a table was last used; it holds prompts, and a later call writes it again
ROWS = 4096  # of a row group, whatever the chunks of the table: the same rows are the same bytes
# An input is the same only with the same time of modification. So this one is fixed, and the time of access says when
# the table was last used.
MODIFIED_NS = 1_000_000_000 * 10**9
_NAME = re.compile(r"[0-9a-f]{64}\.parquet")


class ArrowStream(Protocol):
    """A table of any library that speaks Arrow's PyCapsule interface: pyarrow, polars, DuckDB, pandas."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a capsule with the table's batches."""


if TYPE_CHECKING:
    Table = pd.DataFrame | ArrowStream


def is_table(value: object) -> bool:
    """Whether a value is a DataFrame or an Arrow table."""
    return hasattr(value, "__arrow_c_stream__")


def is_kept(path: str) -> bool:
    """Whether a path is that of a kept table."""
    parts = Path(path).parts
    return len(parts) > 1 and parts[-2] == FOLDER and _NAME.fullmatch(parts[-1]) is not None


def keep_table(table: Table, state: Path, disk: Disk = DISK, clock: Callable[[], float] = time.time) -> Path:
    """Write a table into a state folder (0600), and return the path of its file.

    Named levels of a DataFrame's index become its first columns; an index without a name is left out. Tables that
    were not used for 30 days are removed. Raises BadInput if the table cannot be a Parquet file; DiskFailed.
    """
    reader = _open(table)
    folder = state / FOLDER
    private_folder(state, disk)
    private_folder(folder, disk)
    temporary = folder / f".{secrets.token_hex(8)}{TEMPORARY}"
    try:
        _write(reader, temporary, disk)
        with temporary.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        # promise: api: the same table is the same input
        path = folder / f"{digest}.parquet"
        # promise: api: a table that is kept again has the time of its first writing
        os.utime(temporary, ns=(int(clock() * 10**9), MODIFIED_NS))
        disk.rename(temporary, path)  # also if it is there, which replaces a damaged file
        disk.sync_folder(folder)
    except OSError as error:
        raise DiskFailed(f"cannot write into {folder}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    _remove_unused(folder, clock())
    return path


def _remove_unused(folder: Path, now: float) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            # promise: api: tables that were not used for a month are removed
            if now - path.stat().st_atime > MAX_AGE_S:
                path.unlink()


def _write(reader: pa.RecordBatchReader, path: Path, disk: Disk) -> None:
    # promise: api: metadata of a table, which may hold anything, is not written
    schema = pa.schema([(field.name, _plain(field.type)) for field in reader.schema])
    try:
        # promise: S3 only its owner can read a kept table
        writer = ChecksummedWriter(path, schema, 0o600, disk)
        try:
            for rows in _groups(reader):
                writer.write(rows.cast(schema))
            writer.close()
        finally:
            writer.abandon()
    except pa.ArrowException:
        # the message of pyarrow may show values
        raise BadInput("the input cannot be written as Parquet: a column has a type that Parquet lacks") from None


def _groups(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Yield the rows in tables of ROWS rows; the last may be shorter."""
    rest = reader.schema.empty_table()
    for batch in reader:
        rest = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        while rest.num_rows >= ROWS:
            yield rest.slice(0, ROWS).combine_chunks()
            rest = rest.slice(ROWS)
    if rest.num_rows:
        yield rest.combine_chunks()


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type without views, in which polars hands out texts."""
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return views.get(kind, kind)


def _open(table: Any) -> pa.RecordBatchReader:
    pandas = sys.modules.get("pandas")  # a DataFrame exists only if pandas is imported
    if pandas is not None and isinstance(table, pandas.DataFrame):
        return _from_pandas(table).to_reader()
    try:
        reader = pa.RecordBatchReader.from_stream(table)
        _check_names(reader.schema.names)
    except (pa.ArrowException, TypeError):
        raise BadInput(f"the input is a {type(table).__name__} that cannot be read as an Arrow table") from None
    return reader


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    levels = [name for name in frame.index.names if name is not None]
    columns = [*levels, *frame.columns]
    _check_names(columns)
    table = {}
    for name in columns:
        values: Any = frame.index.get_level_values(name) if name in levels else frame[name]
        try:
            table[name] = pa.array(values, from_pandas=True)
        # promise: api: an error about a table shows no value of it
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            why = "holds values of several types, or of a type that Parquet lacks"
            raise BadInput(f"the column {name!r} of the DataFrame {why}") from None
    return pa.table(table)


def _check_names(names: list[Any]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise BadInput(f"the input has a column named {name!r}, which is not text; rename it")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"the input has two columns named {twice[0]!r}, of which one may be its index; rename one")
