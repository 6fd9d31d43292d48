"""The input: finds its files and columns, and streams its rows batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.input_columns import Columns
from parquill.tasks.prompts.input_files import (
    list_files,
    one_kind,
    partitions_of,
    refuse_output_inside_input,
)
from parquill.tasks.prompts.input_parquet import (
    SourceFile,
    batches_of,
    changed,
    check_unchanged,
    read_footers,
    reason_of,
    reject_bombs,
)
from parquill.tasks.prompts.input_text import batches_of_text, read_texts
from parquill.tasks.prompts.promote import adapt
from parquill.tasks.storage.uri import redact_uri


@dataclass(frozen=True, slots=True)
class Source:
    """The whole input, as it was when its footers, or its text files, were first read.

    `without` names a file for each column that not all files have; `notes` are about files that are left out and
    columns that differ.
    """

    files: tuple[SourceFile, ...]
    schema: pa.Schema
    fingerprint: str
    without: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Input rows, before `for_each`."""
        return sum(file.rows for file in self.files)


def find_source(location: str, output: str | None = None) -> Source:
    """Read the footers of the files of a file, folder, glob or URI, but not their rows; text files are read whole.

    Raises BadInput, which names the file and what is wrong with it.
    """
    places, left_out = list_files(location)
    paths = [place.path for place in places]
    refuse_output_inside_input(location, paths, output)
    stamp = hashlib.sha256()
    files: list[SourceFile] = []
    columns = Columns()
    notes = list(left_out)
    text = one_kind(location, places)
    partitions = partitions_of(paths)
    for file, found in read_texts(places, partitions, notes) if text else read_footers(places, partitions):
        columns.add(file.path, found)
        # An edit may keep size and time, but changes the footer. A store's clock may not distinguish two writes within
        # a second, but its tag does.
        # promise: input: an edit that keeps size and time makes the file a different input
        tagged = f"\0{file.tag or file.footer}"
        stamp.update(f"{file.name}\0{file.size}\0{file.mtime_ns}\0{file.rows}{tagged}\n".encode())
        if not text:
            reject_bombs(file)
        files.append(file)
    if not files:
        raise BadInput(f"no file in {redact_uri(location)}")
    keys = [key for key, _ in files[0].partitions]
    schema = columns.schema(keys)
    for key in keys:
        if key not in schema.names:
            values = [dict(file.partitions)[key] for file in files]
            kind = pa.int64() if any(isinstance(v, int) for v in values) else pa.string()
            schema = schema.append(pa.field(key, kind))
    notes += columns.notes(keys)
    return Source(tuple(files), schema, stamp.hexdigest(), columns.without(keys), tuple(notes))


def read_batches(
    source: Source, limit: int | None = None, columns: Collection[str] | None = None
) -> Iterator[tuple[SourceFile, int, pa.RecordBatch]]:
    """Yield (file, number of its first row, rows) in input order, at most `limit` rows in all.

    With `columns`, only these are read, or one cheap column if rows would have none. A batch has at most BATCH_ROWS
    rows and about BATCH_BYTES. Raises BadInput if a file is damaged, has changed since its footer was read, or
    contradicts its folder.
    """
    left = source.rows if limit is None else limit
    schema = source.schema if columns is None else _needed(source, columns)
    for file in source.files:
        first = 0
        if left <= 0:
            return
        try:
            read = batches_of if file.schema is None else batches_of_text
            batches = read(file, None if columns is None else schema.names)
            for batch in batches:
                taken = _complete(batch.slice(0, left), file, schema)
                yield file, first, taken
                first += taken.num_rows
                left -= taken.num_rows
                if left <= 0:
                    break
            if first == file.rows:
                # promise: input: a text file is compared after its last row is read
                next(batches, None)  # a text file is compared at its end, which may come after its last row
            # promise: input: a file that changes while it is read is refused
            # promise: input: a file with fewer rows than its footer states is refused
            check_unchanged(file)
            if left > 0 and first != file.rows:
                fault = f"it has {first:,} rows, but its footer says {file.rows:,}"
                raise BadInput(f"{redact_uri(file.path)} is damaged: {fault}")
        except (pa.ArrowException, OSError) as error:
            # promise: input: a read error in a file that has changed is reported as a change
            check_unchanged(file)  # then this is why
            raise BadInput(
                f"{redact_uri(file.path)}: row {first} or later cannot be read: {reason_of(file.path, error)}"
            ) from None


def _needed(source: Source, columns: Collection[str]) -> pa.Schema:
    """Return the fields of some columns, and of those that folders also name: their values are compared."""
    keys = {key for file in source.files for key, _ in file.partitions}
    found = [field for field in source.schema if field.name in columns or field.name in keys]
    if keys.issuperset(field.name for field in found):
        # without any column, a file would have no rows
        stored = [field for field in source.schema if field.name not in keys]
        found += sorted(stored, key=lambda field: not pa.types.is_primitive(field.type))[:1]
    return pa.schema(found, source.schema.metadata)


def _complete(batch: pa.RecordBatch, file: SourceFile, schema: pa.Schema) -> pa.RecordBatch:
    keys, names = dict(file.partitions), set(batch.schema.names)
    if not set(schema.names) & set(file.columns) <= names:
        raise changed(file)
    for name in keys.keys() & names:
        _check_agreement(batch.column(name), name, keys[name], file)
    columns = []
    for field_ in schema:
        if field_.name in names:
            columns.append(_adapted(batch.column(field_.name), field_, file))
        elif field_.name in keys:
            columns.append(pa.array([keys[field_.name]] * batch.num_rows).cast(field_.type))
        else:
            columns.append(pa.nulls(batch.num_rows, field_.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _adapted(column: pa.Array, field_: pa.Field, file: SourceFile) -> pa.Array:
    try:
        return adapt(column, field_.type)
    except pa.ArrowInvalid:
        raise BadInput(
            f"{redact_uri(file.path)}: the column {field_.name!r} is {column.type} here but is read as {field_.type} "
            "because of other files, and one of its values does not fit; write the column with one type in all files"
        ) from None


def _check_agreement(column: pa.Array, name: str, value: Any, file: SourceFile) -> None:
    """Refuse a column whose values differ from the key=value folder of its name: it is unclear which one is right."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        return  # a time of day within the date that the folder names
    if column.type in {pa.string_view(), pa.binary_view()}:
        column = column.cast(pa.large_binary())
    try:
        stated = pa.scalar(None if value is None else str(value)).cast(column.type)
        agrees = column.null_count == len(column) if value is None else bool(pc.all(pc.equal(column, stated)).as_py())
        # promise: input: a column with nulls does not match the value of its folder
        agrees = agrees and (value is None or column.null_count == 0)
    except (pa.ArrowException, ValueError):
        agrees = False
    # promise: input: a column that differs from its `key=value` folder is refused
    if not agrees:
        raise BadInput(
            f"{redact_uri(file.path)}: its column {name!r} and its folder {name}=... do not agree; rename one of them"
        )
