"""Cells of an Arrow column as Python values; one bad cell does not affect the rest of its batch."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from parquill.tasks.errors import RowFault

_BAD_TEXT = "is not valid UTF-8"


def cells(column: pa.Array) -> list[Any]:
    """Return the values of a column; a bad cell, such as invalid UTF-8, becomes a RowFault that says so."""
    try:
        return list(column.to_pylist())
    except (ValueError, ArithmeticError, LookupError, pa.ArrowException):
        # promise: input: a cell with invalid UTF-8 affects only its own row
        return [_cell(value) for value in column]


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return RowFault("invalid_utf8", "a cell that the prompt uses is not valid UTF-8")
    except (ValueError, ArithmeticError, LookupError, pa.ArrowException):
        return RowFault("bad_value", "a cell that the prompt uses has a value that cannot be written as text")
