"""The three forms of `response_format`: a JSON schema, a schema in OpenAI's wrapper, or plain JSON mode.

Each is normalized, so that equal requests have equal keys however they were written: to the schema alone if it is sent
as `answer` and strict, to `{type: json_schema, name, strict, schema}` otherwise, and to `{type: json_object}` for JSON
mode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULT_NAME = "answer"
# https://platform.openai.com/docs/api-reference/chat/create (response_format.json_schema.name)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MEMBERS = frozenset({"name", "description", "strict", "schema"})


class ResponseFormat(NamedTuple):
    """What an answer must be: an instance of `schema`, or any JSON object if that is None."""

    schema: dict[str, Any] | None
    name: str = DEFAULT_NAME
    strict: bool = True
    description: str | None = None

    def members(self) -> dict[str, Any]:
        """Return the members that both APIs of OpenAI have in addition to `type: json_schema`."""
        described = {} if self.description is None else {"description": self.description}
        return {"name": self.name, **described, "schema": self.schema, "strict": self.strict}


def one_form(value: dict[str, Any]) -> dict[str, Any]:
    """Return the normalized form of a `response_format`. Raises ValueError; the schema itself is not checked."""
    if not isinstance(kind := value.get("type"), str) or kind not in {"json_schema", "json_object", "text"}:
        return value
    if kind == "text":
        raise ValueError("`type: text` is the default: leave it out")
    inner = {name: member for name, member in value.items() if name != "type"}
    if kind == "json_object":
        _refuse_unknown(inner, frozenset())
        return {"type": "json_object"}
    if "json_schema" in inner:
        _refuse_unknown(inner, frozenset({"json_schema"}))
        inner = inner["json_schema"]
        if not isinstance(inner, Mapping):
            raise ValueError("`json_schema` must be a mapping with a `schema`")
    _refuse_unknown(inner, _MEMBERS)
    return _kept(inner)


def _kept(inner: Mapping[str, Any]) -> dict[str, Any]:
    schema, name = inner.get("schema"), inner.get("name", DEFAULT_NAME)
    # as in OpenAI's API, from which this wrapper is: a schema is strict only if the wrapper says so
    strict, description = inner.get("strict"), inner.get("description")
    if not isinstance(schema, Mapping | str) or not schema:
        raise ValueError("has no `schema`: a JSON schema, or a file that holds one")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("`name` must be 1 to 64 letters, digits, underscores and dashes")
    if not (strict is None or isinstance(strict, bool)):
        raise ValueError("`strict` must be true or false")
    if not (description is None or isinstance(description, str)):
        raise ValueError("`description` must be text")
    if isinstance(schema, Mapping) and (name, strict, description) == (DEFAULT_NAME, True, None):
        return dict(schema)
    described = {} if description is None else {"description": description}
    return {"type": "json_schema", "name": name, **described, "strict": bool(strict), "schema": schema}


def _refuse_unknown(members: Mapping[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(str(name) for name in members if name not in known)
    if unknown:
        there = f"; it can have {', '.join(sorted(known))}" if known else ""
        raise ValueError(f"has an unknown member {unknown[0]!r}{there}")


def read_format(value: Any) -> ResponseFormat | None:
    """Read a normalized `response_format`; None if there is none."""
    if not isinstance(value, dict):
        return None
    if value.get("type") == "json_object":
        return ResponseFormat(None)
    if value.get("type") == "json_schema":
        return ResponseFormat(value["schema"], value["name"], value["strict"], value.get("description"))
    return ResponseFormat(value)


def schema_of(value: Any) -> dict[str, Any] | None:
    """Return the JSON schema in a normalized `response_format`, None if it has none."""
    found = read_format(value)
    return None if found is None else found.schema
