"""Reads the previous results row by row, for `--redo` and for a `--limit` below their number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from parquill.tasks.errors import DiskFailed, OtherRows
from parquill.tasks.job.answer_type import parsed_type
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.storage.columns import result_fields
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.parquet_reader import ChecksummedReader


class PreviousResults:
    """Reads the latest results: the columns from the input, and the output's own."""

    def __init__(self, folders: Folders, job: ResolvedJob, given: Sequence[str]) -> None:
        """`given` are the columns of the input and of `for_each`.

        Raises OtherRows if there are no results, or none with these columns.
        """
        manifest = read_json(folders.meta / "manifest.json")
        if manifest is None:
            raise OtherRows(f"--redo needs finished results, but {folders.output} has none; run without --redo first")
        # manifests of earlier versions have no checksum
        results = folders.output / "results"
        self._files = [(results / part["file"], part.get("crc32")) for part in manifest["parts"]]
        kind = parsed_type(job.response_format)
        self._fields = [f.with_name(job.column_prefix + f.name) for f in result_fields(kind)]
        self.own = [field.name for field in self._fields]
        self._given = list(given)
        self._batches = self._read()
        self._rest: list[pa.RecordBatch] = []

    def _read(self) -> Iterator[pa.RecordBatch]:
        names = [*self.own, *self._given]
        for path, crc32 in self._files:
            try:
                # promise: input: earlier results are read only if the checksum of their file matches
                with ChecksummedReader(path, crc32) as part:
                    self._check(part.schema)
                    yield from (batch.select(names) for batch in part.batches(1024, names))
            except DiskFailed as error:
                raise OtherRows(
                    f"--redo needs the results of the previous run, but {error}; run without --redo, which writes "
                    "them again and pays for no answer twice"
                ) from None

    def _check(self, found: pa.Schema) -> None:
        for field in self._fields:
            if field.name not in found.names or found.field(field.name).type != field.type:
                raise OtherRows(
                    f"--redo: the results have no column {field.name!r} of type {field.type}; the settings have "
                    "changed; run without --redo"
                )
        for name in self._given:
            if name not in found.names:
                raise OtherRows(
                    f"the input is not the one of the results, which have no column {name!r}, so --redo cannot match "
                    "the rows; run without --redo first, which pays for no answer again"
                )

    def take(self, rows: int) -> pa.Table:
        """Return the next rows of the results; fewer at the end."""
        taken: list[pa.RecordBatch] = []
        while rows:
            batch = self._rest.pop() if self._rest else next(self._batches, None)
            if batch is None:
                break
            if batch.num_rows > rows:
                self._rest.append(batch.slice(rows))
                batch = batch.slice(0, rows)
            rows -= batch.num_rows
            taken.append(batch)
        if not taken:
            return pa.schema(self._fields).empty_table()
        schema = pa.schema([*self._fields, *(taken[0].schema.field(name) for name in self._given)])
        return pa.Table.from_batches([pa.RecordBatch.from_arrays(b.columns, schema=schema) for b in taken], schema)
