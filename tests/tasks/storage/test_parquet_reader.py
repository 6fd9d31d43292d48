"""Parquill reads its own files in batches of a size that was in memory before."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from parquill.tasks.storage.parquet_reader import ChecksummedReader
from parquill.tasks.storage.parquet_writer import ChecksummedWriter


@pytest.mark.parametrize("columns", [None, ["number"], ["blob"]])
def test_no_batch_is_of_two_row_groups(tmp_path: Path, columns: list[str] | None) -> None:
    """Each written batch is read as one or several, never joined with another one.

    A value that the file holds once may be in every row, so that a joined batch may not fit into memory.
    """
    path, sizes = tmp_path / "own.parquet", [3, 1, 0, 5]
    schema = pa.schema([("number", pa.int64()), ("blob", pa.string())])
    file = ChecksummedWriter(path, schema, 0o600)
    for size in sizes:
        file.write(pa.record_batch([[*range(size)], ["x" * 900] * size], schema=schema))
    file.close()
    with ChecksummedReader(path, file.crc32) as table:
        assert [batch.num_rows for batch in table.batches(4, columns)] == [3, 1, 4, 1]
    with ChecksummedReader(path, file.crc32) as table:
        found = list(table.batches(100, columns))
        assert [batch.num_rows for batch in found] == [3, 1, 5]
        assert {name for batch in found for name in batch.schema.names} == {*(columns or schema.names)}
