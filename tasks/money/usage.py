"""The usage that a reply reports, under the same four names for every API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

# No model's window is larger than ten million tokens: a larger figure is a fault of the service, not a bill.
MOST_TOKENS = 10_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more billed replies; `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
        )


def read_usage(reply: Any) -> Usage | None:
    """Read `usage` of a chat, completions or responses reply; None when it is missing or cannot be true."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    completion = usage.get("completion_tokens", usage.get("output_tokens"))
    inner = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    outer = usage.get("completion_tokens_details", usage.get("output_tokens_details"))
    cached = (inner.get("cached_tokens") if isinstance(inner, dict) else None) or 0
    reasoning = (outer.get("reasoning_tokens") if isinstance(outer, dict) else None) or 0
    counts = [value for value in (prompt, cached, completion, reasoning) if _is_count(value)]
    if len(counts) != 4 or counts[1] > counts[0] or counts[3] > counts[2]:
        return None
    if counts[0] == 0:  # there is no request without a prompt
        return None
    total = usage.get("total_tokens")
    if total is not None and (not _is_count(total) or total != counts[0] + counts[2]):
        return None  # what is billed beside the two is not known
    return Usage(*counts)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MOST_TOKENS
