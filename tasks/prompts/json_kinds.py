"""The types of JSON lines: one type for each key, of the values in all lines of all files of the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

MAX_KEYS = 1_000  # of the whole input, nested ones too: each becomes a column or a field in every row
MAX_DEPTH = 50
EXACT = 1 << 53  # whole numbers up to here are exact in floating point
BIG_DIGITS = 38  # of decimal128
_NAMES = {str: "text", bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a list"}


class Place(NamedTuple):
    """Where a value is: a file, as it is shown, and a line."""

    file: str
    line: int

    def beside(self, other: Place) -> str:
        """Name the place for a reader who knows the other one."""
        return f"line {self.line:,}" if self.file == other.file else f"{self.file}, line {self.line:,}"


class Conflict(Exception):
    """Values of one key that no type holds."""


class Kind:
    """The values that one key has had."""

    __slots__ = ("_first", "_keys", "_most", "_most_at", "fields", "item")

    def __init__(self, keys: list[int] | None = None) -> None:
        """`keys` holds the number of keys so far, and is shared by all kinds of an input."""
        self._keys = [0] if keys is None else keys
        self._first: dict[type, Place] = {}
        self._most, self._most_at = EXACT, Place("", 0)
        self.fields: dict[str, Kind] = {}
        self.item: Kind | None = None

    def see(self, value: Any, place: Place, path: str, depth: int = 0) -> None:
        """Take a value into account; `path` names it. Raises Conflict."""
        shape = type(value)
        if shape not in self._first:
            if value is None:
                return
            self._admit(shape, place, path, depth)
        if shape is dict:
            for name, each in value.items():
                known = self.fields.get(name)
                if known is None:
                    known = self._new_field(name)
                known.see(each, place, f"{path}.{name}" if depth else name, depth + 1)
        elif shape is list:
            self.item = self.item or Kind(self._keys)
            for each in value:
                self.item.see(each, place, f"{path}[]", depth + 1)
        elif shape is int and not -self._most <= value <= self._most:
            if abs(value) >= 10**BIG_DIGITS:
                raise Conflict(f"{path!r} has a number of more than {BIG_DIGITS} digits; write it as text")
            self._most, self._most_at = abs(value), place
            self._check_exact(path, place)

    def _new_field(self, name: str) -> Kind:
        self._keys[0] += 1
        if self._keys[0] > MAX_KEYS:
            raise Conflict(
                f"the objects have more than {MAX_KEYS:,} different keys, of which each would be a column or a field; "
                "write objects with free keys as JSON text"
            )
        self.fields[name] = Kind(self._keys)
        return self.fields[name]

    def _admit(self, shape: type, place: Place, path: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Conflict(f"a value is nested deeper than {MAX_DEPTH} levels; write it as JSON text")
        for other, at in self._first.items():
            # promise: input: a JSON key with values of several types is refused
            if _NAMES[other] != _NAMES[shape]:
                advice = "write it the same way in all lines"
                if {shape, other} & {dict, list}:
                    advice += ", as JSON text for example"
                raise Conflict(f"{path!r} is {_NAMES[shape]} here, but {_NAMES[other]} in {at.beside(place)}; {advice}")
        self._first[shape] = place
        self._check_exact(path, place)

    def _check_exact(self, path: str, place: Place) -> None:
        if float in self._first and self._most > EXACT:
            other = self._most_at if place == self._first[float] else self._first[float]
            where = "" if other == place else f" ({other.beside(place)})"
            raise Conflict(
                f"{path!r} has fractional numbers and a whole number over 2^53{where}, which floating point cannot "
                "hold; write it as text"
            )

    @property
    def type(self) -> pa.DataType:
        """The Arrow type. What is never more than null is text, and so are objects that are all empty."""
        if dict in self._first and self.fields:
            return pa.struct([pa.field(name, kind.type) for name, kind in self.fields.items()])
        if list in self._first and self.item is not None:
            return pa.list_(self.item.type)
        if float in self._first:
            return pa.float64()
        if int in self._first:
            return pa.int64() if self._most < 1 << 63 else pa.decimal128(BIG_DIGITS)
        return pa.bool_() if bool in self._first else pa.string()

    def as_double(self, path: str = "") -> Iterator[str]:
        """Yield the values that have whole and fractional numbers."""
        if {int, float} <= self._first.keys():
            yield path
        for name, kind in self.fields.items():
            yield from kind.as_double(f"{path}.{name}".lstrip("."))
        if self.item is not None:
            yield from self.item.as_double(f"{path}[]")
