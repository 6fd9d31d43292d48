"""Parquill checks each answer against the job's response_format.

An answer that does not match is paid for and `invalid`.
"""

from __future__ import annotations

import json
import socket
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadJob
from parquill.tasks.llm.answer_format import AnswerFormat

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": ["integer", "null"], "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def person() -> AnswerFormat:
    return AnswerFormat(PERSON)


def test_a_matching_answer_is_parsed(person: AnswerFormat) -> None:
    """An answer that matches the schema is returned as JSON, and the schema gives the type of `parsed`."""
    assert person.parse('{"name": "Ann \\u00e9", "age": 5}') == {"name": "Ann \u00e9", "age": 5}
    assert person.parse(' {"age": null, "name": "{{ 7*7 }}"}\n') == {"name": "{{ 7*7 }}", "age": None}
    assert person.kind == pa.struct([("name", pa.string()), ("age", pa.int64())])


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "Ann",
        "null",
        "[]",
        '"Ann"',
        "{}",
        '{"name": "Ann"}',
        '{"name": "", "age": 5}',
        '{"name": "Ann", "age": -1}',
        '{"name": "Ann", "age": "5"}',
        '{"name": "Ann", "age": 5.5}',
        '{"name": "Ann", "age": true}',
        '{"name": "Ann", "age": 5, "extra": 1}',
        '{"name": "Ann", "age": 9223372036854775808}',
        '{"name": "Ann", "age": 1e300}',
        '{"name": "Ann", "age": 1e999}',
        '{"name": "Ann", "age": NaN}',
        '{"name": "Ann", "age": 5',
        '{"name": "\\ud800", "age": 5}',
        "[" * 200_000,
        '{"name":' * 200_000,
    ],
    ids=lambda text: str(text)[:45],
)
def test_what_does_not_match_is_none(person: AnswerFormat, text: str | None) -> None:
    """`parse` returns None for a missing, wrong, extra, torn, wrapped, endless or unwritable answer."""
    assert person.parse(text) is None


@settings(max_examples=200)
@given(
    st.text(max_size=40)
    | st.dictionaries(st.sampled_from(["name", "age"]), st.integers() | st.text(max_size=3)).map(json.dumps)
)
def test_any_text_is_parsed_or_none(person: AnswerFormat, text: str) -> None:
    """For any text, `parse` returns a person or None and never raises."""
    found = person.parse(text)
    if found is not None:
        assert found.keys() == {"name", "age"}
        assert found["name"]
        assert found["age"] is None or found["age"] >= 0


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"type": "object", "properties": {"a": {"type": "str"}}},
        {"type": "object", "properties": ["a"]},
        {"type": "object", "properties": {"a": 5}},
        {"type": "object", "properties": {"a": {"pattern": "("}}},
        {"type": "object", "properties": {"a": {}}, "required": "a"},
        {"type": "object", "properties": {"a": {"minimum": "1"}}},
    ],
)
def test_what_is_no_schema_is_refused(schema: dict[str, Any]) -> None:
    """A schema with a mistake is refused before anything is paid."""
    with pytest.raises(BadJob, match="`response_format` is not a JSON schema: "):
        AnswerFormat(schema)


