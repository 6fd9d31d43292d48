"""The types of CSV columns: a column is a number only if every value would be written again as it stands.

So no value changes its text in a prompt: 007, 1.10, 1e5, true, dates and numbers of 20 digits stay text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

_NUMBER_STARTS = frozenset("-0123456789")


class CsvKinds:
    """Collects the types of the columns of all files of the input; each column has one type."""

    def __init__(self) -> None:
        self._kinds: dict[str, pa.DataType] = {}  # without columns that had no value yet

    def undecided(self, names: Iterable[str]) -> list[str]:
        """Return the columns that may still turn out to be text."""
        return [name for name in names if self._kinds.get(name) != pa.string()]

    def see(self, table: pa.Table) -> None:
        """Take the values of some columns into account."""
        for name, column in zip(table.column_names, table.columns, strict=True):
            values = column.drop_null().combine_chunks()
            if len(values):
                self._kinds[name] = _kind(values, self._kinds.get(name))

    def of(self, name: str) -> pa.DataType:
        """Return the type of a column: int64, double or string."""
        return self._kinds.get(name, pa.string())


def _kind(values: pa.Array, known: pa.DataType | None) -> pa.DataType:
    # most columns of text show it in their first value
    first = values[0].as_py()
    if first[:1] in _NUMBER_STARTS:
        if known in {None, pa.int64()} and _are_whole(values):
            return pa.int64()
        if known in {None, pa.float64()} and all(map(_is_fraction, values.to_pylist())):
            return pa.float64()
    return pa.string()


def _are_whole(values: pa.Array) -> bool:
    try:
        # promise: input: a CSV whole number keeps its text
        return bool(pc.all(pc.equal(values.cast(pa.int64()).cast(pa.string()), values)).as_py())
    except pa.ArrowInvalid:
        return False


def _is_fraction(text: str) -> bool:
    if text[:1] not in _NUMBER_STARTS or len(text) > 25:
        return False
    try:
        number = float(text)
    except ValueError:
        return False
    # promise: input: a CSV number with a fraction keeps its text
    return math.isfinite(number) and repr(number) == text
