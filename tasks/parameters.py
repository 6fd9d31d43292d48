"""Which request parameters are the user's to set: in a job's `parameters`, and in a row's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rfc8785

# The names that services give to max_output_tokens: one setting bounds the cost, under one neutral name.
OUTPUT_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict"})
# Whatever raises the cost past the reservation or changes the protocol of the reply.
COSTLY = frozenset(
    (
        "n best_of num_return_sequences stream stream_options service_tier functions function_call web_search_options "
        "audio modalities background store conversation previous_response_id prediction echo mcp_servers container "
        "include plugins provider models route transforms batch_size extra_body extra_query extra_headers"
    ).split()
)
SECRETS = frozenset(["api_key", "api-key", "apikey", "key", "token", "authorization"])
OWNED = frozenset(["model", "messages", "input", "prompt", "instructions", "response_format", "text"])


# https://platform.openai.com/docs/api-reference/chat/create
RANGES = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}


def refuse_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for the first request parameter that is not the user's to set."""
    for name, value in parameters.items():
        if name in OUTPUT_LIMITS:
            raise ValueError(f"{name!r} is set by `max_output_tokens`, which bounds the cost")
        if name in COSTLY:
            raise ValueError(f"{name!r} raises the cost or changes the protocol, so it is refused")
        if name.casefold() in SECRETS:
            raise ValueError("a secret is never a setting: name its variable in `endpoint.api_key_env`")
        if name in OWNED:
            raise ValueError(f"{name!r} is a setting of the job itself, not a parameter")
        if name == "tools" and not (isinstance(value, list) and all(_is_function(tool) for tool in value)):
            raise ValueError("'tools' may hold functions only: hosted tools are billed beside the tokens")
        low, high = RANGES.get(name, (None, None))
        if low is None or high is None or value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{name} is not a number from {low} to {high}")


def refuse_unwritable(value: Any) -> None:
    """Raise ValueError for what RFC 8785 cannot write: keys are computed over it."""
    try:
        rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError, TypeError, ValueError, AttributeError):
        raise ValueError("holds a value that JSON cannot hold exactly (NaN, a date, a number over 2**53)") from None


def _is_function(tool: Any) -> bool:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return False
    function = tool.get("function", tool)  # the chat API nests it, the responses API does not
    return isinstance(function, dict) and isinstance(function.get("name"), str)
