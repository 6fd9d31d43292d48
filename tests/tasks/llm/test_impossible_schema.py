"""A schema that no answer can match, such as a $ref to a missing definition, is refused before anything is paid."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.llm.answer_format import AnswerFormat


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/misspelt"}}, "$defs": {"mispelt": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.com/schema.json"}}},
        {"$schema": [], "type": "object", "properties": {"a": {}}},
        {"$schema": 5, "type": "object", "properties": {"a": {}}},
    ],
    ids=str,
)
def test_a_schema_that_cannot_work_is_refused_before_paying(schema: dict[str, Any]) -> None:
    """Parquill finds a mistake in a schema when it loads the schema."""
    with pytest.raises(BadJob, match="response_format"):
        AnswerFormat(schema)
