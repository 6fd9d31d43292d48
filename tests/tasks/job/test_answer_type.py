"""A JSON schema becomes the Arrow type of `parsed`, and an answer becomes a value of that type."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadJob
from parquill.tasks.job.answer_type import parsed_type, shape_value
from parquill.tasks.llm.answer_format import AnswerFormat


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _type(schema: Any) -> pa.DataType:
    """Return the type of a property with this schema."""
    found = parsed_type(_object(a=schema))
    assert found is not None
    return found.field("a").type


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, pa.string()),
        ({"type": "integer"}, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": ["integer", "null"]}, pa.int64()),
        ({"type": ["null", "array"], "items": {"type": "number"}}, pa.list_(pa.float64())),
        ({"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}, pa.list_(pa.list_(pa.int64()))),
        ({"type": "array"}, pa.string()),
        ({"type": "array", "items": True}, pa.list_(pa.string())),
        ({"type": "object"}, pa.string()),
        ({"type": "object", "properties": {}}, pa.string()),
        ({"type": "object", "properties": {"b": {"type": "integer"}}}, pa.struct([("b", pa.int64())])),
        ({"type": ["integer", "string"]}, pa.string()),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, pa.int64()),
        ({"oneOf": [{"type": "null"}, {"type": "array", "items": {"type": "string"}}]}, pa.list_(pa.string())),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, pa.string()),
        ({"enum": ["x", 1]}, pa.string()),
        ({}, pa.string()),
        (True, pa.string()),
        ({"$ref": 5}, pa.string()),
    ],
)
def test_types_of_a_schema(schema: Any, kind: pa.DataType) -> None:
    """A schema with a fixed shape gets its Arrow type; a value without one is kept as JSON text."""
    assert _type(schema) == kind


def test_no_schema_no_type() -> None:
    """A job without a response_format has no `parsed`."""
    assert parsed_type(None) is None


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "string"},
        {"type": "array", "items": _object(a={})},
        {"anyOf": [_object(a={}), _object(b={})]},
    ],
)
def test_a_schema_without_properties_is_refused(schema: dict[str, Any]) -> None:
    """A schema that describes no object with properties is refused before anything is paid: `parsed` is a struct."""
    with pytest.raises(BadJob, match="must describe an object with properties"):
        parsed_type(schema)


def test_references_are_followed() -> None:
    """A $ref into the schema itself has the type of its target, also if the name is escaped."""
    schema = {
        "$ref": "#/$defs/a~1b~0c",
        "$defs": {"a/b~c": _object(inner={"$ref": "#/$defs/number"}), "number": {"type": "integer"}},
    }
    assert parsed_type(schema) == pa.struct([("inner", pa.int64())])


def test_a_circle_of_references_ends() -> None:
    """A schema that contains itself gets a type of bounded depth, and answers of any depth fit it.

    A circle of references without anything else is refused.
    """
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {"node": _object(text={"type": "string"}, next={"$ref": "#/$defs/node"})},
    }
    kind = parsed_type(schema)
    assert kind is not None
    answer: Any = {"text": "end"}
    for _ in range(50):
        answer = {"text": "x", "next": answer}
    assert pa.array([shape_value(answer, kind)], kind).type == kind
    with pytest.raises(BadJob):
        parsed_type({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}})


@pytest.mark.parametrize(
    ("value", "kind", "fitted"),
    [
        (None, pa.int64(), None),
        (None, pa.struct([("a", pa.string())]), None),
        (3.0, pa.int64(), 3),
        (3, pa.float64(), 3.0),
        (True, pa.bool_(), True),
        ("x", pa.string(), "x"),
        ({"b": [1]}, pa.string(), '{"b":[1]}'),
        ([1, "x"], pa.string(), '[1,"x"]'),
        (5, pa.string(), "5"),
        (True, pa.string(), "true"),
        ({"a": 1, "extra": 2}, pa.struct([("a", pa.int64()), ("b", pa.string())]), {"a": 1, "b": None}),
        ([{"a": 1}, {}], pa.list_(pa.struct([("a", pa.int64())])), [{"a": 1}, {"a": None}]),
    ],
)
def test_values_are_shaped_for_their_type(value: Any, kind: pa.DataType, fitted: Any) -> None:
    """A JSON value is converted to its column: a whole float to an integer, a value without a shape to JSON text."""
    found = shape_value(value, kind)
    assert found == fitted
    assert type(found) is type(fitted)
    assert pa.array([found], kind).to_pylist() == [fitted]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 1e300])
def test_a_number_beyond_64_bits_is_told(value: float) -> None:
    """A whole number that the column cannot hold raises an error and does not become another number."""
    with pytest.raises(OverflowError):
        shape_value(value, pa.int64())
    assert [shape_value(limit, pa.int64()) for limit in (2**63 - 1, -(2**63))] == [2**63 - 1, -(2**63)]


LEAF = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "number"},
        {"type": "boolean"},
        {"type": ["integer", "null"]},
        {},
    ]
)
SCHEMAS = st.recursive(
    LEAF,
    lambda inner: (
        inner.map(lambda items: {"type": "array", "items": items})
        | st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(lambda found: _object(**found))
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=250)
@given(st.dictionaries(st.sampled_from("abc"), SCHEMAS, min_size=1, max_size=3), VALUES)
def test_every_valid_answer_fits_its_column(properties: dict[str, Any], value: Any) -> None:
    """Every answer that a schema accepts can be written into the column of that schema."""
    answers = AnswerFormat(_object(**properties))
    parsed = answers.parse(json.dumps(value))
    if parsed is not None:
        assert pa.array([shape_value(parsed, answers.kind)], answers.kind).null_count == 0


@pytest.mark.parametrize("reference", ["#/nowhere", "https://example.com/schema"])
def test_a_reference_to_nothing_is_refused(reference: str) -> None:
    """A $ref that points at nothing, or to another host, is refused before the run pays for invalid answers."""
    with pytest.raises(BadJob, match="points at nothing"):
        parsed_type(_object(a={"$ref": reference}))
