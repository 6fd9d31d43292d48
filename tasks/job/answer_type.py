"""Convert a JSON schema to the Arrow type of `parsed`, and an answer to a value of that type."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import orjson
import pyarrow as pa

from parquill.tasks.errors import BadJob
from parquill.tasks.job.response_format import read_format


def parsed_type(response_format: dict[str, Any] | None) -> pa.DataType | None:
    """Return the Arrow type of `parsed`: a struct for a schema, text for JSON mode, None without a format.

    Raises BadJob for a schema that does not describe an object.
    """
    asked = read_format(response_format)
    if asked is None:
        return None
    schema = asked.schema
    if schema is None:
        return pa.string()
    found = _arrow_type(schema, schema, frozenset())
    if not pa.types.is_struct(found):
        raise BadJob("`response_format` must describe an object with properties")
    return found


def _arrow_type(  # noqa: PLR0911 - a line for each kind of place
    schema: Any, root: dict[str, Any], inside: frozenset[str]
) -> pa.DataType:
    """Return the Arrow type of one place in a schema: text (JSON) if it has no fixed shape or contains itself."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if isinstance(reference, str):
        if reference in inside:
            return pa.string()
        return _arrow_type(_target(reference, root), root, inside | {reference})
    if not isinstance(schema, dict):
        return pa.string()
    for name in ("anyOf", "oneOf"):  # how Pydantic writes an optional field
        branches = schema.get(name)
        if isinstance(branches, list):
            real = [branch for branch in branches if branch != {"type": "null"}]
            return _arrow_type(real[0], root, inside) if len(real) == 1 else pa.string()
    kind = _kind(schema)
    if kind == "object":
        properties = schema.get("properties") or {}
        inner = [pa.field(name, _arrow_type(value, root, inside)) for name, value in properties.items()]
        return pa.struct(inner) if inner else pa.string()
    if kind == "array" and "items" in schema:
        return pa.list_(_arrow_type(schema["items"], root, inside))
    return {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}.get(kind, pa.string())


def _kind(schema: Any) -> str:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(kind, list):
        kinds = [item for item in kind if item != "null"]
        return kinds[0] if len(kinds) == 1 else ""
    return kind if isinstance(kind, str) else ""


def _target(reference: str, root: dict[str, Any]) -> Any:
    """Return what a local pointer points to, or an empty schema for other references. Raises BadJob for a dead one."""
    if reference != "#" and not reference.startswith("#/"):
        if not reference.startswith("#"):
            known = root.get("$id"), *(v.get("$id") for v in (root.get("$defs") or {}).values() if isinstance(v, dict))
            if reference.split("#", maxsplit=1)[0] not in known:
                raise BadJob(f"`response_format`: the $ref {reference!r} points at nothing in the schema")
        return {}  # an anchor or an embedded id: the validator resolves it, the column is JSON text
    target: Any = root
    for part in unquote(reference[2:]).split("/") if len(reference) > 1 else ():
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdigit() and int(name) < len(target):
            target = target[int(name)]
        else:
            target = target.get(name) if isinstance(target, dict) else None
    if target is None:
        raise BadJob(f"`response_format`: the $ref {reference!r} points at nothing in the schema")
    return target


def check_references(schema: Any, root: dict[str, Any]) -> None:
    """Refuse a $ref that points to nothing: every answer would be paid for and be invalid. Raises BadJob."""
    waiting = [schema]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if isinstance(found.get("$ref"), str) and "$id" not in found:
                _target(found["$ref"], root)
            # these hold values, not schemas; below a schema with its own $id, pointers start at that schema
            waiting.extend(
                value
                for name, value in found.items()
                if name not in {"const", "enum", "default", "examples"}
                and not (isinstance(value, dict) and "$id" in value)
            )
        elif isinstance(found, list):
            waiting.extend(found)


def shape_value(value: Any, kind: pa.DataType) -> Any:  # noqa: PLR0911 - a line for each kind
    """Convert a JSON value to its Arrow type. Raises OverflowError for a number that is too large for the type."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        inner = value if isinstance(value, dict) else {}
        return {field.name: shape_value(inner.get(field.name), field.type) for field in kind}
    if pa.types.is_list(kind):
        return [shape_value(item, kind.value_type) for item in value] if isinstance(value, list) else None
    if pa.types.is_int64(kind):
        whole = int(value)
        if not -(2**63) <= whole < 2**63:
            raise OverflowError
        return whole
    if pa.types.is_floating(kind):
        number = float(value)
        if math.isinf(number):  # 1e400 as a decimal
            raise OverflowError
        return number
    if pa.types.is_boolean(kind) or isinstance(value, str):
        return value
    return orjson.dumps(value, default=_digits).decode()


def _digits(value: Any) -> orjson.Fragment:
    """Write a number of an answer as it was written."""
    if not isinstance(value, Decimal):
        raise TypeError
    return orjson.Fragment(str(value))
