"""OpenAI's rules for strict schemas are checked before sending, and a refusal names the location in the schema."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.job.response_format import schema_of
from parquill.tasks.job.strict_schema import check_strict

OPENAI = "https://api.openai.com/v1"
CLOSED = {"type": "object", "additionalProperties": False}
TEXT = {"type": "string"}
# as pydantic writes `class Answer(BaseModel): a: str; b: int | None = None`
PYDANTIC = {
    "type": "object",
    "title": "Answer",
    "properties": {
        "a": {"type": "string", "title": "A"},
        "b": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "B"},
    },
    "required": ["a"],
}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**CLOSED, "properties": properties, "required": list(properties), **more}


def _check(response_format: Any, base_url: str = OPENAI, model: str = "gpt-4o-mini", api: str = "chat") -> None:
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "max_output_tokens": 7}
    endpoint = {"base_url": base_url, "api_key_env": "K", "api": api}
    check_strict(make_job({**least, "model": model, "endpoint": endpoint, "response_format": response_format}))


def _nested(levels: int) -> dict[str, Any]:
    found = _object({"a": TEXT})
    for _ in range(levels - 1):
        found = _object({"a": {"type": "array", "items": found}})
    return found


GOOD: dict[str, Any] = {
    "plain": _object({"a": TEXT, "b": {"type": ["integer", "null"]}}),
    "nothing inside": _object({}),
    "any of": _object({"a": {"anyOf": [TEXT, {"type": "null"}, _object({"b": TEXT})], "description": "x"}}),
    "constraints": _object(
        {
            "a": {"type": "string", "pattern": r"^\(?=x$", "format": "date-time"},
            "b": {"type": "number", "multipleOf": 0.01, "minimum": 0, "exclusiveMaximum": 9},
            "c": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3},
        }
    ),
    "enum and const": _object({"a": {"enum": ["x", "y"]}, "b": {"const": "x"}, "c": {"type": "string", "enum": ["z"]}}),
    "definitions": _object(
        {"a": {"$ref": "#/$defs/part"}, "b": {"$ref": "#"}},
        **{"$defs": {"part": _object({"next": {"anyOf": [{"$ref": "#/$defs/part"}, {"type": "null"}]}})}},
    ),
    "titles": {**_object({"a": {**TEXT, "title": "A"}}), "title": "X", "$schema": "x", "description": "y"},
    "named like keywords": _object({"default": TEXT, "allOf": TEXT, "not": {"type": "integer"}}),
    "ten levels": _nested(10),
    "thousand values": _object({"a": {"type": "string", "enum": [f"{n:04}" for n in range(1_000)]}}),
    "many properties": _object({f"p{n}": TEXT for n in range(5_000)}),
}
BAD: dict[str, tuple[Any, str, str]] = {
    "open": ({"type": "object", "properties": {}}, "#", "`additionalProperties: false`"),
    "open by choice": ({**CLOSED, "additionalProperties": True}, "#", "`additionalProperties: false`"),
    "open inside": (_object({"a": {"type": "object", "properties": {}}}), "#/properties/a", "additionalProperties"),
    "open in a list": (
        _object({"a": {"type": "array", "items": {"type": "object"}}}),
        "#/properties/a/items",
        "additionalProperties",
    ),
    "open in a branch": (
        _object({"a": {"anyOf": [TEXT, {"type": "object"}]}}),
        "#/properties/a/anyOf/1",
        "additionalProperties",
    ),
    "open in a definition": (
        _object({"a": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": {"type": "object"}}}),
        "#/$defs/x",
        "additionalProperties",
    ),
    "optional": ({**CLOSED, "properties": {"a": TEXT, "b": TEXT}, "required": ["a"]}, "#", "`required` lacks 'b'"),
    "nothing required": ({**CLOSED, "properties": {"a": TEXT}}, "#", "`required` lacks 'a'"),
    "root of branches": ({"anyOf": [_object({"a": TEXT})]}, "#", "`type: object`"),
    "root by reference": ({"$ref": "#/$defs/x", "$defs": {"x": _object({})}}, "#", "`type: object`"),
    "default": (_object({"a": {**TEXT, "default": "x"}}), "#/properties/a", "'default' is not allowed"),
    "all of": (_object({"a": {"allOf": [TEXT], "type": "string"}}), "#/properties/a", "'allOf' is not allowed"),
    "one of": (_object({"a": {"oneOf": [TEXT], "type": "string"}}), "#/properties/a", "'oneOf' is not allowed"),
    "not": (_object({"a": {"type": "string", "not": {"const": "x"}}}), "#/properties/a", "'not' is not allowed"),
    "unique": (
        _object({"a": {"type": "array", "items": TEXT, "uniqueItems": True}}),
        "#/properties/a",
        "'uniqueItems'",
    ),
    "patterns": (_object({"a": {**CLOSED, "patternProperties": {"x": TEXT}}}), "#/properties/a", "'patternProperties'"),
    "format": (_object({"a": {"type": "string", "format": "uri"}}), "#/properties/a", "the format is not one of date"),
    "look ahead": (_object({"a": {"type": "string", "pattern": "(?=x)"}}), "#/properties/a", "has a lookahead"),
    "look behind": (_object({"a": {"type": "string", "pattern": "(?<!x)y"}}), "#/properties/a", "has a lookahead"),
    "no type": (_object({"a": {"description": "x"}}), "#/properties/a", "there is no `type`"),
    "no items": (_object({"a": {"type": "array"}}), "#/properties/a", "no `items`"),
    "beside a reference": (
        _object({"a": {"$ref": "#/$defs/x", "description": "y"}}, **{"$defs": {"x": TEXT}}),
        "#/properties/a",
        "'description' is next to $ref",
    ),
    "a name to be escaped": (_object({"a/b~c": {"type": "object"}}), "#/properties/a~1b~0c", "additionalProperties"),
    "eleven levels": (_nested(11), "#" + "/properties/a/items" * 10, "more than 10 levels"),
    "too many values": (
        _object({"a": {"type": "integer", "enum": list(range(1_001))}}),
        "#/properties/a",
        "more than 1,000 values",
    ),
    "a large enum": (
        _object({"a": {"type": "string", "enum": [f"{n:0100}" for n in range(251)]}}),
        "#/properties/a",
        "over 15,000 characters",
    ),
    "too many properties": (_object({f"p{n}": TEXT for n in range(5_001)}), "#", "more than 5,000 properties"),
    "too many characters": (_object({"a" * 120_001: TEXT}), "#", "more than 120,000 characters"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_openai_takes_is_let_through(name: str) -> None:
    """A schema that follows OpenAI's rules is accepted, also at their limits."""
    _check(GOOD[name])
    assert schema_of(GOOD[name]) == GOOD[name]


