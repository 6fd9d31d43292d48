"""Why an answer ended: the finish reasons of the services, and the line of the table of outcomes for each.

A closed list. Names are compared without case, blanks and punctuation (`MAX_TOKENS`, `maxTokens` and `max_tokens` are
one name), and a name may have its enum before it (`FinishReason.STOP`, `REASON_STOP`). If a router adds the finish
reason of the model's own service (OpenRouter's `native_finish_reason`), a bad one of the two counts.

- An unlisted name does not mean that the answer is bad, and the answer is billed: it stays `ok`, with a warning that
  names the reason.
- A missing or null reason is no name. Older servers and gateways leave it out. Since the JSON around the answer arrived
  whole, nothing suggests that the answer is cut: it is `ok` without a warning. Only a stream that ends without a reason
  is a broken answer (see `replies`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

# code of the table of outcomes -> names, each with a service that uses it
_NAMES: dict[str, tuple[str, ...]] = {
    "ok": (
        "stop",  # OpenAI and most others; Gemini writes STOP
        "tool_calls",
        "function_call",
        "completed",  # the status of the Responses API
        "end_turn",  # Anthropic, xAI
        "stop_sequence",  # Anthropic, TGI, Cohere
        "tool_use",  # Anthropic
        "tool_call",  # Cohere
        "complete",  # Cohere
        "eos",  # Together
        "eos_token",  # TGI, watsonx
        "eos_found",  # LM Studio
        "stop_string_found",
        "stop_token",  # SGLang
        "end_of_text",  # AI21
        "normal",  # Baidu
    ),
    "max_output_tokens": (
        "length",  # OpenAI and most others
        "max_tokens",  # Anthropic, Gemini, Cohere, watsonx
        "max_output_tokens",  # the Responses API
        "max_completion_tokens",
        "max_new_tokens",
        "max_length",
        "max_len",  # xAI
        "max_predicted_tokens_reached",  # LM Studio
        "token_limit",  # watsonx
        "limit",  # llama.cpp
    ),
    "context_window": (
        "model_length",  # Mistral
        "model_context_window_exceeded",  # Anthropic, Zhipu
        "context_window_exceeded",
        "context_length_exceeded",
        "context_length_reached",  # LM Studio
        "max_context",  # xAI
        "error_limit",  # Cohere
    ),
    "cut_off": (
        "incomplete",  # the status of the Responses API, where no reason is given
        "time_limit",  # watsonx, xAI
        "timeout",  # Cohere
        "pause_turn",  # Anthropic
        "not_finished",  # watsonx
        "other",  # Gemini: stopped for a reason that has no name
        "repetition",  # vLLM
    ),
    "content_filter": (
        "content_filter",  # OpenAI, Azure, OpenRouter, Moonshot
        "content_filtered",  # Bedrock
        "guardrail_intervened",
        "content_blocked",
        "safety",  # Gemini, down to model_armor
        "recitation",
        "language",
        "blocklist",
        "prohibited_content",
        "spii",
        "image_safety",
        "image_prohibited_content",
        "image_recitation",
        "model_armor",
        "sensitive",  # Zhipu, Hunyuan
        "error_toxic",  # Cohere
        "moderation",
    ),
    "refusal": ("refusal",),  # Anthropic
    "broken_answer": (
        "error",  # OpenRouter, Mistral, Cohere, vLLM
        "network_error",  # Zhipu
        "insufficient_system_resource",  # DeepSeek
        "abort",  # vLLM, SGLang
        "aborted",
        "cancelled",  # the Responses API, watsonx
        "canceled",
        "user_cancel",  # Cohere
        "failed",  # the Responses API, LM Studio
        "user_stopped",  # LM Studio
        "model_unloaded",
        "load",  # Ollama
        "unload",
    ),
    "unusable_answer": (
        "malformed_function_call",  # Gemini, down to image_other
        "malformed_response",
        "unexpected_tool_call",
        "too_many_tool_calls",
        "missing_thought_signature",
        "no_image",
        "image_other",
        "malformed_tool_call",
    ),
    "not_ready": ("in_progress", "queued"),  # the Responses API
}
# Names that carry no information.
_NOT_SAID = frozenset({"", "null", "none", "finishreasonunspecified", "unspecified"})
_PREFIXES = ("finishreason", "reason")
_PUNCTUATION = re.compile(r"[^a-z0-9]+")
MAX_NAME_CHARACTERS = 40


def _plain(name: str) -> str:
    return _PUNCTUATION.sub("", name.casefold())


ENDINGS: Mapping[str, str] = {_plain(name): code for code, names in _NAMES.items() for name in names}


def named_reason(value: Any) -> str | None:
    """Return the service's name of a reason: a text, or the `type` of an object (SGLang); None for anything else."""
    if isinstance(value, dict):
        value = value.get("type")
    # promise: service: a finish reason of any type is read without an error
    return value if isinstance(value, str) and _says_something(value) else None


def ending_of(reason: Any, native: Any = None) -> str | None:
    """Return the code of a finish reason and the model's own one: `ok` if none is given, None for an unknown name."""
    codes = [code for value in (reason, native) if (name := named_reason(value)) is not None for code in _codes(name)]
    bad = next((code for code in codes if code not in {None, "ok"}), None)
    if bad is not None:
        return bad
    return codes[0] if codes else "ok"


def unknown_name(reason: str | None) -> str | None:
    """Return the name to warn of: an unlisted finish reason, in a form that is safe to show; None for a known one."""
    if reason is None or ending_of(reason) is not None:
        return None
    # it may be any text, even the prompt: what does not look like a name is not repeated
    if len(reason) > MAX_NAME_CHARACTERS or not re.fullmatch(r"[A-Za-z0-9_.:\- ]+", reason) or reason.count(" ") > 2:
        # promise: privacy: a finish reason that does not look like a name is not shown
        return "a text that is not a name"
    return reason


@functools.lru_cache(maxsize=256)
def _says_something(reason: str) -> bool:
    return _plain(reason) not in _NOT_SAID


@functools.lru_cache(maxsize=256)
def _codes(reason: str) -> tuple[str | None, ...]:
    """Return the code of each part: Gemini writes `content_filter: SAFETY`, proxies write `FinishReason.SAFETY`."""
    return tuple(_code(part) for part in reason.split(":", 3))


def _code(part: str) -> str | None:
    name = _plain(part)
    last = _plain(part.rpartition(".")[2])
    names = [name, last, *(name.removeprefix(prefix) for prefix in _PREFIXES)]
    return next((ENDINGS[found] for found in names if found in ENDINGS), None)
