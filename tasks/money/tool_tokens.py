"""Prompt tokens of function definitions.

OpenAI cookbook, "How to count tokens with tiktoken" (section 6, calls with tools): a function costs a start (7 for
gpt-4o and later, 10 before), "name:description" and an end of 12; its properties cost 3, and each of them 3 and
"name:type:description"; an enumeration costs -3, and each of its values 3 and its text. Closing periods of descriptions
do not count. The formula does not cover what is nested inside a property: that is counted as its JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

END = 12
PROPERTIES, PROPERTY = 3, 3
ENUMERATION, VALUE = -3, 3
_PLAIN = frozenset({"type", "description", "enum"})


def count_tools(tools: Sequence[Mapping[str, Any]], encoding: str, count: Callable[[str], int]) -> int:
    """Count the tokens that function definitions add to a prompt; `count` counts those of a text by `encoding`."""
    start = 7 if encoding.startswith("o200k") else 10
    return sum(start + END + _count_function(tool.get("function", tool), count) for tool in tools)


def _count_function(function: Mapping[str, Any], count: Callable[[str], int]) -> int:
    total = count(f"{function['name']}:{_text(function.get('description'))}")
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    if isinstance(properties, Mapping) and properties:
        total += PROPERTIES + sum(_count_property(name, found, count) for name, found in properties.items())
    return total


def _count_property(name: str, found: Any, count: Callable[[str], int]) -> int:
    if not isinstance(found, Mapping):
        return PROPERTY + count(f"{name}:{found}")
    total = PROPERTY + count(f"{name}:{found.get('type', '')}:{_text(found.get('description'))}")
    values = found.get("enum")
    if isinstance(values, list):
        total += ENUMERATION + sum(VALUE + count(str(value)) for value in values)
    nested = {key: value for key, value in found.items() if key not in _PLAIN}
    return total + (count(orjson.dumps(nested, default=str).decode()) if nested else 0)


def _text(description: Any) -> str:
    return str(description or "").removesuffix(".")
