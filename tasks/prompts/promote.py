"""Finds one type for a column that files store in different types, and converts the values of each file to it.

Only promotions that keep every value are made: null to any type, between kinds of strings, of binaries and of lists, a
dictionary to its values, numbers to wider ones, decimals, units of time, spellings of UTC, and the fields of a struct:
their order and nullability, and those that only one file has, which are null in the rows of the other. If the type may
not hold each value (whole numbers as floating point, microseconds as nanoseconds), the values are checked when they are
read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_UNITS = ("s", "ms", "us", "ns")
_UTC = frozenset({"UTC", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal", "Z", "utc"})
_NO_OFFSET = frozenset({"+00:00", "-00:00", "+0000", "+00"})
_MAX_DECIMAL_128, _MAX_DECIMAL_256 = 38, 76
types = pa.types


class NotOne(Exception):
    """No type holds both types without loss. `within` is where in the column they differ ("" for the whole column)."""

    def __init__(self, within: str, first: pa.DataType, other: pa.DataType) -> None:
        super().__init__(within)
        self.within, self.first, self.other = within, first, other


def common_type(first: pa.DataType, other: pa.DataType, within: str = "") -> pa.DataType:  # noqa: PLR0911 - by kinds
    """Return the type that holds all values of two types. Raises NotOne."""
    if types.is_null(first) or types.is_null(other):
        return first if types.is_null(other) else other
    if _is_list(first) and _is_list(other):
        return _common_list(first, other, within)
    if types.is_struct(first) and types.is_struct(other):
        return _common_struct(first, other, within)
    if types.is_map(first) and types.is_map(other):
        keys = common_type(first.key_type, other.key_type, f"{within}.key")
        return pa.map_(keys, _common_field(first.item_field, other.item_field, f"{within}.value"))
    if first == other:
        return first
    if types.is_dictionary(first) or types.is_dictionary(other):
        return common_type(_values_of(first), _values_of(other), within)
    found = _common_leaf(first, other)
    if found is None:
        raise NotOne(within, first, other)
    return found


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _values_of(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def _common_field(first: pa.Field, other: pa.Field, within: str) -> pa.Field:
    kind = common_type(first.type, other.type, within)
    return pa.field(first.name, kind, first.nullable or other.nullable, first.metadata)


def _common_list(first: pa.DataType, other: pa.DataType, within: str) -> pa.DataType:
    item = _common_field(first.value_field, other.value_field, f"{within}[]")
    if first.id == other.id and (not types.is_fixed_size_list(first) or first.list_size == other.list_size):
        if types.is_fixed_size_list(first):
            return pa.list_(item, first.list_size)
        if types.is_list(first):
            return pa.list_(item)
    if first == other:
        return first
    wide = [kind for kind in (first, other) if types.is_large_list(kind) or types.is_large_list_view(kind)]
    return pa.large_list(item) if wide else pa.list_(item)


def _common_struct(first: pa.DataType, other: pa.DataType, within: str) -> pa.DataType:
    fields, others = ({field.name: field for field in kind} for kind in (first, other))
    if len(fields) < first.num_fields or len(others) < other.num_fields:  # a name twice
        if first == other:
            return first
        raise NotOne(within, first, other)
    return pa.struct(
        [
            _common_field(fields[name], others[name], f"{within}.{name}")
            if name in fields and name in others
            else (fields.get(name) or others[name]).with_nullable(True)
            for name in {**fields, **others}
        ]
    )


def missing_fields(kind: pa.DataType, whole: pa.DataType, within: str = "") -> Iterator[str]:
    """Yield the places of the fields of structs that `kind` lacks of a common type with others, also within lists."""
    if types.is_dictionary(kind) or types.is_null(kind):
        return
    if types.is_struct(whole):
        own = {field.name: field.type for field in kind}
        for field in whole:
            name = f"{within}.{field.name}"
            if field.name not in own:
                yield name
            else:
                yield from missing_fields(own[field.name], field.type, name)
    elif types.is_map(whole):
        yield from missing_fields(kind.key_type, whole.key_type, f"{within}.key")
        yield from missing_fields(kind.item_type, whole.item_type, f"{within}.value")
    elif _is_list(whole):
        yield from missing_fields(kind.value_type, whole.value_type, f"{within}[]")


def _common_leaf(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    for found in (_text, _binary, _number, _decimal, _timestamp, _time, _date):
        if (kind := found(first, other)) is not None:
            return kind
    return None


def _all(test: Callable[[pa.DataType], bool], *kinds: pa.DataType) -> bool:
    return all(map(test, kinds))


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _text(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not _all(_is_text, first, other):
        return None
    return pa.large_string() if pa.large_string() in {first, other} else pa.string()


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _binary(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not _all(_is_binary, first, other):
        return None
    return pa.large_binary() if pa.large_binary() in {first, other} else pa.binary()


def _number(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    kinds = (first, other)
    if not all(types.is_integer(kind) or types.is_floating(kind) for kind in kinds):
        return None
    if any(map(types.is_floating, kinds)):
        # whole numbers are checked when they are read: many over 2**53 have no double
        narrow = all(map(types.is_floating, kinds)) and pa.float64() not in kinds
        return pa.float32() if narrow else pa.float64()
    signed = [kind.bit_width for kind in kinds if types.is_signed_integer(kind)]
    unsigned = [kind.bit_width for kind in kinds if types.is_unsigned_integer(kind)]
    if not signed:
        return {16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}[max(unsigned)]
    width = max(*signed, 2 * max(unsigned, default=0), 0)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(width)


def _decimal(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not _all(types.is_decimal, first, other):
        return None
    scale = max(first.scale, other.scale)
    precision = max(first.precision - first.scale, other.precision - other.scale) + scale
    if precision > _MAX_DECIMAL_256:
        return None
    wide = precision > _MAX_DECIMAL_128 or any(map(types.is_decimal256, (first, other)))
    return pa.decimal256(precision, scale) if wide else pa.decimal128(precision, scale)


def _finer(first: pa.DataType, other: pa.DataType) -> str:
    return max(str(first.unit), str(other.unit), key=_UNITS.index)


def _is_utc(zone: str | None) -> bool:
    return zone in _UTC or zone in _NO_OFFSET


def _timestamp(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not _all(types.is_timestamp, first, other):
        return None
    if first.tz == other.tz:
        return pa.timestamp(_finer(first, other), first.tz)
    # promise: input: timestamps of different time zones are not merged
    return pa.timestamp(_finer(first, other), "UTC") if _is_utc(first.tz) and _is_utc(other.tz) else None


def _time(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if _all(types.is_duration, first, other):
        return pa.duration(_finer(first, other))
    if not _all(types.is_time, first, other):
        return None
    unit = _finer(first, other)
    return pa.time32(unit) if unit in {"s", "ms"} else pa.time64(unit)


def _date(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    # in Parquet both are whole days
    return pa.date32() if _all(types.is_date, first, other) else None


def adapt(column: pa.Array, kind: pa.DataType) -> pa.Array:  # noqa: PLR0911 - by kinds
    """Convert a column to its type in the whole input. Raises ArrowInvalid if a value would change."""
    if column.type == kind:
        return column
    if types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if types.is_dictionary(column.type):
        return adapt(column.dictionary_decode(), kind)
    if types.is_struct(kind):
        parts = dict(zip([field.name for field in column.type], column.flatten(), strict=True))
        inner = [
            adapt(parts[field.name], field.type) if field.name in parts else pa.nulls(len(column), field.type)
            for field in kind
        ]
        return pa.StructArray.from_arrays(inner, fields=list(kind), mask=column.is_null())
    if types.is_map(kind):
        return _adapt_map(column, kind)
    if _is_list(kind):
        return _adapt_list(column, kind)
    # promise: input: converting a column to a common type never changes a value
    return column.cast(kind)


def _adapt_list(column: pa.Array, kind: pa.DataType) -> pa.Array:
    values = adapt(column.flatten(), kind.value_type)
    if types.is_fixed_size_list(kind):
        # the items of a null are not among the values, but take up places
        places = np.repeat(~column.is_null().to_numpy(zero_copy_only=False), kind.list_size)
        filled = np.where(places, np.cumsum(places) - 1, 0)
        spread = values.take(pa.array(filled, mask=~places)) if len(values) else pa.nulls(len(filled), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(spread, type=kind, mask=column.is_null())
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    is_large = types.is_large_list(kind)
    offsets = pa.array(ends, pa.int64() if is_large else pa.int32())
    maker = pa.LargeListArray if is_large else pa.ListArray
    return maker.from_arrays(offsets, values, type=kind, mask=column.is_null())


def _adapt_map(column: pa.Array, kind: pa.DataType) -> pa.Array:
    ends = column.offsets.to_numpy()
    first, count = int(ends[0]), int(ends[-1] - ends[0])
    keys = adapt(column.keys.slice(first, count), kind.key_type)
    items = adapt(column.items.slice(first, count), kind.item_type)
    offsets = pa.array(ends - ends[0], pa.int32())
    return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=column.is_null())
