"""The forms that Prefect's UI builds from a flow's parameters: each field has help, and each number has bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from prefect import Flow

from parquill.flows.complete_prompts import complete_prompts
from parquill.flows.estimate_cost import estimate_cost
from parquill.flows.summarize import summarize
from parquill.flows.translate import translate

FLOWS: list[Flow[..., Any]] = [complete_prompts, estimate_cost, summarize, translate]
# https://json-schema.org/understanding-json-schema/reference; Prefect adds `position`
KNOWN = set(
    "type title description default properties required definitions additionalProperties items minItems maxItems anyOf const "
    "enum format minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength pattern position $ref".split()
)


def _schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for word, value in schema.items():
        if word in {"properties", "definitions"}:
            for name, inner in value.items():
                yield from _schemas(inner, f"{path}.{name}")
        elif isinstance(value, dict) and word != "default":
            yield from _schemas(value, path)
        elif word == "anyOf":
            for inner in value:
                yield from _schemas(inner, path)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_form_has_help_and_bounds(flow: Flow[..., Any]) -> None:
    """Every parameter and setting has a help text, and every number has bounds that a form understands."""
    schema = flow.parameters.model_dump()
    for path, inner in _schemas(schema):
        assert set(inner) <= KNOWN, path
        if inner.get("type") in {"number", "integer"} and not path.endswith("for_each"):
            assert {"minimum", "exclusiveMinimum"} & set(inner), path
            assert "maximum" in inner, path
        either = inner.get("anyOf", [])
        if any(each.get("type") in {"number", "integer"} for each in either) and not path.endswith("for_each"):
            assert all("pattern" in each or "const" in each for each in either if each.get("type") == "string"), path
    named = [schema, *schema["definitions"].values()]
    without = [
        name for each in named for name, inner in each.get("properties", {}).items() if not inner.get("description")
    ]
    assert without == []
