"""A Parquet file that Parquill wrote, read only if it is unchanged.

Page checksums do not cover what is between the pages: one in thirty of the bits of a shard, in its footer or in a page
header, could be flipped and give other values without an error. So the whole file has a checksum, which is kept
elsewhere (in the plan or the manifest) and compared before anything is read.
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
    """Reads the batches of one of Parquill's own files; a context manager."""

    def __init__(self, path: Path, crc32: int | None, advice: str = "") -> None:
        """`crc32` is that of the whole file, None for a file of an earlier version; `advice` is added to errors.

        Raises DiskFailed if the file is missing, cannot be read, or differs from what was written.
        """
        self._path, self._advice = path, advice
        try:
            # promise: input: a shard is read only if the checksum of its file matches
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
        """Yield batches of at most `rows` rows, with all columns or those named. Raises DiskFailed.

        A batch never spans row groups: each was written as one batch, which fit into memory.
        """
        names = None if columns is None else list(columns)
        try:
            for group in range(self._file.num_row_groups):
                # promise: input: a batch of a shard never spans two row groups
                yield from self._file.iter_batches(rows, row_groups=[group], columns=names)
        except (pa.ArrowException, OSError) as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> DiskFailed:
        if isinstance(error, FileNotFoundError):
            return DiskFailed(f"{self._path} was written by Parquill and is missing{self._advice}")
        # the library's message may contain bytes of a cell
        return DiskFailed(f"{self._path} was written by Parquill and cannot be read{self._advice}")


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            found = zlib.crc32(data, found)
    return found
