"""Looks for a canary in everything that a run leaves behind, in whatever form it was packed or written.

Bytes are searched unchanged, and as far as they can be unpacked: text in any of the usual encodings, escapes of JSON
and URLs, hex, base64 at any alignment and inside itself, gzip, zlib, zip, zstd, pickles, Parquet and SQLite.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import io
import lzma
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.parquet as pq

DEPTH = 6  # base64 of a pickle of JSON of base64 of gzip of text
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/_-](?:\\n|\s)?){16,}={0,2}")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){8,}")
_ESCAPE = re.compile(rb"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")
_PACKED: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b\x08", lambda data: zlib.decompressobj(31).decompress(data)),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data)),
    (b"\xfd7zXZ\0", lambda data: lzma.LZMADecompressor().decompress(data)),
    (b"\x28\xb5\x2f\xfd", lambda data: bytes(pa.input_stream(io.BytesIO(data), compression="zstd").read())),
    *((head, lambda data: zlib.decompressobj().decompress(data)) for head in (b"x\x01", b"x\x9c", b"x\xda", b"x^")),
)
_UNPACKING = (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError, RuntimeError, zipfile.BadZipFile)


def found_in(canaries: str | tuple[str, ...], data: bytes) -> bool:
    """Return whether data holds any canary of at least 16 letters, digits and dashes, plain or packed."""
    each_canary = (canaries,) if isinstance(canaries, str) else canaries
    needles = [needle for canary in each_canary for needle in _needles(canary)]
    seen: set[bytes] = set()
    layer = [data]
    for _ in range(DEPTH):
        following = []
        for each in layer:
            if any(needle in each for needle in needles):
                return True
            for inner in _unpack(each):
                if inner not in seen:
                    seen.add(inner)
                    following.append(inner)
        layer = following
    return False


def _needles(canary: str) -> list[bytes]:
    """Return the canary plain, backward, in wide encodings, as hex, and inside base64 at each of three alignments."""
    plain = canary.encode()
    needles = [plain, plain[::-1], plain.hex().encode(), plain.hex().upper().encode()]
    needles += [canary.encode(wide) for wide in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")]
    for shift in range(3):
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            coded = alphabet(b"\0" * shift + plain)
            needles.append(coded[4 : len(coded) - len(coded) % 4 - 4])
    return needles


def _unpack(data: bytes) -> Iterator[bytes]:
    """Return what data holds, one step deeper."""
    if b"%" in data:
        yield unquote_to_bytes(data)
    if b"\\u" in data or b"\\x" in data:
        yield _ESCAPE.sub(lambda m: chr(int(m[1] or m[2], 16)).encode("utf-8", "replace"), data)
    for run in _BASE64.findall(data):
        whole = re.sub(rb"\\n|\s", b"", run).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(min(4, len(whole))):  # letters that happen to come before it shift the alignment
            piece = whole[start:]
            piece = piece[: len(piece) - (len(piece) % 4 == 1)]
            yield binascii.a2b_base64(piece + b"=" * (-len(piece) % 4))
    for run in _HEX.findall(data):
        yield bytes.fromhex(run.decode())
    yield from _decompress(data)


def _decompress(data: bytes) -> Iterator[bytes]:
    for magic, unpack in _PACKED:
        at = data.find(magic)
        while at != -1:
            try:
                yield unpack(data[at:])
            except _UNPACKING:
                pass
            at = data.find(magic, at + 1)
    if data.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                yield from (packed.read(name) for name in packed.namelist())
        except _UNPACKING:
            pass


def contents(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Return (name, bytes) of all files below the folders, of their paths, and of Parquet and SQLite cells."""
    for folder in folders:
        for path in sorted([folder, *folder.rglob("*")]):
            yield f"the name {path}", str(path).encode("utf-8", "surrogateescape")
            if path.is_symlink() or not path.is_file():
                continue
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # a temporary file of a server
                continue
            yield str(path), data
            if data[:4] == b"PAR1" and data[-4:] == b"PAR1":
                yield from ((f"{path} (cells)", cell) for cell in _cells(path))
            elif data.startswith(b"SQLite format 3\0"):
                yield from ((f"{path} ({name})", cell) for name, cell in _values(path))


def _cells(path: Path) -> Iterator[bytes]:
    """Return the cells of a Parquet file, column by column, one per line, and its metadata."""
    with pq.ParquetFile(path) as parquet:
        yield repr(parquet.schema_arrow.metadata).encode() + repr(parquet.metadata.metadata).encode()
        for column in parquet.read().columns:
            values = (v if isinstance(v, bytes) else str(v).encode("utf-8", "replace") for v in column.to_pylist())
            yield b"\n".join(values)


def _values(path: Path) -> Iterator[tuple[str, bytes]]:
    """Return the columns of an SQLite database's tables, with its WAL; its pages alone would split long values."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    database.text_factory = bytes
    try:
        names = [row[0].decode() for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            rows = database.execute(f'SELECT * FROM "{name}"').fetchall()  # noqa: S608 - the database's own names
            texts = (v if isinstance(v, bytes) else str(v).encode() for row in rows for v in row if v is not None)
            yield name, b"\n".join(texts)
    finally:
        database.close()


def where(
    canaries: str | tuple[str, ...], folders: Iterable[Path], outputs: Iterable[tuple[str, str]] = ()
) -> list[str]:
    """Return the names of all files and outputs that hold any of the canaries; each file is unpacked once for all."""
    texts = ((name, text.encode("utf-8", "surrogateescape")) for name, text in outputs)
    return [name for name, data in (*texts, *contents(*folders)) if found_in(canaries, data)]


def reachable(start: object, *, most: int = 200_000) -> Iterator[object]:
    """Return every object that can be reached from one by attributes, slots, items and an exception's links."""
    seen: dict[int, object] = {}
    waiting = [start]
    while waiting and len(seen) < most:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        yield thing
        if isinstance(thing, dict):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            waiting += thing
        elif isinstance(thing, BaseException):
            waiting += [thing.args, thing.__cause__, thing.__context__, getattr(thing, "__notes__", None)]
        waiting += getattr(thing, "__dict__", {}).values()
        slots = [name for kind in type(thing).__mro__ for name in _slots(kind)]
        waiting += [getattr(thing, name) for name in slots if hasattr(thing, name)]


def _slots(kind: type) -> tuple[str, ...]:
    names = kind.__dict__.get("__slots__", ())
    return (names,) if isinstance(names, str) else tuple(names)
