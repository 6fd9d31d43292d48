"""Parquet files of few rows and large cells, for tests of memory: plain, nested, and a bomb of a few KB."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CELL_BYTES = 5_000_000
ROWS = 120  # together 600 MB
_WORDS = "time order price state large small under paper water light house green south north table river stone".split()
_BLOCK_BYTES = 220_000  # repeated within a cell, so a file takes about a twentieth of its cells


def text_of(draw: random.Random, size: int) -> str:
    """Return about `size` bytes of words, which zstd compresses about twenty times."""
    block = " ".join(draw.choices(_WORDS, k=_BLOCK_BYTES // 6))
    return (block * (size // len(block) + 1))[:size]


def write_large_cells(
    path: Path, kind: str = "text", *, rows: int = ROWS, size: int = CELL_BYTES, in_one_page: bool = False
) -> Path:
    """Write `rows` rows: an id, a short text, and `blob` of about `size` bytes, a text, list, struct or map.

    The file has one row group, as pandas and pyarrow write it; some writers put it into one page.
    """
    draw = random.Random(7)
    types = {
        "text": pa.string(),
        "list": pa.list_(pa.string()),
        "struct": pa.struct([("title", pa.string()), ("body", pa.string())]),
        "map": pa.map_(pa.string(), pa.int32()),
    }
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("blob", types[kind])])
    cells: dict[str, Callable[[], Any]] = {
        "text": lambda: text_of(draw, size),
        "list": lambda: [text_of(draw, size // 5) for _ in range(5)],
        "struct": lambda: {"title": "a title", "body": text_of(draw, size)},
        "map": lambda: [(text_of(draw, size // 2), 1), (text_of(draw, size // 2), 2)],
    }
    batches = [
        pa.record_batch([[row], [f"a short text {row}"], pa.array([cells[kind]()], types[kind])], schema=schema)
        for row in range(rows)
    ]
    pages: dict[str, Any] = {"use_dictionary": False, "data_page_size": 1 << 30} if in_one_page else {}
    pq.write_table(pa.Table.from_batches(batches), path, compression="zstd", **pages)
    return path


def write_map_bomb(path: Path, *, key_bytes: int = 1 << 30) -> Path:
    """Write two rows whose maps have a key of `key_bytes` of one letter each: about 4 KB (brotli) for 2 GiB.

    It is like `large_string_map.brotli.parquet` of apache/parquet-testing.
    """
    key = pa.StringArray.from_buffers(
        1, pa.array([0, key_bytes], pa.int32()).buffers()[1], pa.py_buffer(b"a" * key_bytes)
    )
    row = pa.MapArray.from_arrays(pa.array([0, 1], pa.int32()), key, pa.array([1], pa.int32()))
    table = pa.table({"arr": pa.chunked_array([row, row])})
    pq.write_table(table, path, compression="brotli", use_dictionary=False, write_statistics=False, write_batch_size=1)
    return path
