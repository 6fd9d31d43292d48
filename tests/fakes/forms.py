"""Reading what a call brings beside its path: a query, or a multipart form with a file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from .answers import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .exchange import Request

_BOUNDARY = re.compile(rb'multipart/form-data\s*;.*?boundary="?([^";]+)"?', re.IGNORECASE)
_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILE_NAME = re.compile(rb'[; ]filename="([^"]*)"')


def read_query(query: bytes, known: set[str]) -> dict[str, list[str]]:
    """Return the values of each name; a name that is not known is a BadRequestError, as `metadata` would be.

    `group_by[]=model`, `group_by=model` and `group_by=model,batch` mean a list.
    """
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        name = name.removesuffix("[]")  # noqa: PLW2901 - both spellings are one name
        if name not in known | {"api-version"}:
            raise unknown_parameter(name)
        found.setdefault(name, []).extend(value.split(",") if name == "group_by" else [value])
    return found


def read_number(query: dict[str, list[str]], name: str, default: int | None, most: int) -> int:
    """Return a whole number of a query."""
    given = query.get(name, [None])[-1]
    if given is None:
        if default is None:
            raise BadRequestError(
                f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
            )
        return default
    if not given.isdigit() or not 0 < int(given) <= most:
        message = f"Invalid '{name}': an integer from 1 to {most} is wanted, not '{given}'."
        raise BadRequestError(message, param=name, code="invalid_value")
    return int(given)


def unknown_parameter(name: str) -> BadRequestError:
    """Return the refusal of a parameter that the API does not have."""
    return BadRequestError(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def read_form(request: Request) -> dict[str, tuple[str | None, bytes]]:
    """Return each field's file name, if it has one, and its content."""
    boundary = _BOUNDARY.match(request.header(b"content-type"))
    if boundary is None:
        raise BadRequestError("The body must be multipart/form-data.")
    fields: dict[str, tuple[str | None, bytes]] = {}
    for head, content in _parts(request.body, b"--" + boundary[1]):
        name = _NAME.search(head)
        if name is None:
            raise BadRequestError("A part of the form has no name.")
        key = name[1].decode("latin-1")
        if key in fields:
            raise BadRequestError(f"Duplicate parameter: '{key}'.", param=key)
        file_name = _FILE_NAME.search(head)
        fields[key] = (None if file_name is None else file_name[1].decode("utf-8", "replace"), content)
    return fields


def _parts(body: bytes, mark: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the head and the content of each part."""
    broken = BadRequestError("The form is not complete.")
    if not body.startswith(mark):
        raise broken
    start = len(mark)
    while body[start : start + 2] == b"\r\n":
        head_end = body.find(b"\r\n\r\n", start)
        end = body.find(b"\r\n" + mark, head_end)
        if head_end < 0 or end < 0:
            raise broken
        yield body[start:head_end], body[head_end + 4 : end]
        start = end + 2 + len(mark)
    if body[start : start + 2] != b"--":
        raise broken
