"""Writes results as CSV or as JSON lines, for tools that read no Parquet.

Both hold every column. What a format lacks is written as text: money as an exact decimal, bytes as Base64, and in CSV
lists and structs as JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa


def csv_blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Yield the batches as UTF-8 text with a header, as RFC 4180 says.

    Texts are in quotes, so that a null, which is an empty field, differs from an empty text.
    """
    is_first = True
    for batch in batches:
        lines = [",".join(map(_field, batch.schema.names))] if is_first else []
        is_first = False
        columns = ([_field(value) for value in column.to_pylist()] for column in batch.columns)
        lines += map(",".join, zip(*columns, strict=True))
        yield "".join(f"{line}\r\n" for line in lines).encode()


def json_line_blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Yield the batches as JSON lines: one object for each row, with a member for each column."""
    for batch in batches:
        yield b"".join(_dump(row) + b"\n" for row in batch.to_pylist())


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with values that JSON can hold."""
    found: dict[str, Any] = orjson.loads(_dump(row))
    return found


def plain_text(value: Any) -> str:
    """Return a value as text: lists and structs as JSON, times in ISO 8601, bytes as Base64."""
    if isinstance(value, list | dict | tuple | bool):
        return _dump(value).decode()
    return value.isoformat() if isinstance(value, datetime | date | time) else _text(value)


def _dump(value: Any) -> bytes:
    return orjson.dumps(value, default=_text, option=orjson.OPT_NON_STR_KEYS)


def _text(value: Any) -> str:
    """Return the text of a value that JSON lacks."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _field(value: Any) -> str:
    """Return a value as a field of CSV: numbers, times and truth values bare, any other text in quotes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Decimal):
        return _text(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    text = _dump(value).decode() if isinstance(value, list | dict | tuple) else _text(value)
    return '"' + text.replace('"', '""') + '"'
