"""Parquill reads the unpacked size of pages from their headers."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts import page_sizes as pages
from parquill.tasks.prompts.page_sizes import NotAPage, mean_row_bytes, read_pages
from parquill.tasks.prompts.source import find_source

TABLE = pa.table(
    {
        "text": [f"text {number} " * 20 for number in range(5_000)],
        "same": ["the same"] * 5_000,
        "number": range(5_000),
        "list": [["item"] * (number % 4) for number in range(5_000)],
    }
)


def _chunks(data: bytes) -> list[tuple[Any, list[pages.Page]]]:
    footer = pq.ParquetFile(io.BytesIO(data)).metadata
    found = []
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
            found.append((column, [*read_pages(io.BytesIO(data), start, start + column.total_compressed_size)]))
    return found


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "brotli"])
@pytest.mark.parametrize("checksum", [False, True])
def test_the_pages_of_a_chunk(version: str, compression: str, *, checksum: bool) -> None:
    """All pages of any kind of chunk are found to its last byte, with all its values and any compression."""
    sink = io.BytesIO()
    options = {"data_page_version": version, "compression": compression, "write_page_checksum": checksum}
    pq.write_table(TABLE, sink, row_group_size=2_000, data_page_size=4_000, **options)
    for column, found in _chunks(sink.getvalue()):
        values = found[1:] if column.has_dictionary_page else found
        assert sum(page.values for page in values) == column.num_values
        assert 0 < sum(page.unpacked for page in found) <= column.total_uncompressed_size


def test_what_is_no_page() -> None:
    """Bytes that are not a page header end the reading with NotAPage."""
    for data in (b"", b"\xff" * 600, b"\x15", b"\x15\x00\x15\x02\x00", bytes(range(256)), b"\x19" * 100):
        with pytest.raises(NotAPage):
            list(read_pages(io.BytesIO(data), 0, 1_000))


def _bomb(path: Path, values: list[str], **options: Any) -> Path:
    pq.write_table(pa.table({"text": ["a"] * len(values), "blob": values}), path, compression="zstd", **options)
    return path


def test_pages_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a page or rows over the limit for unpacking is refused by name and size before it is read."""
    monkeypatch.setattr(pages, "MAX_PAGES_BYTES", 300_000)
    with pytest.raises(BadInput, match=r"in\.parquet has values that take 400,.* bytes when they are unpacked"):
        find_source(str(_bomb(tmp_path / "in.parquet", ["x" * 400_000, "y"], use_dictionary=False)))
    assert find_source(str(_bomb(tmp_path / "in.parquet", ["x" * 200_000] * 9, data_page_size=1))).rows == 9
    monkeypatch.setattr(pages, "MAX_ROW_BYTES", 100_000)
    with pytest.raises(BadInput, match=r"in\.parquet has values that take 200,"):
        find_source(str(_bomb(tmp_path / "in.parquet", ["x" * 200_000] * 9, data_page_size=1)))


LISTS: dict[str, tuple[pa.Array, dict[str, Any]]] = {
    "a run of nulls": (pa.nulls(200_000, pa.int8()), {}),
    "a run of one number": (pa.array([7] * 200_000), {}),
    "a run of truth": (pa.array([True] * 200_000), {}),
    "values that share their beginning": (
        pa.array(["x" * 20_000] * 100),
        {"use_dictionary": False, "column_encoding": {"list.list.element": "DELTA_BYTE_ARRAY"}},
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_takes_nothing_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A row counts by its size in memory, even if its list takes almost nothing in the file.

    Such a list is a run of one value, or holds values that share their beginning.
    """
    items, options = LISTS[name]
    path, length = tmp_path / "in.parquet", len(items)
    lists = pa.ListArray.from_arrays(pa.array([0, length, length], pa.int32()), items)
    pq.write_table(pa.table({"list": lists}), path, compression="zstd", write_statistics=False, **options)
    assert path.stat().st_size < 3_000
    assert find_source(str(path)).rows == 2
    monkeypatch.setattr(pages, "MAX_ROW_BYTES", 400_000)
    with pytest.raises(BadInput, match=r"in\.parquet has values that take .* bytes when they are unpacked"):
        find_source(str(path))


def test_lists_of_the_usual_length_are_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows with a mask of 512 ones are read although the file holds them in few bytes, because no row is large."""
    monkeypatch.setattr(pages, "MAX_ROW_BYTES", 400_000)
    masks = pa.FixedSizeListArray.from_arrays(pa.array([1] * 512 * 2_000), 512)
    pq.write_table(pa.table({"mask": masks.cast(pa.list_(pa.int64()))}), tmp_path / "in.parquet", compression="zstd")
    assert (tmp_path / "in.parquet").stat().st_size < 10_000
    assert find_source(str(tmp_path / "in.parquet")).rows == 2_000


def test_a_footer_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a footer claims less than the page headers, the headers count."""
    monkeypatch.setattr(pages, "MAX_PAGES_BYTES", 300_000)
    path = _bomb(tmp_path / "in.parquet", ["x" * 400_000], use_dictionary=False)
    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size < pages.CLAIMED_BYTES
    with pytest.raises(BadInput, match="decompression bomb"):
        find_source(str(path))


def test_in_a_store_only_what_is_packed_tightly_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquill fetches only those chunks of an object that are packed more tightly than any text."""

    class Counted(io.BytesIO):
        fetched = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.fetched += len(data)
            return data

    monkeypatch.setattr(pages, "CLAIMED_BYTES", 4 << 20)
    monkeypatch.setattr(pages, "MAX_PAGES_BYTES", 5 << 20)
    draw = random.Random(1)
    words = [draw.randbytes(1_000).hex() for _ in range(2_500)]  # they pack to half their size
    for values, is_packed in ((words, False), (["x" * 6_000_000], True)):
        path = _bomb(tmp_path / "in.parquet", values, use_dictionary=False)
        footer, file = pq.ParquetFile(path).metadata, Counted(path.read_bytes())
        assert footer.row_group(0).total_byte_size > pages.CLAIMED_BYTES
        with contextlib.suppress(BadInput) if not is_packed else pytest.raises(BadInput, match="bomb"):
            mean_row_bytes(file, "in.parquet", [footer.row_group(0)], is_remote=True)
        assert (file.fetched > 0) is is_packed
