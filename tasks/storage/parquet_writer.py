"""A Parquet file that is written through `Disk` and survives a crash once it is closed."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parquill.tasks.errors import DiskFailed
from parquill.tasks.storage.disk import DISK, Disk

WRITE_BYTES = 1 << 20


class ChecksummedWriter:
    """Writes one Parquet file with page checksums and zstd. Its name survives a crash after its folder is synced."""

    def __init__(self, path: Path, schema: pa.Schema, mode: int, disk: Disk = DISK) -> None:
        """Raises DiskFailed."""
        self.path, self._disk = path, disk
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        except OSError as error:
            raise self._failure(error) from None
        try:
            self._sink = _Sink(self._descriptor, disk)
            self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", write_page_checksum=True)
        except BaseException as error:
            os.close(self._descriptor)
            if isinstance(error, OSError):
                raise self._failure(error) from None
            raise

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows. Raises DiskFailed."""
        try:
            self._writer.write(rows)
        except OSError as error:
            raise self._failure(error) from None

    def close(self) -> int:
        """Finish and sync the file; returns its size in bytes. Raises DiskFailed."""
        try:
            self._writer.close()
            self._sink.flush_buffer()
            # promise: C1 shard files are synced before the plan is written
            self._disk.sync(self._descriptor)
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise self._failure(error) from None
        finally:
            self.abandon()

    @property
    def crc32(self) -> int:
        """The checksum of the whole file, which later readers compare."""
        return self._sink.crc32

    def abandon(self) -> None:
        """Release the file, finished or not."""
        if self._descriptor >= 0:
            # otherwise pyarrow writes a footer when the writer is collected, into the file that has the descriptor then
            self._writer.is_open = False
            os.close(self._descriptor)
            self._descriptor = -1

    def _failure(self, error: OSError) -> DiskFailed:
        return DiskFailed(f"cannot write {self.path}: {error.strerror or error}")


class _Sink:
    """The file object that pyarrow writes to; the many small writes of columns are buffered."""

    def __init__(self, descriptor: int, disk: Disk) -> None:
        self._descriptor, self._disk = descriptor, disk
        self._kept = bytearray()
        self._at = self.crc32 = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Buffer all of `data`."""
        view: Any = memoryview(data)
        self._kept += view
        self._at += len(view)
        if len(self._kept) >= WRITE_BYTES:
            self.flush_buffer()
        return len(view)

    def flush_buffer(self) -> None:
        """Write what is buffered to the disk."""
        kept, self._kept = bytes(self._kept), bytearray()
        self.crc32 = zlib.crc32(kept, self.crc32)
        self._disk.write(self._descriptor, kept)

    def tell(self) -> int:
        """Bytes so far."""
        return self._at

    def flush(self) -> None:
        """Do nothing: the buffer is written when the file is closed."""

    def writable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Mark it closed; the owner closes the descriptor."""
        self.closed = True
