"""Columns whose files have different types get one type, and every value stays the same text."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.promote import NotOne, adapt, common_type, missing_fields
from parquill.tasks.prompts.source import find_source, read_batches
from parquill.tasks.prompts.template import Templates

Pair = tuple[pa.DataType, list[Any], pa.DataType, list[Any], pa.DataType]
LATE = datetime(9999, 1, 1, 5, tzinfo=UTC).replace(tzinfo=None)
NOON = datetime(2024, 1, 1, 12, 0, 0, 7, tzinfo=UTC).replace(tzinfo=None)

PAIRS: dict[str, Pair] = {
    "null": (pa.null(), [None], pa.int64(), [1], pa.int64()),
    "null and a struct": (pa.null(), [None], pa.struct([("a", pa.int8())]), [{"a": 1}], pa.struct([("a", pa.int8())])),
    "null and a map": (
        pa.null(),
        [None],
        pa.map_(pa.string(), pa.int8()),
        [[("a", 1)]],
        pa.map_(pa.string(), pa.int8()),
    ),
    "large_string": (pa.string(), ["a", None], pa.large_string(), ["b"], pa.large_string()),
    "string_view": (pa.string_view(), ["a", None], pa.string(), ["b"], pa.string()),
    "a dictionary": (pa.dictionary(pa.int8(), pa.string()), ["a", None], pa.string(), ["b"], pa.string()),
    "two dictionaries": (
        pa.dictionary(pa.int8(), pa.string()),
        ["a", None],
        pa.dictionary(pa.int32(), pa.large_string()),
        ["b"],
        pa.large_string(),
    ),
    "binary": (pa.binary(2), [b"ab", None], pa.large_binary(), [b"abc"], pa.large_binary()),
    "binary_view": (pa.binary_view(), [b"ab", None], pa.binary(), [b"abc"], pa.binary()),
    "int8 and uint8": (pa.int8(), [-1, None], pa.uint8(), [255], pa.int16()),
    "int32 and int64": (pa.int32(), [-1, None], pa.int64(), [2**40], pa.int64()),
    "uint32 and int16": (pa.uint32(), [2**32 - 1, None], pa.int16(), [-1], pa.int64()),
    "int32 and double": (pa.int32(), [7, None], pa.float64(), [0.5], pa.float64()),
    "int64 and double": (pa.int64(), [2**53, None], pa.float64(), [0.5], pa.float64()),
    "int16 and float": (pa.int16(), [7], pa.float32(), [0.5], pa.float64()),
    "float and double": (pa.float32(), [0.1, None], pa.float64(), [0.1], pa.float64()),
    "scales": (
        pa.decimal128(3, 1),
        [Decimal("1.5"), None],
        pa.decimal128(5, 3),
        [Decimal("1.125")],
        pa.decimal128(5, 3),
    ),
    "precisions": (
        pa.decimal128(38, 0),
        [Decimal(10**37)],
        pa.decimal128(38, 9),
        [Decimal("0.5")],
        pa.decimal256(47, 9),
    ),
    "units": (pa.timestamp("ms"), [LATE, None], pa.timestamp("us"), [NOON], pa.timestamp("us")),
    "UTC": (
        pa.timestamp("us", "Etc/UTC"),
        [LATE.replace(tzinfo=UTC), None],
        pa.timestamp("ms", "+00:00"),
        [LATE.replace(tzinfo=UTC)],
        pa.timestamp("us", "UTC"),
    ),
    "dates": (pa.date32(), [date(1, 1, 1), None], pa.date64(), [date(9999, 12, 31)], pa.date32()),
    "times": (pa.time32("s"), [time(1, 2, 3), None], pa.time64("us"), [time(1, 2, 3, 4)], pa.time64("us")),
    "durations": (pa.duration("s"), [timedelta(1), None], pa.duration("us"), [timedelta(0, 0, 1)], pa.duration("us")),
    "lists of null": (pa.list_(pa.null()), [[], None, [None]], pa.list_(pa.string()), [["a"]], pa.list_(pa.string())),
    "large_list": (
        pa.list_(pa.int32()),
        [[1, None], None, []],
        pa.large_list(pa.field("element", pa.int64(), nullable=False)),
        [[2**40]],
        pa.large_list(pa.int64()),
    ),
    "a list of two": (
        pa.list_(pa.int32(), 2),
        [[1, 2], None, [3, 4]],
        pa.list_(pa.int64()),
        [[1]],
        pa.list_(pa.int64()),
    ),
    "lists of two": (
        pa.list_(pa.int32(), 2),
        [[1, 2], None, [3, 4]],
        pa.list_(pa.int64(), 2),
        [[2**40, 1]],
        pa.list_(pa.int64(), 2),
    ),
    "structs in another order": (
        pa.struct([("a", pa.int32()), pa.field("b", pa.string(), nullable=False)]),
        [{"a": 1, "b": "x"}, None],
        pa.struct([("b", pa.large_string()), ("a", pa.int64())]),
        [{"b": None, "a": 2}],
        pa.struct([("a", pa.int64()), ("b", pa.large_string())]),
    ),
    "maps": (
        pa.map_(pa.string(), pa.int32()),
        [[("a", 1), ("b", None)], None, []],
        pa.map_(pa.large_string(), pa.int64()),
        [[("c", 2**40)]],
        pa.map_(pa.large_string(), pa.int64()),
    ),
    "structs in lists": (
        pa.list_(pa.struct([("a", pa.null())])),
        [[{"a": None}, None], None],
        pa.list_(pa.struct([("a", pa.list_(pa.string()))])),
        [[{"a": ["x"]}]],
        pa.list_(pa.struct([("a", pa.list_(pa.string()))])),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_value_stays(name: str) -> None:
    """Two types have one that holds the values of both unchanged, in either order and also for a slice of an array."""
    first, some, other, more, expected = PAIRS[name]
    assert common_type(first, other) == expected
    for kind in (expected, common_type(other, first)):
        for before, values in ((first, some), (other, more)):
            column = pa.array(values, before)
            adapted = adapt(column, kind)
            adapted.validate(full=True)
            assert adapted.type == kind
            assert adapted.to_pylist() == column.to_pylist()
            if not pa.types.is_null(before) and len(column) > 1:
                part = adapt(pa.array(values * 2, before).slice(1), kind)
                part.validate(full=True)
                assert part.to_pylist() == pa.array(values * 2, before).slice(1).to_pylist()


OTHERS: dict[str, tuple[pa.DataType, pa.DataType, str]] = {
    "text and a number": (pa.string(), pa.int64(), ""),
    "text and bytes": (pa.string(), pa.binary(), ""),
    "a number and bool": (pa.int64(), pa.bool_(), ""),
    "uint64 and int64": (pa.uint64(), pa.int64(), ""),
    "a date and a timestamp": (pa.date32(), pa.timestamp("us"), ""),
    "time zones": (pa.timestamp("us", "Europe/Paris"), pa.timestamp("us", "UTC"), ""),
    "a zone and none": (pa.timestamp("us"), pa.timestamp("us", "UTC"), ""),
    "decimals of 80 digits": (pa.decimal256(76, 0), pa.decimal256(76, 4), ""),
    "a decimal and a double": (pa.decimal128(5, 1), pa.float64(), ""),
    "items": (pa.list_(pa.string()), pa.list_(pa.int8()), "[]"),
    "a list and text": (pa.list_(pa.string()), pa.string(), ""),
    "a field twice": (pa.struct([("a", pa.string())]), pa.struct([("a", pa.string()), ("a", pa.string())]), ""),
    "beside a field that is missing": (
        pa.struct([("a", pa.string()), ("b", pa.string())]),
        pa.struct([("b", pa.int8())]),
        ".b",
    ),
    "a field of a struct": (pa.struct([("a", pa.string())]), pa.struct([("a", pa.int8())]), ".a"),
    "values of a map": (pa.map_(pa.string(), pa.string()), pa.map_(pa.string(), pa.int8()), ".value"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_would_change_has_no_type(name: str) -> None:
    """If a value or its text would change, there is no common type, and the error names the location."""
    first, other, within = OTHERS[name]
    for pair in ((first, other), (other, first)):
        with pytest.raises(NotOne) as caught:
            common_type(*pair)
        assert caught.value.within == within


IN_STRUCT = pa.struct([pa.field("a", pa.int32(), nullable=False), ("c", pa.string())])
WITHOUT: dict[str, tuple[pa.DataType, list[Any], pa.DataType, list[Any], list[str]]] = {
    "a struct": (
        IN_STRUCT,
        [{"a": 1, "c": "x"}, None],
        pa.struct([("b", pa.list_(pa.int8())), ("a", pa.int64())]),
        [{"b": [1], "a": 2}, {"b": None, "a": None}],
        [".b"],
    ),
    "none in common": (IN_STRUCT, [{"a": 1, "c": "x"}], pa.struct([("b", pa.int8())]), [{"b": 1}], [".b"]),
    "in lists": (
        pa.large_list(IN_STRUCT),
        [[{"a": 1, "c": None}, None], None, []],
        pa.list_(pa.struct([("c", pa.string()), ("b", IN_STRUCT)])),
        [[{"c": "x", "b": {"a": 3, "c": "y"}}, {"c": "z", "b": None}]],
        ["[].b"],
    ),
    "in maps": (
        pa.map_(pa.string(), IN_STRUCT),
        [[("k", {"a": 1, "c": None})], None],
        pa.map_(pa.string(), pa.struct([("b", pa.dictionary(pa.int8(), pa.string()))])),
        [[("k", {"b": "x"})]],
        [".value.b"],
    ),
    "in a struct": (
        pa.struct([("s", IN_STRUCT)]),
        [{"s": {"a": 1, "c": "x"}}, {"s": None}],
        pa.struct([("s", pa.struct([("b", pa.decimal128(5, 1))]))]),
        [{"s": {"b": Decimal("0.5")}}],
        [".s.b"],
    ),
}


def _known(value: Any) -> Any:
    """Return the value without fields that are null."""
    if isinstance(value, dict):
        return {name: _known(inner) for name, inner in value.items() if inner is not None}
    return [_known(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", WITHOUT)
def test_a_field_that_one_struct_lacks(name: str) -> None:
    """Structs get one type with the fields of both. A field that one lacks is null in its rows, and all else stays."""
    first, some, other, more, missing = WITHOUT[name]
    kind = common_type(first, other)
    assert list(missing_fields(first, kind)) == missing
    for before, values in ((first, some), (other, more)):
        for column in (pa.array(values, before), pa.array(values * 2, before).slice(1)):
            adapted = adapt(column, kind)
            adapted.validate(full=True)
            assert adapted.type == kind
            assert adapted.null_count == column.null_count
            assert _known(adapted.to_pylist()) == _known(column.to_pylist())
    names = [set(re.findall(r"\w+(?=:)", str(each))) for each in (kind, first, other)]
    assert names[0] >= names[1] | names[2]


def _write(folder: Path, **columns: pa.Array) -> Path:
    for name, column in columns.items():
        pq.write_table(pa.table({"text": ["x"] * len(column), "value": column}), folder / f"{name}.parquet")
    return folder


SAME_VALUES = (
    "large_string",
    "string_view",
    "a dictionary",
    "int8 and uint8",
    "int32 and double",
    "float and double",
    "scales",
    "units",
    "UTC",
    "dates",
    "times",
    "large_list",
)


@pytest.mark.parametrize("name", SAME_VALUES)
def test_a_prompt_does_not_depend_on_the_file(tmp_path: Path, name: str) -> None:
    """A value is the same text in a prompt, whichever file holds it."""
    first, some, *_, expected = PAIRS[name]
    column = pa.array(some, first)
    source = find_source(str(_write(tmp_path, a=column, b=adapt(column, expected))))
    show = "{{ value | default('none', true)" + (" | tojson }}" if name == "large_list" else " }}")
    template = Templates(None, show, source.schema.names, None)
    shown = [
        [template.render({"value": value}) for value in batch.column("value").to_pylist()]
        for _, _, batch in read_batches(source)
    ]
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (pa.array([2**53 + 1]), pa.array([0.5])),
        (pa.array([LATE], pa.timestamp("us")), pa.array([1], pa.timestamp("ns"))),
    ],
)
def test_a_value_that_the_type_cannot_hold(tmp_path: Path, first: pa.Array, other: pa.Array) -> None:
    """A value that the common type cannot hold is refused by file and column and never changed.

    Examples are an integer that no double equals and a year that nanoseconds do not reach.
    """
    source = find_source(str(_write(tmp_path, a=first, b=other)))
    with pytest.raises(BadInput) as caught:
        list(read_batches(source))
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}/a.parquet: the column 'value' is {first.type} here but is read as {other.type}"
    )
    assert "write the column with one type in all files" in message
