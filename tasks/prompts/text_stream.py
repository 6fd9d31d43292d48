"""The bytes of a CSV or JSON lines file: opened, unpacked, hashed, and cut into blocks of whole rows.

Such a file has no footer, so it is read twice: once to check it, count its rows and find its types, and once for the
rows. Converting it into Parquet first would need room for a copy, and something to remove after each preview and
estimate. Both readings parse the same bytes: the hash of the stored bytes is the file's identity, and the second
reading compares it.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.other_formats import tell_magic
from parquill.tasks.prompts.text_names import packing_of
from parquill.tasks.storage.uri import is_uri, redact_uri

BLOCK_BYTES = 1 << 20
MAX_ROW_BYTES = 64 << 20  # also the most that a missing quote makes Parquill hold in memory
MAX_EXPANSION = 2_000  # as for Parquet
EXPANSION_FLOOR_BYTES = 4 << 30
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Block(NamedTuple):
    """Whole rows, and the number of their first line, from 1."""

    data: bytes
    line: int


class _Stored:
    """The bytes as they are stored, hashed as they are read."""

    def __init__(self, raw: Any) -> None:
        self._raw, self._sum = raw, hashlib.sha256()
        self.size = 0
        self.error: Exception | None = None
        self.closed = False

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._raw.read(size)
        except Exception as error:  # tells a failure to read from one to unpack
            self.error = error
            raise
        self._sum.update(data)
        self.size += len(data)
        return data

    def close(self) -> None:
        self.closed = True  # the file below is closed by who opened it

    @property
    def digest(self) -> str:
        return self._sum.hexdigest()


class TextStream:
    """A text file as unpacked bytes. `tag` is the ETag of its store, if it has one."""

    def __init__(self, path: str, raw: Any, tag: str) -> None:
        self.shown, self.tag = redact_uri(path), tag
        self._packing = packing_of(redact_uri(path))
        self._stored = _Stored(raw)
        self._unpacked: Any = self._stored
        if self._packing is not None:
            self._unpacked = pa.CompressedInputStream(pa.PythonFile(self._stored, mode="r"), self._packing)
        self.bytes = 0

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, none at the end. Raises BadInput, OSError, ArrowException."""
        try:
            data: bytes = self._unpacked.read(size)
        except (pa.ArrowException, OSError, EOFError):
            if self._packing is None or self._stored.error is not None:
                raise
            raise BadInput(
                f"{self.shown} cannot be unpacked: it is damaged, cut off, or not {self._packing} as its name says"
            ) from None
        self.bytes += len(data)
        if self.bytes > max(EXPANSION_FLOOR_BYTES, self._stored.size * MAX_EXPANSION):
            raise BadInput(
                f"{self.shown} grows from {self._stored.size:,} to over {self.bytes:,} bytes: a decompression bomb?"
            )
        return data

    def finish(self) -> tuple[str, int]:
        """Return the hash and the number of all stored bytes, also of those that unpacking did not need."""
        while self._stored.read(BLOCK_BYTES):
            pass
        return self._stored.digest, self._stored.size

    def blocks(self, cut: Callable[[bytes], int], explain: Callable[[bytes, int], str]) -> Iterator[Block]:
        """Yield blocks of whole rows; `cut` returns the length of the whole rows at the start of some bytes.

        `explain` says why a row has no end, given the bytes from its start and the number of its first line.
        Raises BadInput, OSError, ArrowException.
        """
        held, line, wanted = self._begin(), 1, BLOCK_BYTES
        is_last = False
        while not is_last:
            data = self.read(wanted)
            is_last, held = not data, held + data
            if is_last and held and not held.endswith(b"\n"):
                held += b"\n"
            end = cut(held)
            if end:
                block, held = held[:end], held[end:]
                self._check(block, line)
                yield Block(block, line)
                line += count_lines(block)
            # a long row is looked through again each time, so what is looked at doubles
            wanted = max(BLOCK_BYTES, len(held))
            # promise: input: a quote that never closes takes a bounded amount of memory
            if held and (is_last or len(held) > MAX_ROW_BYTES):
                self._check(held, line)
                raise BadInput(f"{self.shown}, {explain(held, line)}")

    def _begin(self) -> bytes:
        """Return the first bytes without a byte order mark. Raises BadInput if they are no UTF-8 text."""
        head = self.read(BLOCK_BYTES)
        if head.startswith(_UTF_16):
            raise BadInput(f"{self.shown}, line 1: the text is UTF-16; save it as UTF-8")
        if (found := tell_magic(head)) is not None:
            raise BadInput(f"{self.shown} is {found}")
        return head.removeprefix(codecs.BOM_UTF8)

    def _check(self, data: bytes, line: int) -> None:
        if (offset := data.find(b"\0")) >= 0:
            at = line + count_lines(data[:offset])
            raise BadInput(f"{self.shown}, line {at:,}: there is a NUL byte; save the file as UTF-8 text without it")
        try:
            codecs.utf_8_decode(data, "strict", True)
        except UnicodeDecodeError as error:
            at = line + count_lines(data[: error.start])
            raise BadInput(
                f"{self.shown}, line {at:,}: the text is not UTF-8 (is it Latin-1 or Windows-1252?); save it as UTF-8"
            ) from None


def count_lines(data: bytes) -> int:
    """Return the number of line ends; a lone CR counts only where no other line end is."""
    return data.count(b"\n") or data.count(b"\r")


@contextlib.contextmanager
def open_text(path: str) -> Iterator[TextStream]:
    """Open a text file. Raises OSError, ArrowException."""
    if is_uri(path):
        from parquill.tasks.storage.object_store import open_object, tag_of

        with open_object(path) as stream:
            yield TextStream(path, stream, tag_of(path, stream))
    else:
        with Path(path).open("rb", buffering=0) as file:
            yield TextStream(path, file, "")
