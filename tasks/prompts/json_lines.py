"""JSON lines: one object a line, read with the line of each fault, and turned into Arrow columns of given types."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.text_stream import MAX_ROW_BYTES, Block

_SPACE = b" \t\r\n"


class _Fault(Exception):
    """What is wrong with a line."""


def cut(data: bytes) -> int:
    """Return the length of the whole lines at the start."""
    return data.rfind(b"\n") + 1


def explain(_: bytes, line: int) -> str:
    """Say why a line has no end."""
    return f"line {line:,} is longer than {MAX_ROW_BYTES:,} bytes; is this JSON with one object a line?"


def objects(block: Block, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a block with the numbers of their lines; blank lines are no rows. Raises BadInput."""
    for number, line in enumerate(block.data.split(b"\n"), block.line):
        if not line.strip(_SPACE):
            continue
        try:
            found = _DECODER.decode(line.decode())
        except json.JSONDecodeError as error:
            why = f"is not JSON ({error.msg} in column {error.colno:,})"
            raise BadInput(f"{file}, line {number:,} {why}; each line is one whole object") from None
        except _Fault as fault:
            raise BadInput(f"{file}, line {number:,}: {fault}") from None
        except (RecursionError, ValueError):
            raise BadInput(f"{file}, line {number:,} is nested too deeply or has a number that is too long") from None
        if not isinstance(found, dict):
            shape = "list" if isinstance(found, list) else "value"
            raise BadInput(
                f"{file}, line {number:,} is a JSON {shape}; each line is one object, whose keys are columns"
            )
        yield number, found


def to_batch(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows as Arrow; keys that are missing are null."""
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        try:
            columns.append(pa.array(values, field.type))
        except (UnicodeEncodeError, pa.ArrowTypeError):
            columns.append(_odd_values(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _without_empty(value: Any, kind: pa.DataType) -> Any:
    """Return a value with text in place of objects for which Parquet has no type, since none of them has a key."""
    if value == {} and pa.types.is_string(kind):
        return "{}"
    if isinstance(value, dict) and pa.types.is_struct(kind):
        return {name: _without_empty(each, kind.field(name).type) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_empty(each, kind.value_type) for each in value]
    return value


def _odd_values(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return values among which are lone surrogates, or objects that are empty in all rows.

    A lone surrogate becomes bytes that are not UTF-8. So only its row is rejected, as with Parquet.
    """
    values = [_encoded(_without_empty(value, kind)) for value in values]
    return pa.array(values, _as_binary(kind)).cast(options=pc.CastOptions(target_type=kind, allow_invalid_utf8=True))


def _encoded(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict):
        return {name: _encoded(each) for name, each in value.items()}
    return [_encoded(each) for each in value] if isinstance(value, list) else value


def _as_binary(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(each.name, _as_binary(each.type)) for each in kind])
    return pa.list_(_as_binary(kind.value_type)) if pa.types.is_list(kind) else kind


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    # promise: input: a JSON object with a duplicate key is refused
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Fault(f"the key {twice!r} is there twice in one object")
    return found


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Fault("a number is too large for floating point; write it as text")
    return number


def _constant(text: str) -> NoReturn:
    raise _Fault(f"{text} is not JSON; write null")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
