"""Tokens of function definitions match the published counts."""

from __future__ import annotations

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.money.tokens import TokenCounter

# OpenAI cookbook, How_to_count_tokens_with_tiktoken.ipynb: the example of section 6 and the counts of the API
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                    "unit": {
                        "type": "string",
                        "description": "The unit of temperature to return",
                        "enum": ["celsius", "fahrenheit"],
                    },
                },
                "required": ["location"],
            },
        },
    }
]
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]


@pytest.mark.parametrize(
    ("model", "tokens"), [("gpt-3.5-turbo", 105), ("gpt-4", 105), ("gpt-4o", 101), ("gpt-4o-mini", 101)]
)
def test_published_counts(model: str, tokens: int) -> None:
    """A prompt with a function has as many tokens as the service was seen to count."""
    assert TokenCounter(model, tools=TOOLS).count_chats([MESSAGES]) == [tokens]


def test_what_is_nested_counts() -> None:
    """A property with a schema of its own counts more than a plain one, so that nothing that is sent is free."""
    nested = {**TOOLS[0]["function"]["parameters"]["properties"]["location"], "items": {"type": "string"}}  # type: ignore[index]
    function = {**TOOLS[0]["function"], "parameters": {"properties": {"location": nested}}}  # type: ignore[dict-item]
    plain = {**function, "parameters": {"properties": {"location": {"type": "string"}}}}
    counts = [
        TokenCounter("gpt-4o", tools=[{"type": "function", "function": found}]).count_chats([MESSAGES])[0]
        for found in (function, plain)
    ]
    assert counts[0] > counts[1]


def test_hosted_tools_are_refused() -> None:
    """A tool that the service runs and bills in addition to tokens is refused; functions are accepted."""
    job = {"name": "j", "input": "i", "output": "o", "prompt": {"user": "u"}, "model": "gpt-4o", "max_output_tokens": 5}
    make_job({**job, "parameters": {"tools": TOOLS}})
    with pytest.raises(BadJob, match="hosted tools"):
        make_job({**job, "parameters": {"tools": [{"type": "web_search"}]}})
