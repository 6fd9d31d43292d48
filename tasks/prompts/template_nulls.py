"""Nulls in a template: a null cell, or a null within a cell, can be tested for and replaced, but never becomes text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined

from parquill.tasks.errors import RowFault

FOR_NULLS = "fill it in the data, or show it as empty text with default('', true) in the prompt"


class NullValue(Exception):
    """A null reached the text of a prompt."""


class NotPrintable(Exception):
    """A list or a struct would become text with Python's brackets and quotes."""


class Null(StrictUndefined):
    """A null cell: false in a test, replaced by `default`, and an error if it would become text."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, Null)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    # a list or a filter that shows its items would turn the null into text
    __repr__ = StrictUndefined.__str__

    __hash__ = object.__hash__  # type: ignore[assignment]


class _InnerNull(Null):
    """A null field of a struct or item of a list: like a null cell, but JSON may hold it."""


def is_missing(value: Any) -> bool:
    """Whether a cell is null; pandas writes missing values as NaN, even in columns of text."""
    # promise: input: NaN counts as a null
    return value is None or (isinstance(value, float) and math.isnan(value))


def mark_nulls(value: Any, name: str, null: type[Null] = Null) -> Any:
    """Return a cell whose nulls, also those in structs and lists, cannot become text. Raises RowFault."""
    # promise: input: a null never renders as text
    if is_missing(value):
        return null(name=name)
    if isinstance(value, dict):
        return {key: mark_nulls(inner, f"{name}.{key}", _InnerNull) for key, inner in value.items()}
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise RowFault("invalid_utf8", f"{name} is not valid UTF-8") from None
    if isinstance(value, list | tuple):  # an Arrow map is a list of pairs
        return type(value)(mark_nulls(inner, f"{name}[]", _InnerNull) for inner in value)
    return value


def is_json_null(value: Any) -> bool:
    """Whether JSON writes null for a value: inside a document a null is allowed. Raises NullValue for a null cell."""
    if isinstance(value, Null) and not isinstance(value, _InnerNull):
        raise NullValue
    return isinstance(value, _InnerNull)


def finalize(value: Any) -> Any:
    """Return what each {{ ... }} shows: "None" is never sent to a model as text. Raises NullValue, NotPrintable."""
    if is_missing(value):  # also a null that a template makes itself
        raise NullValue
    if isinstance(value, list | tuple | dict):
        raise NotPrintable("struct" if isinstance(value, dict) else "list")
    return value


def null_of(message: str, values: Mapping[str, Any]) -> str | None:
    """Return the null cell, or the null within a cell, that is why a name is undefined; None for another reason."""
    name, _, undefined = message.rpartition(" is ")
    if undefined != "undefined":
        return None
    nulls = {repr(column) for column, value in values.items() if is_missing(value)}
    within = tuple(repr(column)[1:-1] + inner for column in values for inner in (".", "[]"))
    return name if name in nulls or name[1:].startswith(within) else None
