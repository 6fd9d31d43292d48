"""One class adds another service: its URL, headers, body and reading.

The example is a short Messages API of Anthropic.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from parquill.tasks.job.key import Key
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.failures import Failure
from parquill.tasks.llm.outcomes import Money
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.replies import Reply
from parquill.tasks.llm.reply_reader import Result
from parquill.tasks.records import Usage
from tests.tools.small_jobs import resolved_job

KEY = "sk-ant-0123456789abcdef"
REPLY = {
    "id": "msg_1",
    "model": "claude-haiku",
    "content": [{"type": "text", "text": "Bonjour"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 12, "output_tokens": 3},
}


class MessagesApi:
    """POST /messages, with the key and the version in their own headers."""

    path = "/messages"
    limit = "max_tokens"
    names = frozenset({"model", "max_tokens", "messages"})

    def __init__(self, job: ResolvedJob) -> None:
        self.url = job.endpoint.url(self.path)
        self._job = job

    def headers(self, key: Key | None) -> dict[str, str]:
        """Return the key under another header name, and the version."""
        (value,) = key.headers().values() if key is not None else ("",)
        return {"x-api-key": value.removeprefix("Bearer "), "anthropic-version": "2023-06-01"}

    def body(self, messages: str, parameters: str | None, limit: str | None = None) -> bytes:
        """Return the request."""
        own = orjson.loads(parameters or "{}")
        return orjson.dumps(
            {
                **own,
                "model": self._job.model,
                limit or self.limit: self._job.max_output_tokens,
                "messages": orjson.loads(messages),
            }
        )

    def read(self, data: bytes, *, is_stream: bool = False) -> Reply | Failure | None:
        """Read the text and the usage."""
        assert not is_stream
        found = orjson.loads(data)
        usage = Usage(prompt=found["usage"]["input_tokens"], completion=found["usage"]["output_tokens"])
        text = "".join(part["text"] for part in found["content"])
        return Reply("ok", text, found["stop_reason"], found["model"], found["id"], usage)


def _send(answer: httpx.Response, monkeypatch: pytest.MonkeyPatch) -> tuple[httpx.Request, Result]:
    monkeypatch.setitem(APIS, "chat", MessagesApi)
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answer

    job = resolved_job({
        "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "claude-haiku",
        "max_output_tokens": 10, "endpoint": {"base_url": "http://localhost:1/v1", "api_key_env": "K"},
    })  # fmt: skip
    client = Client(job, Key(KEY), httpx.MockTransport(handler))
    result = asyncio.run(client.send('[{"role":"user","content":"Hello"}]', '{"top_k":5}'))
    (request,) = asked
    return request, result


def test_one_class_is_enough_for_another_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends and reads what the class defines, with the class's URL and headers."""
    request, result = _send(httpx.Response(200, json=REPLY), monkeypatch)
    assert str(request.url) == "http://localhost:1/v1/messages"
    assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert "authorization" not in request.headers
    body: dict[str, Any] = orjson.loads(request.content)
    assert body == {
        "top_k": 5,
        "model": "claude-haiku",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    assert result.reply == Reply("ok", "Bonjour", "end_turn", "claude-haiku", "msg_1", Usage(prompt=12, completion=3))


def test_its_failures_meet_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client classifies a refusal by its status and shows the service's reason without the key."""
    body = {"type": "error", "error": {"type": "authentication_error", "message": f"invalid x-api-key {KEY}"}}
    _, result = _send(httpx.Response(401, json=body), monkeypatch)
    assert (result.rule.code, result.money) == ("not_authorized", Money.UNPAID)
    assert "invalid x-api-key sk-ant-…" in result.sentence
    assert KEY[-8:] not in result.sentence
