"""A recursive schema with several references compiles within a bound."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.job import answer_type as schemas

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "left": {"$ref": "#/$defs/node"},
                "right": {"$ref": "#/$defs/node"},
            },
        }
    },
}


def test_a_recursive_schema_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that contains itself twice is compiled in a bounded number of steps."""
    steps = 0
    one = schemas._arrow_type

    def counted(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        assert steps < 20_000
        return one(*arguments)

    monkeypatch.setattr(schemas, "_arrow_type", counted)
    assert schemas.parsed_type(TREE) is not None