def test_older_drafts_keep_their_meaning() -> None:
    """`$schema` selects the draft: draft 4 allows a boolean exclusiveMinimum."""
    properties = {"a": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}}
    old = AnswerFormat(
        {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object", "properties": properties}
    )
    assert (old.parse('{"a": 0}'), old.parse('{"a": 1}')) == (None, {"a": 1})
    with pytest.raises(BadJob):
        AnswerFormat({"type": "object", "properties": properties})


def test_references_into_the_schema_are_followed() -> None:
    """Parquill checks an answer against the definition that a $ref names."""
    definitions = {"positive": {"type": "integer", "exclusiveMinimum": 0}}
    found = AnswerFormat({"type": "object", "properties": {"a": {"$ref": "#/$defs/positive"}}, "$defs": definitions})
    assert (found.parse('{"a": 0}'), found.parse('{"a": 1}')) == (None, {"a": 1})


def test_a_reference_to_another_host_is_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema cannot make Parquill open a connection: a reference to another host is refused."""

    def closed(*_: object, **__: object) -> None:
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket, "create_connection", closed)
    monkeypatch.setattr(socket.socket, "connect", closed)
    with pytest.raises(BadJob, match="points at nothing in the schema"):
        AnswerFormat({"type": "object", "properties": {"a": {"$ref": "http://localhost:9/schema.json"}}})


def test_whole_floats_are_integers() -> None:
    """A JSON schema accepts 1.0 as an integer."""
    assert AnswerFormat({"type": "object", "properties": {"a": {"type": "integer"}}}).parse('{"a": 1.0}') == {"a": 1.0}


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (
            {"multipleOf": 0.01},
            ["0.07", "4.35", "1.1", "19.99", "1e3", "123456789012345.67", "1E-2"],
            ["0.075", "1e-3"],
        ),
        ({"multipleOf": 0.1}, ["0.3", "0.7", "-1.1"], ["0.35"]),
        ({"maximum": 0.1}, ["0.1", "0.10", "1e-1"], ["0.10000000000000000001"]),
        ({"exclusiveMinimum": 0.1}, ["0.1000000000000000000001"], ["0.1"]),
        ({"enum": [0.1, 2]}, ["0.1", "0.10", "2.0", "2"], ["0.10000000000000000001", "2.5"]),
        ({"const": 0.3}, ["0.3", "0.300"], ["0.30000000000000004", "0.29999999999999998"]),
        ({"type": "integer"}, ["1.0", "1e2", "9223372036854775807"], ["1.5", "9223372036854775808", "true", "1e30"]),
        ({"type": "integer", "multipleOf": 3}, ["9007199254740993", "-3", "0"], ["9007199254740992"]),
    ],
    ids=str,
)
def test_numbers_are_checked_as_they_are_written(rule: dict[str, Any], good: list[str], bad: list[str]) -> None:
    """Parquill checks a number as a decimal with all its digits."""
    if "const" in rule or "enum" in rule:
        rule = {**rule, "type": "number"}
    answers = AnswerFormat({"type": "object", "properties": {"a": {"type": "number", **rule}}, "required": ["a"]})
    assert [text for text in good if answers.parse(f'{{"a": {text}}}') is None] == []
    assert [text for text in bad if answers.parse(f'{{"a": {text}}}') is not None] == []


def test_what_is_kept_of_numbers() -> None:
    """A 64-bit integer keeps all its digits, and so does a number in a value that is kept as JSON text."""
    properties = {"whole": {"type": "integer"}, "part": {"type": "number"}, "any": {}}
    answers = AnswerFormat({"type": "object", "properties": properties})
    text = '{"whole": 9007199254740993.0, "part": 0.1, "any": [0.10, 12345678901234567890123, 1e2]}'
    assert answers.parse(text) == {
        "whole": 9007199254740993,
        "part": 0.1,
        "any": "[0.10,12345678901234567890123,1E+2]",
    }


@pytest.mark.parametrize(
    "number",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "1e999999999",
        "1e-999999999",
        "01",
        "+1",
        ".5",
        "1.",
        "0x1",
        "9" * 5_000,
    ],
)
def test_what_is_no_number(number: str) -> None:
    """`parse` quickly returns None for a number that JSON does not allow or that no column can hold."""
    answers = AnswerFormat({"type": "object", "properties": {"a": {"type": "number", "multipleOf": 0.5}}})
    assert answers.parse(f'{{"a": {number}}}') is None
    if len(number) < 12:
        assert AnswerFormat({"type": "object", "properties": {"a": {}}}).parse(f'{{"a": [{number}]}}') in (
            None,
            {"a": "[1E+400]"},
        )