@pytest.mark.parametrize("name", BAD)
def test_what_openai_refuses_is_refused_with_its_place(name: str) -> None:
    """A refusal names the rule that a schema breaks, with a JSON pointer and a way out."""
    schema, pointer, expected = BAD[name]
    with pytest.raises(BadJob) as caught:
        _check(schema)
    assert f" at {pointer} " in str(caught.value)
    assert expected in str(caught.value)
    assert "strict: false" in str(caught.value)


def test_a_schema_of_pydantic() -> None:
    """A schema from pydantic is refused in one sentence that says what to do, and is accepted with `strict: false`."""
    with pytest.raises(BadJob) as caught:
        _check(PYDANTIC)
    assert str(caught.value) == (
        "`response_format`: OpenAI refuses this schema as a strict one: at # the object lacks `additionalProperties: "
        "false` (and 1 more in other places). Change it there, or set `strict: false` (response_format: {type: "
        "json_schema, strict: false, schema: ...})"
    )
    _check({"type": "json_schema", "strict": False, "schema": PYDANTIC})
    _check({"type": "json_schema", "json_schema": {"name": "x", "schema": PYDANTIC}})


@pytest.mark.parametrize(
    ("base_url", "is_checked"),
    [
        (OPENAI, True),
        ("https://eu.api.openai.com/v1", True),
        ("https://acme.openai.azure.com/openai/v1", True),
        ("https://acme.openai.azure.com/openai/deployments/x", True),
        ("https://acme.cognitiveservices.azure.com/openai/v1", True),
        ("https://acme.services.ai.azure.com/openai/v1", True),
        ("https://acme.services.ai.azure.com/models", False),
        ("https://acme.openai.azure.com.example.com/openai/v1", False),
        ("https://openrouter.ai/api/v1", False),
        ("http://127.0.0.1:1/v1", False),
    ],
)
def test_other_services_have_rules_of_their_own(base_url: str, *, is_checked: bool) -> None:
    """Only requests to OpenAI's models at OpenAI or Azure are checked against OpenAI's rules."""
    if not is_checked:
        return _check(PYDANTIC, base_url)
    with pytest.raises(BadJob):
        _check(PYDANTIC, base_url)
    return _check({"type": "json_object"}, base_url)


def test_a_fine_tuned_model_takes_less() -> None:
    """A strict schema for a fine-tuned model is refused if it constrains values."""
    schema = _object({"a": {"type": "string", "pattern": "x"}})
    _check(schema)
    with pytest.raises(BadJob, match="at #/properties/a 'pattern' is not allowed"):
        _check(schema, model="ft:gpt-4o-mini-2024-07-18:acme::1")
