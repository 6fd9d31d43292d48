"""If a failure comes with HTTP 200, the code inside counts like a status, and its usage is booked."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from parquill.tasks.llm.client import Client
from parquill.tasks.llm.failures import retry_after_of
from parquill.tasks.llm.outcomes import Money, Retry
from parquill.tasks.llm.reply_reader import Result
from tests.tools.small_jobs import resolved_job

USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
HALF = {"message": {"content": "Guten Tag, sehr"}, "finish_reason": "error"}
NOTHING = {"message": {"content": None}, "finish_reason": "error"}
RESPONSE = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "half an"}]}]}
RESPONSE_USAGE = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
UNPAID, DOUBT, BILLED = Money.UNPAID, Money.IN_DOUBT, Money.BILLED

# The test id -> (API, the reply, error_code, money).
FAILURES: dict[str, tuple[str, Any, str, Money]] = {
    "openrouter-429": ("chat", {"error": {"code": 429, "message": "Rate limit exceeded"}}, "rate_limited", UNPAID),
    "openrouter-402": ("chat", {"error": {"code": 402, "message": "credits"}}, "quota_exhausted", UNPAID),
    "openrouter-401": ("chat", {"error": {"code": 401, "message": "no"}}, "not_authorized", UNPAID),
    "openrouter-400": ("chat", {"error": {"code": 400, "message": "bad"}}, "bad_request", UNPAID),
    "openrouter-403-moderation": (
        "chat",
        {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"]}}},
        "prompt_filtered",
        UNPAID,
    ),
    "openrouter-408": ("chat", {"error": {"code": 408, "message": "timed out"}}, "request_timeout", DOUBT),
    "openrouter-502": ("chat", {"error": {"code": 502, "message": "down"}, "choices": []}, "server_error", UNPAID),
    "openrouter-503-text-code": ("chat", {"error": {"code": "503", "message": "x"}}, "server_error", UNPAID),
    "openrouter-choice": ("chat", {"choices": [{**HALF, "error": {"code": 502}}]}, "server_error", DOUBT),
    "openrouter-choice-usage": (
        "chat",
        {"choices": [{**HALF, "error": {"code": 502, "message": "lost"}}], "usage": USAGE},
        "server_error",
        BILLED,
    ),
    "openrouter-choice-without-text": (
        "chat",
        {"choices": [{**NOTHING, "error": {"code": 502}}]},
        "server_error",
        UNPAID,
    ),
    "openrouter-choice-stop": (
        "chat",
        {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop", "error": {"code": 429}}]},
        "rate_limited",
        DOUBT,
    ),
    "openrouter-finish-error": ("chat", {"choices": [HALF]}, "broken_answer", DOUBT),
    "openrouter-finish-error-usage": ("chat", {"choices": [HALF], "usage": USAGE}, "broken_answer", BILLED),
    "openrouter-completions": (
        "completions",
        {"choices": [{"text": "Hi", "finish_reason": "error", "error": {"code": 500}}]},
        "server_error",
        DOUBT,
    ),
    "openai-responses-server-error": (
        "responses",
        {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "x"}, "usage": RESPONSE_USAGE},
        "server_error",
        BILLED,
    ),
    "openai-responses-rate-limit": (
        "responses",
        {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "x"}, "output": []},
        "rate_limited",
        UNPAID,
    ),
    "openai-responses-invalid-prompt": (
        "responses",
        {"status": "failed", "error": {"code": "invalid_prompt", "message": "x"}, "output": []},
        "bad_request",
        UNPAID,
    ),
    "openai-responses-failed": ("responses", {**RESPONSE, "status": "failed", "error": None}, "broken_answer", DOUBT),
    "openai-responses-cancelled": ("responses", {"status": "cancelled", "output": []}, "broken_answer", DOUBT),
    "openai-responses-queued": ("responses", {"status": "queued", "output": []}, "not_ready", DOUBT),
    "openai-responses-in-progress": ("responses", {**RESPONSE, "status": "in_progress"}, "not_ready", DOUBT),
    "openai-quota": ("chat", {"error": {"code": "insufficient_quota", "message": "x"}}, "quota_exhausted", UNPAID),
    "openai-context": ("chat", {"error": {"code": "context_length_exceeded", "message": "x"}}, "too_long", UNPAID),
    "azure-filter": ("chat", {"error": {"code": "content_filter", "message": "x"}}, "prompt_filtered", UNPAID),
    "gemini-list": ("chat", [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], "rate_limited", UNPAID),
    "gemini-status": ("chat", {"error": {"status": "UNAVAILABLE", "message": "x"}}, "server_error", UNPAID),
    "anthropic-overloaded": (
        "chat",
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        "server_error",
        UNPAID,
    ),
    "anthropic-rate-limit": ("chat", {"error": {"type": "rate_limit_error", "message": "x"}}, "rate_limited", UNPAID),
    "mistral-finish-error": ("chat", {"choices": [HALF], "usage": USAGE}, "broken_answer", BILLED),
    "deepseek-resource": (
        "chat",
        {"choices": [{**HALF, "finish_reason": "insufficient_system_resource"}], "usage": USAGE},
        "broken_answer",
        BILLED,
    ),
    "zhipu-network-error": ("chat", {"choices": [{**HALF, "finish_reason": "network_error"}]}, "broken_answer", DOUBT),
    "moonshot-overloaded": (
        "chat",
        {"error": {"type": "engine_overloaded_error", "message": "x"}},
        "server_error",
        UNPAID,
    ),
    "vllm-object": (
        "chat",
        {"object": "error", "message": "x", "code": 400, "type": "BadRequestError"},
        "bad_request",
        UNPAID,
    ),
    "vllm-abort": ("chat", {"choices": [{**HALF, "finish_reason": "abort"}]}, "broken_answer", DOUBT),
    "sglang-abort": (
        "chat",
        {"choices": [{"message": {"content": ""}, "finish_reason": {"type": "abort", "message": "x"}}]},
        "broken_answer",
        DOUBT,
    ),
    "ollama-text": ("chat", {"error": "llama runner process has terminated"}, "failed_reply", DOUBT),
    "litellm-text-code": ("chat", {"error": {"code": "500", "type": "internal_server_error"}}, "server_error", UNPAID),
    "fastapi-detail": ("chat", {"detail": "Internal error"}, "failed_reply", DOUBT),
    "minimax-rate": (
        "chat",
        {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "x"}},
        "rate_limited",
        UNPAID,
    ),
    "minimax-balance": ("chat", {"base_resp": {"status_code": 1008, "status_msg": "x"}}, "quota_exhausted", UNPAID),
    "minimax-sensitive": ("chat", {"base_resp": {"status_code": 1026, "status_msg": "x"}}, "prompt_filtered", UNPAID),
    "minimax-unknown": ("chat", {"base_resp": {"status_code": 9999, "status_msg": "x"}}, "failed_reply", DOUBT),
    "gateway-code": ("chat", {"code": 429, "message": "slow down", "data": None}, "rate_limited", UNPAID),
    "gateway-errors": ("chat", {"success": False, "errors": [{"code": 401, "message": "x"}]}, "not_authorized", UNPAID),
    "gateway-unknown": ("chat", {"error": {"code": 20012, "message": "x"}}, "failed_reply", DOUBT),
    "gateway-no-code": ("chat", {"error": {"message": "overloaded"}}, "failed_reply", DOUBT),
}


def _send(api: str, reply: Any, headers: dict[str, str] | None = None, status: int = 200) -> Result:
    job = resolved_job({
        "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "m", "max_output_tokens": 9,
        "endpoint": {"base_url": "http://localhost:1/v1", "api": api},
    })  # fmt: skip
    content = reply if isinstance(reply, bytes) else orjson.dumps(reply)
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=content, headers=headers or {}))
    return asyncio.run(Client(job, None, transport).send('[{"role":"user","content":"PROMPT"}]', None))


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_inside_a_200(name: str) -> None:
    """M5: the code inside selects a line of the table. Usage is billed; half an answer without usage is in doubt."""
    api, reply, code, money = FAILURES[name]
    found = _send(api, reply)
    assert found.reply is None
    assert found.failure is not None
    assert (found.rule.code, found.money) == (code, money)
    assert found.rule.status in {"failed", "refused"}
    assert (found.failure.usage is not None) is (money is BILLED)


@pytest.mark.parametrize("code", [409, 429, 500, 502, 504])
@pytest.mark.parametrize(
    ("reply", "retry"),
    [
        ({"choices": [NOTHING], "usage": USAGE}, Retry.UNREADABLE),
        ({"choices": [HALF]}, Retry.UNREADABLE),
        ({"choices": [NOTHING]}, None),
        ({"choices": [NOTHING], "usage": dict.fromkeys(USAGE, 0)}, None),
    ],
)
def test_a_failure_that_may_cost_is_tried_once_more_at_most(
    code: int, reply: dict[str, Any], retry: Retry | None
) -> None:
    """If the reply shows usage or a part of an answer, the row is sent once more whatever the code.

    Otherwise the code decides.
    """
    found = _send("chat", {**reply, "error": {"code": code, "message": "x"}})
    usual = _send("chat", {"error": {"code": code, "message": "x"}}, status=code)
    assert found.rule.code == usual.rule.code
    assert found.rule.retry is (retry or usual.rule.retry)


def test_a_code_inside_does_what_the_status_does() -> None:
    """A 429 inside waits, a 402 stops, a 502 is retried and a 400 fails its row.

    The message names the status and the code.
    """
    kinds = {429: Retry.THROTTLE, 402: Retry.STOP, 502: Retry.OUTAGE, 400: Retry.REFUSAL, 401: Retry.STOP}
    for code, retry in kinds.items():
        found = _send("chat", {"error": {"code": code, "message": "parameter temperature is not supported"}})
        assert found.rule.retry is retry
        assert f"(HTTP 200, code {code}): parameter temperature is not supported" in found.sentence
    assert "PROMPT" not in _send("chat", {"error": {"code": 400, "message": "bad PROMPT is not valid here"}}).sentence


@pytest.mark.parametrize(
    "error",
    [
        None,
        {},
        "",
        False,
        0,
        {"code": None, "message": None},
        {"code": 0, "message": ""},
        {"code": 200},
        {"code": "ok"},
    ],
)
def test_an_error_that_says_there_is_none(error: Any) -> None:
    """If a service adds an empty `error` to a good answer, the answer counts."""
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop", "error": error}
    found = _send("chat", {"choices": [choice], "error": error, "base_resp": {"status_code": 0, "status_msg": ""}})
    assert found.rule.code is None


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        ({"metadata": {"retry_after_seconds": 7}}, 7.0),
        ({"metadata": {"retry_after_seconds": 7.5}}, 7.5),
        ({"metadata": {"headers": {"Retry-After": "12"}}}, 12.0),
        ({"details": [{"@type": "Help"}, {"@type": "RetryInfo", "retryDelay": "17s"}]}, 17.0),
        ({"details": [{"retryDelay": "0.5s"}]}, 0.5),
        ({"retry_after": "3"}, 3.0),
        ({"retry_after": -5}, 0.0),
        ({"retry_after": 1e9}, 60.0),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": True, "metadata": 5, "details": "x"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_wait_that_the_body_asks_for(error: Any, seconds: float | None) -> None:
    """OpenRouter and Gemini ask for a wait in the body, and it has the same bounds as the header's."""
    assert retry_after_of(error) == seconds


