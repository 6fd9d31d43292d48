"""A JSON document that is valid for a simple JSON schema."""

from __future__ import annotations

from math import ceil
from typing import Any


def document(schema: dict[str, Any], text: str, digest: bytes) -> Any:
    """Return a document of objects, arrays and enums, nested; its strings hold `text`, so an answer still shows its
    prompt.
    """
    return _value(schema, schema, text, int.from_bytes(digest[:4]))


def _value(schema: Any, root: dict[str, Any], text: str, draw: int) -> Any:
    if not isinstance(schema, dict):
        return text
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][draw % len(schema["enum"])]
    inner = _inner(schema, root)
    return _typed(schema, root, text, draw) if inner is None else _value(inner, root, text, draw)


def _inner(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema that this one refers to, or the first of those that it offers."""
    if "$ref" in schema:
        return _resolved(schema["$ref"], root)
    offered = schema.get("anyOf") or schema.get("oneOf")
    return offered[0] if offered else None


def _typed(schema: dict[str, Any], root: dict[str, Any], text: str, draw: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object":
        properties = schema.get("properties", {}).items()
        return {name: _value(inner, root, text, draw // 3 + index) for index, (name, inner) in enumerate(properties)}
    if kind == "array":
        length = schema.get("minItems", min(2, schema.get("maxItems", 2)))
        return [_value(schema.get("items"), root, text, draw + index) for index in range(length)]
    if kind in {"integer", "number"}:
        return _number(schema, draw, whole=kind == "integer")
    if kind == "string":
        return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
    return draw % 2 == 0 if kind == "boolean" else None


def _number(schema: dict[str, Any], draw: int, *, whole: bool) -> int | float:
    step = 1 if whole else 0.25
    least, most = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        least = schema["exclusiveMinimum"] + step
    if "exclusiveMaximum" in schema:
        most = schema["exclusiveMaximum"] - step
    if least is None:
        least = 0 if most is None else min(0, most)
    value = least + draw % 100 * step
    if most is not None and value > most:
        value = least
    return ceil(value) if whole else value


def _resolved(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    found: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            found = found[part.replace("~1", "/").replace("~0", "~")]
    return found if isinstance(found, dict) else {}
