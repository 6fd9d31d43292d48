"""The search for canaries finds what is there, so an empty search proves something."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import pickle
import secrets
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import cloudpickle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tools.searching import found_in, reachable, where

CANARY = "sk-canary-" + secrets.token_hex(12)
PLAIN = CANARY.encode()


def _zip(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inner", data)
    return packed.getvalue()


WAYS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda d: d,
    "base64": base64.b64encode,
    "base64, one off": lambda d: base64.b64encode(b"x" + d + b"yy"),
    "base64, two off": lambda d: base64.b64encode(b"xy" + d + b"y"),
    "base64 for URLs": base64.urlsafe_b64encode,
    "base64 in lines": base64.encodebytes,
    "base64 in base64": lambda d: base64.b64encode(b"ab" + base64.b64encode(b"c" + d)),
    "base64 in JSON": lambda d: json.dumps({"data": base64.encodebytes(d).decode()}).encode(),
    "base64 after letters": lambda d: b"prefix" + base64.b64encode(gzip.compress(d)),
    "cloudpickle in base64": lambda d: base64.b64encode(cloudpickle.dumps({"a": [d.decode()]})),
    "pickle of gzip in JSON": lambda d: json.dumps(base64.b64encode(pickle.dumps(gzip.compress(d))).decode()).encode(),
    "gzip": gzip.compress,
    "gzip inside other bytes": lambda d: b"head" + gzip.compress(d) + b"tail",
    "zlib": zlib.compress,
    "zlib, fast": lambda d: zlib.compress(d, 1),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda d: pa.compress(d, codec="zstd", asbytes=True),
    "zip": _zip,
    "UTF-16": lambda d: d.decode().encode("utf-16"),
    "UTF-16, big end first": lambda d: d.decode().encode("utf-16-be"),
    "UTF-32": lambda d: d.decode().encode("utf-32"),
    "percent": lambda d: "".join(f"%{b:02X}" for b in d).encode(),
    "percent twice": lambda d: quote("".join(f"%{b:02x}" for b in d)).encode(),
    "hex": lambda d: d.hex().encode(),
    "hex of gzip": lambda d: gzip.compress(d).hex().upper().encode(),
    "JSON escapes": lambda d: "".join(f"\\u{b:04x}" for b in d).encode(),
    "Python escapes": lambda d: "".join(f"\\x{b:02x}" for b in d).encode(),
    "backward": lambda d: d[::-1],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_canary_is_found_in_whatever_it_is_packed(way: str) -> None:
    """The search finds a canary in each encoding that Prefect, HTTP, logs and files use.
    It does not find a canary that is not there.
    """
    packed = WAYS[way](b"before it " + PLAIN + b" and after it")
    assert found_in(CANARY, packed)
    assert found_in(CANARY, b"\0{" + packed) or way in {"zip", "UTF-16"}
    assert not found_in("sk-canary-" + "0" * 24, packed)


def test_files_are_read_for_what_they_hold(tmp_path: Path) -> None:
    """The search covers Parquet cells, column names and metadata, SQLite values and their WAL, and file names."""
    table = pa.table({"x": ["a " + CANARY] * 10})
    pq.write_table(table, tmp_path / "cells.parquet", compression="zstd")
    pq.write_table(pa.table({CANARY: [1]}), tmp_path / "column", compression="gzip")
    pq.write_table(pa.table({"b": [base64.b64encode(PLAIN)]}), tmp_path / "bytes.parquet", compression="snappy")
    (tmp_path / f"name-{CANARY}").touch()
    database = sqlite3.connect(tmp_path / "base.db")
    database.executescript("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (x)")
    database.execute("INSERT INTO t VALUES (?)", [zlib.compress(b"z" * 9000 + PLAIN)])
    database.commit()
    found = " ".join(where(CANARY, [tmp_path], [("output", f"so {CANARY}")]))
    database.close()
    for name in ("cells.parquet", "column", "bytes.parquet", "name-", "base.db (t)", "output"):
        assert name in found
    assert where("sk-canary-" + "0" * 24, [tmp_path]) == []


def test_objects_are_walked_through() -> None:
    """The walk reaches what attributes, slots, items and the causes of exceptions hold."""

    class Slotted:
        __slots__ = ("hidden",)

        def __init__(self) -> None:
            self.hidden = [{"deep": CANARY}]

    error = ValueError("shown")
    error.__context__ = KeyError(Slotted())
    assert any(thing == CANARY for thing in reachable({"x": (error,)}))
