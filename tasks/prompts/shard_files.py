"""The files that hold planned rows until they are sent."""

from __future__ import annotations

import pyarrow as pa

from parquill.tasks.records import ShardRef
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.folders import RunFolder
from parquill.tasks.storage.parquet_writer import ChecksummedWriter

SHARD_BYTES = 64 << 20


class ShardFiles:
    """Writes planned rows as small Parquet files of about `rows` rows. Implements Sink."""

    def __init__(self, folder: RunFolder, rows: int, disk: Disk = DISK) -> None:
        self._folder, self._rows, self._disk = folder, rows, disk
        self.shards: list[ShardRef] = []
        self._file: ChecksummedWriter | None = None
        self._size = self._count = self._to_send = 0

    def write(self, batch: pa.RecordBatch, to_send: int) -> None:
        """Append rows to the open shard; once it is closed, its rows never move. Raises DiskFailed."""
        if self._file is None:
            # private: it holds prompts
            self._file = ChecksummedWriter(self._folder.shard(len(self.shards)), batch.schema, 0o600, self._disk)
        self._file.write(batch)
        self._count += batch.num_rows
        self._to_send += to_send
        self._size += batch.nbytes
        if self._count >= self._rows or self._size >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Close the open shard, if any. Raises DiskFailed."""
        if self._file is None:
            return
        self._file.close()
        self.shards.append(ShardRef(len(self.shards), self._count, self._to_send, self._file.crc32))
        self._file = None
        self._size = self._count = self._to_send = 0

    def abandon(self) -> None:
        """Abandon the open shard, if any."""
        if self._file is not None:
            self._file.abandon()
