"""A Parquet file that Parquill wrote, read only as it was written.

Page checksums do not cover what stands between the pages: of the single bits of a shard one in thirty could be flipped
in its footer or a page's header and give other values without an error. So the whole file has a checksum, which is kept
elsewhere (in the plan, in the manifest) and compared before anything is read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from parquill.tasks.errors import DiskFailed

READ_BYTES = 1 << 20


class ChecksummedReader:
    """The batches of a file of Parquill's own; a context."""

    def __init__(self, path: Path, crc32: int | None, advice: str = "") -> None:
        """`crc32` is of the whole file, None if it was written before there was one; `advice` ends a refusal.

        Raises DiskFailed when the file is gone, cannot be read, or is not what was written.
        """
        self._path, self._advice = path, advice
        try:
            if crc32 is not None and _checksum(path) != crc32:
                raise DiskFailed(f"{path} was written by Parquill and is damaged{advice}")
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._failure(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._file.schema_arrow

    def batches(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of at most so many rows, with all columns or those named. Raises DiskFailed.

        None is of more than one row group: each was written as one batch that was not too much for the memory.
        """
        names = None if columns is None else list(columns)
        try:
            for group in range(self._file.num_row_groups):
                yield from self._file.iter_batches(rows, row_groups=[group], columns=names)
        except (pa.ArrowException, OSError) as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> DiskFailed:
        if isinstance(error, FileNotFoundError):
            return DiskFailed(f"{self._path} was written by Parquill and is gone{self._advice}")
        # what the library says may hold bytes of a cell
        return DiskFailed(f"{self._path} was written by Parquill and cannot be read{self._advice}")


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            found = zlib.crc32(data, found)
    return found
