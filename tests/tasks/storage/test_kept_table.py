"""DataFrames and Arrow tables that are kept as Parquet files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput, DiskFailed
from parquill.tasks.prompts.source import find_source
from parquill.tasks.storage.disk import Disk
from parquill.tasks.storage.kept_table import FOLDER, MAX_AGE_S, is_kept, keep_table

TABLE = pa.table({"id": range(10_000), "text": [f"text {n}" for n in range(10_000)]})
NOW = 1_800_000_000.0


def test_the_same_rows_are_the_same_file(tmp_path: Path) -> None:
    """A table has one file, whatever its chunks, its metadata and the library that hands it out."""
    paths = {
        keep_table(TABLE, tmp_path, clock=lambda: NOW),
        keep_table(pa.Table.from_batches(TABLE.to_batches(max_chunksize=7)), tmp_path, clock=lambda: NOW + 1),
        keep_table(TABLE.replace_schema_metadata({"note": "private"}), tmp_path),
        keep_table(pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches()), tmp_path),
    }
    (path,) = paths
    assert is_kept(str(path))
    assert not is_kept(str(path.with_name("mine.parquet")))
    assert b"private" not in path.read_bytes()
    assert pq.read_table(path).equals(TABLE)
    assert keep_table(TABLE.slice(1), tmp_path) != path


def test_a_kept_table_is_the_same_input(tmp_path: Path) -> None:
    """A table that is kept again at another time is no changed input, and a damaged file is replaced."""
    path = keep_table(TABLE, tmp_path, clock=lambda: NOW)
    first = find_source(str(path)).fingerprint
    path.write_bytes(b"damaged")
    keep_table(TABLE, tmp_path, clock=lambda: NOW + 60)
    assert find_source(str(path)).fingerprint == first


def test_a_kept_table_belongs_to_its_owner(tmp_path: Path) -> None:
    """A table holds prompts: only its owner can read it or list its folder."""
    path = keep_table(TABLE, tmp_path / "state")
    assert [each.stat().st_mode & 0o777 for each in (path, path.parent, path.parents[1])] == [0o600, 0o700, 0o700]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_an_old_table_is_removed(tmp_path: Path) -> None:
    """A table that no call has used for 30 days is removed, and one that was used since is kept."""
    old = keep_table(TABLE, tmp_path, clock=lambda: NOW)
    used = keep_table(TABLE.slice(1), tmp_path, clock=lambda: NOW)
    keep_table(TABLE.slice(1), tmp_path, clock=lambda: NOW + MAX_AGE_S / 2)
    new = keep_table(TABLE.slice(2), tmp_path, clock=lambda: NOW + MAX_AGE_S + 1)
    assert {path for path in (old, used, new) if path.exists()} == {used, new}


def test_a_named_index_is_a_column(tmp_path: Path) -> None:
    """Named levels of an index come first, in their order; a level without a name is left out. Nulls are nulls."""
    index = pd.MultiIndex.from_arrays([[1, 2], [3, 4], [5, 6]], names=["shop", None, "id"])
    frame = pd.DataFrame({"text": ["a", None], "price": [1.5, float("nan")]}, index=index)
    table = pq.read_table(keep_table(frame, tmp_path))
    assert table.to_pylist() == [
        {"shop": 1, "id": 5, "text": "a", "price": 1.5},
        {"shop": 2, "id": 6, "text": None, "price": None},
    ]
    filtered = frame.reset_index(drop=True)[1:]
    assert pq.read_table(keep_table(filtered, tmp_path)).column_names == ["text", "price"]


@pytest.mark.parametrize(
    "table",
    [
        TABLE.slice(0, 0),
        TABLE.to_batches()[0],
        pa.table({"text": pa.array(["a"], pa.string_view()), "data": pa.array([b"b"], pa.binary_view())}),
        pd.DataFrame({"kind": pd.Categorical(["a", "b", "a"])}),
    ],
    ids=["no rows", "a batch", "views", "categories"],
)
def test_many_kinds_of_tables_are_kept(tmp_path: Path, table: Any) -> None:
    """A table without rows, a batch, texts as views (polars) and categories (pandas) are inputs."""
    source = find_source(str(keep_table(table, tmp_path)))
    assert source.rows == (table.num_rows if hasattr(table, "num_rows") else len(table))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"a": ["private", 1]}), "the column 'a' of the DataFrame holds values of several types"),
        (pd.DataFrame({"a": [object()]}), "the column 'a' of the DataFrame holds values of several types"),
        (pd.DataFrame({1: ["private"]}), "a column named 1, which is not text"),
        (pd.DataFrame({"id": [1]}, index=pd.Index([1], name="id")), "two columns named 'id'"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns named 'a'"),
        (pa.table([["private"], ["b"]], names=["a", "a"]), "two columns named 'a'"),
        (pa.table({"a": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}), "a type that Parquet lacks"),
        (pd.Series(["private"]), "a Series that cannot be read as an Arrow table"),
        (pa.chunked_array([["private"]]), "a ChunkedArray that cannot be read"),
    ],
)
def test_a_table_that_is_no_input_is_refused(tmp_path: Path, table: Any, message: str) -> None:
    """A table that cannot be Parquet is refused with the column's name and without a value, and leaves no file."""
    with pytest.raises(BadInput, match=message) as refused:
        keep_table(table, tmp_path)
    assert "private" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert not list(tmp_path.rglob("*.*"))


class _FullDisk(Disk):
    def write(self, descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:10])
        raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """If the table cannot be written, the error says where, and no part of it stays."""
    with pytest.raises(DiskFailed, match="No space left"):
        keep_table(TABLE, tmp_path, _FullDisk())
    assert list((tmp_path / FOLDER).iterdir()) == []
