"""Reads from page headers alone how large the pages of a Parquet file become when they are unpacked.

A footer has the size of a column's chunk, but not of its pages, and a page is unpacked whole, however few of its rows
are wanted. Each page begins with a small header (Thrift's compact protocol, `parquet.thrift`); the pages themselves are
skipped.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from pyarrow.parquet import ColumnChunkMetaData, RowGroupMetaData

from parquill.tasks.errors import BadInput

# For all columns together: one page of each is in memory at once. Older writers put whole row groups into a page.
MAX_PAGES_BYTES = 448 << 20
# A row is copied several times on its way into the results.
MAX_ROW_BYTES = 64 << 20
# Headers are read if a footer claims more, or if there are so few chunks that the footer need not be trusted.
CLAIMED_BYTES = 64 << 20
MAX_CHUNKS = 10_000
# In a store each header would be a round trip, so only tightly packed chunks are checked, and read whole.
REMOTE_PACKED = 20
MAX_REMOTE_BYTES = 64 << 20
HEADER_BYTES = 512
MAX_HEADER_BYTES = 1 << 24  # statistics in a header may hold two values
TIGHTLY_PACKED = 20  # more tightly than any text
LEVELS_BYTES, MIN_WIDTH = 4, 4
_WIDTHS = {"INT64": 8, "DOUBLE": 8, "INT96": 8, "BOOLEAN": 1}
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
_UNPACKED, _PACKED, _VALUES = (2,), (3,), ((5, 1), (7, 1), (8, 1))  # fields of a PageHeader, and of what is in it


class File(Protocol):
    """A seekable file."""

    def seek(self, offset: int, /) -> Any:
        """Move to a byte offset."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""


class NotAPage(ValueError):
    """The bytes where a page should begin are no page header."""


class Page(NamedTuple):
    """One page: its bytes unpacked and as stored, and its number of values."""

    unpacked: int
    packed: int
    values: int


def mean_row_bytes(file: File, name: str, groups: Sequence[RowGroupMetaData], *, is_remote: bool = False) -> float:
    """Return the most bytes that a row takes unpacked, on average over a page; 0 if no headers were read.

    `name` is that of the file. Raises BadInput for pages that are too large to unpack.
    """
    heaviest = 0.0
    few = sum(group.num_columns for group in groups) <= MAX_CHUNKS
    for group in groups:
        columns = [group.column(i) for i in range(group.num_columns)]
        packed = sum(column.total_compressed_size for column in columns)
        # promise: input: page headers in a store are fetched only for tightly packed columns
        suspicious = max(CLAIMED_BYTES, packed * REMOTE_PACKED) if is_remote else CLAIMED_BYTES
        if group.total_byte_size <= suspicious and (is_remote or not few):
            continue
        pages_bytes, row_bytes = 0, 0.0
        for column in columns:
            unpacked, mean = _heaviest(file, column, is_remote=is_remote)
            pages_bytes += unpacked
            # a row of a list has many values
            items = column.num_values / max(1, group.num_rows)
            # promise: input: the row size estimate counts the repeated values of a list
            row_bytes += mean if items <= 1 else items * max(mean, _width(column))
        # promise: input: a file with pages too large to unpack is refused
        # promise: input: a file with rows too large to copy is refused
        if pages_bytes > MAX_PAGES_BYTES or row_bytes > MAX_ROW_BYTES:
            most = max(pages_bytes, int(row_bytes))
            raise BadInput(
                f"{name} has values that take {most:,} bytes when they are unpacked: a decompression bomb? (If not, "
                "write it with smaller pages, or leave the column out.)"
            )
        heaviest = max(heaviest, row_bytes)
    return heaviest


def _width(column: ColumnChunkMetaData) -> int:
    """Return the bytes of a list value in memory, with its levels; in a file, runs of one value or null take none."""
    return LEVELS_BYTES + _WIDTHS.get(column.physical_type, MIN_WIDTH)


def _heaviest(file: File, column: ColumnChunkMetaData, *, is_remote: bool) -> tuple[int, float]:
    """Return the largest page of a chunk, and the most bytes that a value takes on average over a page."""
    start = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        start = min(start, column.dictionary_page_offset)
    end = start + column.total_compressed_size
    largest, mean = 0, 0.0
    # promise: input: the row size estimate counts shared prefixes in full
    is_shared = "DELTA_BYTE_ARRAY" in column.encodings
    if is_remote and end - start > MAX_REMOTE_BYTES:
        return largest, mean
    try:
        if is_remote:
            file.seek(start)
            file, start, end = io.BytesIO(file.read(end - start)), 0, end - start
        for page in read_pages(file, start, end):
            # a value is stored without the beginning that it shares with the one before: it may be as long as the page
            shares = is_shared and page.unpacked > page.packed * TIGHTLY_PACKED
            value = page.unpacked if shares else page.unpacked / max(1, page.values)
            largest, mean = max(largest, page.unpacked), max(mean, value)
    except (OSError, ValueError):  # also NotAPage: damage is reported with its row when the rows are read
        pass
    return largest, mean


def read_pages(file: File, start: int, end: int) -> Iterator[Page]:
    """Yield the pages of a chunk between two offsets. Raises NotAPage, OSError."""
    at = start
    while at < end:
        fields, size = _header(file, at, min(end - at, MAX_HEADER_BYTES))
        packed, unpacked = fields.get(_PACKED, -1), fields.get(_UNPACKED, -1)
        if packed < 0 or unpacked < 0:
            raise NotAPage
        yield Page(unpacked, packed, next((fields[name] for name in _VALUES if name in fields), 1))
        at += size + packed


def _header(file: File, at: int, most: int) -> tuple[dict[tuple[int, ...], int], int]:
    """Return the whole numbers of a page's header by their fields, and its size in bytes."""
    size = min(most, HEADER_BYTES)
    while True:
        file.seek(at)
        data = file.read(size)
        found: dict[tuple[int, ...], int] = {}
        try:
            return found, _read_struct(data, 0, (), found)
        except IndexError:
            if size >= most or len(data) < size:
                raise NotAPage from None
            size = min(most, size * 16)


def _read_struct(data: bytes, at: int, path: tuple[int, ...], found: dict[tuple[int, ...], int]) -> int:
    """Collect the whole numbers of a struct. Returns where it ends. Raises IndexError if the data ends before."""
    if len(path) > 8:
        raise NotAPage
    field = 0
    while (byte := data[at]) != _STOP:
        at += 1
        kind, delta = byte & 15, byte >> 4
        if delta:
            field += delta
        else:
            raw, at = _varint(data, at)
            field = _unzigzag(raw)
        if kind in {_I16, _I32, _I64}:
            raw, at = _varint(data, at)
            found[*path, field] = _unzigzag(raw)
        elif kind == _STRUCT:
            at = _read_struct(data, at, (*path, field), found)
        elif kind == _BINARY:
            size, at = _varint(data, at)
            at += size
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:  # no header has a list, a set or a map
            raise NotAPage
    return at + 1


_FIXED = {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise NotAPage


def _unzigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)
