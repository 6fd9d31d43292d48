"""The input file of one batch: a line of JSON for each request, private, and removed once the batch is created."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final, NamedTuple

from parquill.tasks.llm.unit import Step
from parquill.tasks.storage.replay import RowState

# OpenAI takes 50,000 requests and 200 MB in a file, Azure 100,000 and 200 MB. A megabyte may be 10**6 bytes.
MAX_ROWS: Final = 50_000
MAX_BYTES: Final = 190_000_000


class BatchedRow(NamedTuple):
    """A row of a batch, without its messages, which are in the file only."""

    number: int
    state: RowState
    reserved_nano: int


class BatchInput:
    """Writes the file of the batch `key`. The methods block for the disk: call them from a thread that may wait."""

    def __init__(self, key: str, path: Path) -> None:
        """Create the file. Raises OSError."""
        self.key, self.path = key, path
        self.rows: list[BatchedRow] = []
        self.tokens = self.reserved_nano = self._size = 0
        self._hash = hashlib.sha256()
        # promise: S3 only the owner can read the input file of a batch
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")

    def has_room(self, size: int) -> bool:
        """Whether the file may have one more line, of so many bytes."""
        return len(self.rows) < MAX_ROWS and self._size + size <= MAX_BYTES

    def add(self, step: Step, line: bytes, tokens: int) -> None:
        """Append the request of a step, whose prompt has so many tokens. Raises OSError."""
        self._file.write(line)
        self._hash.update(line)
        self._size += len(line)
        self.rows.append(BatchedRow(step.number, step.state, step.reserve_nano))
        self.tokens += tokens
        self.reserved_nano += step.reserve_nano

    def close(self) -> str:
        """Close the file; return the start of its sha256. Raises OSError."""
        self._file.close()
        return self._hash.hexdigest()[:16]


def line_of(key: str, number: int, path: str, body: bytes) -> bytes:
    """Return the line of a request: `path` is that of its API, `body` is its JSON.

    The custom_id is the batch's key and the row's number, at most 64 characters, and never a text of the row.
    """
    return b'{"custom_id":"%b-%d","method":"POST","url":"%b","body":%b}\n' % (key.encode(), number, path.encode(), body)
