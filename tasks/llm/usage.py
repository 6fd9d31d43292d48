"""The usage that a reply reports, under the same five names for every service.

One closed table of names. If a service reports a figure under several names, the largest counts; if they differ, the
reply is flagged.

| figure | names | of |
|---|---|---|
| prompt | `prompt_tokens`, `input_tokens` | chat and completions; responses, Anthropic |
| | `prompt_cache_hit_tokens` + `prompt_cache_miss_tokens` | DeepSeek |
| | `timings.cache_n` + `timings.prompt_n` | llama.cpp, where it reports no `usage` |
| completion | `completion_tokens`, `output_tokens` | chat and completions; responses, Anthropic |
| | `timings.predicted_n` | llama.cpp, where it reports no `usage` |
| total | `total_tokens` | all |
| cached | `cached_tokens` in `prompt_tokens_details`, `input_tokens_details` | OpenAI and most others |
| | `cached_tokens` | Moonshot, Together, Anthropic |
| | `prompt_cache_hit_tokens` | DeepSeek |
| | `cache_read_input_tokens` | Anthropic, LiteLLM |
| | `cached_prompt_text_tokens` | xAI, earlier |
| | `timings.cache_n` | llama.cpp |
| cache_write | `cache_write_tokens` in the details of the input | OpenAI, OpenRouter, Moonshot |
| | `cache_creation_tokens` in them | LiteLLM |
| | `cache_creation_input_tokens`, in them or next to them | Alibaba; Anthropic, LiteLLM |
| reasoning | `reasoning_tokens` in `completion_tokens_details`, `output_tokens_details` | OpenAI and most others |
| | `thinking_tokens` in them | Anthropic |
| | `reasoning_tokens` | xAI earlier, Perplexity |

And one table of rules. A null figure counts as not reported; a whole number may be written as a float.

| what is reported | is booked as | flag |
|---|---|---|
| total = prompt + completion | as it is, reasoning and cache within | |
| total = prompt + completion + reasoning (xAI) | completion = total - prompt | |
| total > prompt + completion, no reasoning named (Gemini) | completion = total - prompt | |
| total > both by another number | completion = the larger of total - prompt, completion + reasoning | total |
| total < prompt + completion | the two as they are | total |
| `input_tokens` and Anthropic's cache names, no total | prompt = input + cached + cache_write | |
| Anthropic's cache names, total = all four together | prompt = input + cached + cache_write | |
| cached + cache_write > prompt | prompt = prompt + cached + cache_write | cache_beside |
| reasoning > completion, not explained by a total | completion = completion + reasoning | reasoning_beside |
| a fraction of a token | the next whole number | fraction |
| several names that differ | the largest | names |
| no completion, but a total; no prompt, but a total | what is left of the total | |

Anything else is unusable: figures that are negative, not numbers, or larger than any model's window; no prompt at all;
nothing that shows the output. Then the reservation is booked, or the known part (`least`) if that costs more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from parquill.tasks.records import Usage

# No model's window is larger than ten million tokens: a larger figure is an error of the service, not a bill.
MAX_TOKENS = 10_000_000
FLAGS = {  # what is said of a reply whose figures do not add up; `tier` is of `money.prices`
    "total": "the total is not the sum of its parts",
    "cache_beside": "more tokens from the cache than in the prompt",
    "reasoning_beside": "more reasoning than output",
    "fraction": "fractions of tokens",
    "names": "different figures under two names",
    "tier": "a service tier without a known price",
}

_ANTHROPIC_CACHE = ("cache_read_input_tokens", "cache_creation_input_tokens")
# name -> figure
_NAMES = {
    "prompt_tokens": "prompt",
    "input_tokens": "prompt",
    "completion_tokens": "completion",
    "output_tokens": "completion",
    "total_tokens": "total",
    "cached_tokens": "cached",
    # promise: M6 DeepSeek's cached tokens are booked at the cached price
    "prompt_cache_hit_tokens": "cached",
    "cache_read_input_tokens": "cached",
    "cached_prompt_text_tokens": "cached",
    "prompt_cache_miss_tokens": "missed",
    "cache_creation_input_tokens": "cache_write",
    "reasoning_tokens": "reasoning",
}
_INPUT = {
    "cached_tokens": "cached",
    "cache_write_tokens": "cache_write",
    "cache_creation_tokens": "cache_write",
    "cache_creation_input_tokens": "cache_write",
}
_OUTPUT = {"reasoning_tokens": "reasoning", "thinking_tokens": "reasoning"}
_DETAILS = {  # name -> the names in it
    "prompt_tokens_details": _INPUT,
    "input_tokens_details": _INPUT,
    "completion_tokens_details": _OUTPUT,
    "output_tokens_details": _OUTPUT,
}


class Reading(NamedTuple):
    """What a reply's usage says.

    `usage` is None if it is unusable; then `least` is the known part, if any. `flag` is a key of `FLAGS` if the figures
    do not add up.
    """

    usage: Usage | None
    flag: str | None = None
    least: Usage | None = None


UNKNOWN = Reading(None)


class _Figures(NamedTuple):
    """The figures of one reply; None for what is not reported."""

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    cached: int = 0
    missed: int | None = None
    cache_write: int = 0
    reasoning: int = 0


def read_usage(reply: Any) -> Reading:
    """Read the usage of a chat, completions or responses reply by the tables above. Never raises."""
    if not isinstance(reply, dict):
        return UNKNOWN
    usage, timings = reply.get("usage"), reply.get("timings")
    if not isinstance(usage, dict) or not usage:
        usage = _of_timings(timings)
    if usage is None:
        return UNKNOWN
    figures, flag, is_whole = _figures_of(usage)
    if not figures.cached and isinstance(timings, dict):
        found = _count(timings.get("cache_n"))
        if found is not None and found[0] <= (figures.prompt or 0):  # llama.cpp counts it into the prompt
            figures = figures._replace(cached=found[0])
    found_usage, flags = _add_up(figures, usage)
    flag = next((f for f in (*flags, flag) if f is not None), None)
    # promise: service: usage with values that are not token counts is not used
    if found_usage is not None and is_whole and max(found_usage) <= MAX_TOKENS:
        return Reading(found_usage, flag)
    return Reading(None, None, _least_of(figures))


def _of_timings(timings: Any) -> Mapping[str, Any] | None:
    if not isinstance(timings, dict):
        return None
    cached, rest = timings.get("cache_n") or 0, timings.get("prompt_n")
    if _count(cached) is None or rest is None or _count(rest) is None:
        return None
    return {"prompt_tokens": cached + rest, "completion_tokens": timings.get("predicted_n")}


def _figures_of(usage: Mapping[str, Any]) -> tuple[_Figures, str | None, bool]:
    """Return the figures, a flag, and whether all reported values are numbers of tokens."""
    found: dict[str, int] = {}
    flag, is_whole = None, True
    for figure, value in _reported(usage):
        count = _count(value)
        if count is None:
            is_whole = False
            continue
        tokens, is_fraction = count
        before = found.get(figure, 0)
        if is_fraction or (before and tokens and before != tokens):
            flag = flag or ("fraction" if is_fraction else "names")
        found[figure] = max(before, tokens)
    return _Figures(**found), flag, is_whole


def _reported(usage: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each reported figure, under any of its names."""
    for name, value in usage.items():
        if value is None:
            continue
        if name in _NAMES:
            yield _NAMES[name], value
        elif name in _DETAILS and isinstance(value, dict):
            names = _DETAILS[name]
            for inner, count in value.items():
                if count is not None and inner in names:
                    yield names[inner], count


