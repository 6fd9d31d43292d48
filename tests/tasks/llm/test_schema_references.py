"""Parquill accepts references that resolve: an $anchor, an array index, a percent-escape, an embedded $id."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.llm.answer_format import AnswerFormat

NUMBER = {"type": "integer"}


@pytest.mark.parametrize(
    ("reference", "more"),
    [
        ("#number", {"$defs": {"n": {"$anchor": "number", **NUMBER}}}),
        ("#/$defs/list/anyOf/0", {"$defs": {"list": {"anyOf": [NUMBER]}}}),
        ("#/$defs/a%20b", {"$defs": {"a b": NUMBER}}),
        ("number.json", {"$id": "https://example.com/", "$defs": {"n": {"$id": "number.json", **NUMBER}}}),
    ],
)
def test_a_reference_that_resolves_is_no_fault(reference: str, more: dict[str, Any]) -> None:
    """Parquill checks an answer against any reference that JSON Schema resolves without a network."""
    found = AnswerFormat({"type": "object", "properties": {"a": {"$ref": reference}}, **more})
    assert found.parse('{"a": 1}') is not None
    assert found.parse('{"a": "x"}') is None


def test_a_value_that_looks_like_a_reference_is_none() -> None:
    """`const`, `enum`, `default` and `examples` hold values, not schemas: an answer with exactly that value matches."""
    found = AnswerFormat({"type": "object", "properties": {"a": {"const": {"$ref": "x"}}}})
    assert found.parse('{"a": {"$ref": "x"}}') is not None
    assert found.parse('{"a": 1}') is None
