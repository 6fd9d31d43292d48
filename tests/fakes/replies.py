"""Answers and errors in the shapes of OpenAI's three APIs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson

from .exchange import Reply

if TYPE_CHECKING:
    from .answers import Answer, Call, Usage
    from .limits import Refusal

_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_MESSAGES = {
    400: "The request is not valid.",
    401: "Incorrect API key provided.",
    403: "This key may not use that.",
    404: "Unknown URL.",
    429: "Too many requests for now.",
    500: "The server had an error while processing your request.",
    503: "The engine is currently overloaded, please try again later.",
}


def error(status: int, message: str | None = None, *, param: str | None = None, code: str | None = None,
          kind: str | None = None, headers: bytes = b"") -> Reply:  # fmt: skip
    """Return an error as OpenAI writes it."""
    if kind is None:
        kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    text = message or _MESSAGES.get(status, f"Status {status}.")
    body = orjson.dumps({"error": {"message": text, "type": kind, "param": param, "code": code}})
    return Reply(status, body, headers)


def over_limit(refusal: Refusal, model: str, headers: bytes) -> Reply:
    """Return the 429 of a limit; `Request too large` if waiting cannot help."""
    short = "RPM" if refusal.kind == "requests" else "TPM"
    figures = f"Limit {refusal.limit}, Used {refusal.used}, Requested {refusal.requested}."
    if refusal.wait_s is None:
        message = f"Request too large for {model} on {refusal.kind} per min ({short}): {figures}"
    else:
        message = (
            f"Rate limit reached for {model} on {refusal.kind} per min ({short}): {figures} "
            f"Please try again in {refusal.wait_s:.3f}s."
        )
    return error(429, message, code="rate_limit_exceeded", kind=refusal.kind, headers=headers)


def written(call: Call, answer: Answer, identity: str, suffix: str) -> dict[str, Any]:
    """Return the answer as the document of its API."""
    return _WRITERS[call.api](call, answer, identity, call.model + suffix)


def _chat(_call: Call, answer: Answer, identity: str, model: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-" + identity,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": answer.text,
                    "refusal": answer.refusal,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": answer.finish,
            }
        ],
        "usage": _usage(answer.usage),
        "service_tier": answer.service_tier,
        "system_fingerprint": "fp_fake",
    }


def _completions(_call: Call, answer: Answer, identity: str, model: str) -> dict[str, Any]:
    choice = {"text": answer.text, "index": 0, "logprobs": None, "finish_reason": answer.finish}
    return {
        "id": "cmpl-" + identity,
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": _usage(answer.usage),
    }


def _responses(call: Call, answer: Answer, identity: str, model: str) -> dict[str, Any]:
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(answer.finish)
    status = "incomplete" if reason else "completed"
    content: list[dict[str, Any]] = []
    if answer.refusal is not None:
        content = [{"type": "refusal", "refusal": answer.refusal}]
    elif answer.text is not None:
        content = [{"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}]
    message = {
        "id": "msg_" + identity, "type": "message", "status": status, "role": "assistant", "content": content,
    }  # fmt: skip
    usage = answer.usage
    return {
        "id": "resp_" + identity,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": call.payload.get("instructions"),
        "max_output_tokens": call.maximum,
        "model": model,
        "output": [message],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": answer.service_tier,
        "store": call.payload.get("store", True),
        "temperature": call.payload.get("temperature", 1.0),
        "text": call.payload.get("text", {"format": {"type": "text"}}),
        "tool_choice": "auto",
        "tools": [],
        "top_p": call.payload.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.completion,
        },
        "metadata": {},
    }


_WRITERS = {"chat": _chat, "responses": _responses, "completions": _completions}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def model_list(names: tuple[str, ...]) -> Reply:
    """Return the reply to GET /v1/models."""
    data = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "fake"} for name in names]
    return Reply(200, orjson.dumps({"object": "list", "data": data}))