def _count(value: Any) -> tuple[int, bool] | None:
    """Return a number of tokens, rounded up, and whether it had a fraction; None if it is no number of tokens."""
    if type(value) is float and math.isfinite(value) and 0 <= value <= 2 * MAX_TOKENS:
        return math.ceil(value), not value.is_integer()
    if type(value) is int and 0 <= value <= 2 * MAX_TOKENS:  # a total is the sum of two figures
        return value, False
    return None


def _add_up(figures: _Figures, usage: Mapping[str, Any]) -> tuple[Usage | None, list[str]]:
    """Return the usage by the table of rules, and its flags; None if the prompt or the output is unknown."""
    flags: list[str] = []
    prompt = _prompt_of(figures, usage, flags)
    completion = None if prompt is None else _completion_of(figures, prompt, flags)
    if not prompt or completion is None:
        return None, flags
    return Usage(prompt, figures.cached, figures.cache_write, completion, figures.reasoning), flags


def _prompt_of(figures: _Figures, usage: Mapping[str, Any], flags: list[str]) -> int | None:
    prompt, completion, total, cached, missed, written, _ = figures
    if missed is not None and cached + missed != prompt:
        if prompt is not None:
            flags.append("names")
        prompt = max(prompt or 0, cached + missed)
    if prompt is None:
        if total is None or completion is None:
            return None
        prompt = max(0, total - completion)
    # promise: M6 Anthropic's cached tokens are added to its prompt tokens
    if _is_beside(figures, prompt, usage):
        return prompt + cached + written
    if cached + written > prompt:
        # promise: M3 cached tokens beyond the prompt count are added to the prompt
        flags.append("cache_beside")
        return prompt + cached + written
    return prompt


def _completion_of(figures: _Figures, prompt: int, flags: list[str]) -> int | None:
    completion, total, reasoning = figures.completion, figures.total, figures.reasoning
    if total is not None:
        rest = total - prompt
        if completion is None:
            completion = max(0, rest)
        elif rest < completion:
            flags.append("total")
        elif reasoning and rest - completion not in {0, reasoning}:
            flags.append("total")
            # promise: M3 usage that does not add up is booked at the larger figure
            completion = max(rest, completion + reasoning)
        # promise: M3 output tokens are counted as the total minus the prompt
        else:
            completion = rest
    if completion is not None and reasoning > completion:
        # promise: M3 reasoning tokens beyond the output count are added to the output
        flags.append("reasoning_beside")
        completion += reasoning
    return completion


def _is_beside(figures: _Figures, prompt: int, usage: Mapping[str, Any]) -> bool:
    """Whether cached and written tokens are documented to be outside the prompt."""
    in_cache = figures.cached + figures.cache_write
    if not in_cache or not any(usage.get(name) is not None for name in _ANTHROPIC_CACHE):
        return False
    if figures.total is None:
        return usage.get("input_tokens") is not None and usage.get("prompt_tokens") is None
    return figures.total == prompt + in_cache + (figures.completion or 0)


def _least_of(figures: _Figures) -> Usage | None:
    """Return the known part of an unusable usage; no less than that is booked."""
    known = (figures.prompt or 0, figures.completion or 0)
    total = figures.total or 0
    prompt, completion = (count if count <= MAX_TOKENS else 0 for count in known)
    if prompt + completion < total <= 2 * MAX_TOKENS and not completion:
        completion = total - prompt
    return Usage(prompt=prompt, completion=completion) if prompt or completion else None