@pytest.mark.parametrize("status", [200, 429])
def test_the_wait_is_kept(status: int) -> None:
    """With HTTP 200 and with the status itself, a wait in the header takes precedence over one in the body."""
    body = {"error": {"code": 429, "message": "x", "metadata": {"retry_after_seconds": 7}}}
    assert _send("chat", body, status=status).retry_after == 7.0
    assert _send("chat", body, {"retry-after": "4"}, status=status).retry_after == 4.0


@pytest.mark.parametrize(
    ("api", "events", "code"),
    [
        ("chat", [{"choices": [{"delta": {"content": "Gu"}}]}], "broken_answer"),
        (
            "chat",
            [{"choices": [{"delta": {"content": "Gu"}}]}, {"error": {"code": 502, "message": "x"}}],
            "server_error",
        ),
        ("chat", [{"choices": [{"delta": {"content": "Gu"}}]}, {"choices": [], "usage": USAGE}], None),
        ("chat", [{"error": {"code": 500}}], "server_error"),
        ("responses", [{"type": "response.created", "response": {"status": "in_progress", "output": []}}], "not_ready"),
        ("responses", [{"type": "error", "code": "server_error", "message": "x"}], "server_error"),
        ("responses", [{"type": "response.failed", "response": {"status": "failed", "output": []}}], "broken_answer"),
    ],
)
def test_a_stream_that_breaks_off(api: str, events: list[Any], code: str | None) -> None:
    """A stream without its end is not an answer, and an error within a stream counts."""
    body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    assert _send(api, body, {"content-type": "text/event-stream"}).rule.code == code
