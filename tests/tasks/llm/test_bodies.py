"""Parquill reads a paid answer even if the service wraps it in a way that was not asked for."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquill.tasks.llm.bodies import events, unwrap
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.reply_reader import Result
from tests.tools.small_jobs import resolved_job

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
TEXT = "Grüße, 世界 🙂"
CHAT = {"choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}], "usage": USAGE, "model": "m"}
COMPLETION = {"choices": [{"text": TEXT, "finish_reason": "stop"}], "usage": USAGE, "model": "m"}
RESPONSE = {
    "output": [{"type": "message", "content": [{"type": "output_text", "text": TEXT}]}],
    "status": "completed",
    "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
}
DOCUMENTS = {"chat": CHAT, "completions": COMPLETION, "responses": RESPONSE}


def _ask(api: str, body: bytes, headers: dict[str, str], status: int = 200) -> Result:
    job = resolved_job({
        "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini",
        "max_output_tokens": 10, "endpoint": {"base_url": "http://localhost:1/v1", "api": api},
    })  # fmt: skip

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            yield body

    async def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=headers, stream=Body())

    return asyncio.run(Client(job, None, httpx.MockTransport(handler)).send('"x"', None))


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def _server_sent(*documents: Any, end: bytes = b"\n") -> bytes:
    lines = [b"data: " + (d if isinstance(d, bytes) else orjson.dumps(d)) for d in documents]
    return (end + end).join(lines) + end + end


WRAPPINGS: dict[str, tuple[Any, dict[str, str]]] = {
    "plain": (lambda d: d, {}),
    "gzip": (gzip.compress, {"content-encoding": "gzip"}),
    "x-gzip": (gzip.compress, {"content-encoding": "x-gzip"}),
    "gzip without a header": (gzip.compress, {}),
    "header without gzip": (lambda d: d, {"content-encoding": "gzip"}),
    "deflate": (zlib.compress, {"content-encoding": "deflate"}),
    "raw deflate": (_raw_deflate, {"content-encoding": "deflate"}),
    "gzip twice": (lambda d: gzip.compress(gzip.compress(d)), {"content-encoding": "gzip, gzip"}),
    "identity": (lambda d: d, {"content-encoding": "identity"}),
    "utf-8 with a mark": (lambda d: b"\xef\xbb\xbf" + d, {"content-type": "application/json; charset=utf-8"}),
    "utf-16": (lambda d: d.decode().encode("utf-16"), {"content-type": "application/json"}),
    "a quoted charset": (
        lambda d: d.decode().encode("utf-16-le"),
        {"content-type": 'application/json; charset="utf-16-le"'},
    ),
    "text/plain": (lambda d: d, {"content-type": "text/plain"}),
    "an unknown charset": (lambda d: d, {"content-type": "application/json; charset=klingon"}),
    "a charset with a NUL": (lambda d: d, {"content-type": "application/json; charset=\x00"}),
    "gzip and utf-16": (
        lambda d: gzip.compress(d.decode().encode("utf-16")),
        {"content-encoding": "gzip", "content-type": "application/json; charset=utf-16"},
    ),
}


@pytest.mark.parametrize("api", DOCUMENTS)
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_an_answer_is_read_whatever_it_is_wrapped_in(api: str, wrapping: str) -> None:
    """Unrequested compression and any charset leave an answer's text and usage unchanged."""
    wrap, headers = WRAPPINGS[wrapping]
    found = _ask(api, wrap(orjson.dumps(DOCUMENTS[api])), headers)
    assert found.reply is not None
    assert found.reply.text == TEXT
    assert found.reply.usage is not None
    assert (found.reply.usage.prompt, found.reply.usage.completion) == (9, 4)


def _chunk(**delta: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


CHAT_STREAM = [
    _chunk(role="assistant", content=""),
    _chunk(content="Grüße, "),
    _chunk(content="世界 🙂"),
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
    {"choices": [], "usage": USAGE, "model": "m"},
    b"[DONE]",
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("headers", [{}, {"content-type": "text/event-stream; charset=utf-8"}], ids=["no type", "type"])
def test_a_chat_stream_that_was_not_asked_for_is_joined(end: bytes, headers: dict[str, str]) -> None:
    """Parquill joins the pieces of a stream into one answer with its finish reason and its usage."""
    found = _ask("chat", _server_sent(*CHAT_STREAM, end=end), headers)
    assert found.rule is TABLE["max_output_tokens"]
    assert found.reply is not None
    assert found.reply.text == TEXT
    assert found.reply.finish_reason == "length"
    assert found.reply.usage is not None
    assert found.reply.usage.completion == 4


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([b"[DONE]"], "ok"),
        ([b" [DONE] "], "ok"),
        ([{"choices": [], "usage": USAGE}], "ok"),
        ([_chunk() | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}], "ok"),
        ([], "broken_answer"),
        ([b": the connection is kept"], "broken_answer"),
    ],
    ids=["mark", "mark with blanks", "usage", "reason", "nothing", "a comment"],
)
def test_the_end_of_a_stream(ends: list[Any], code: str) -> None:
    """A stream is complete if it has its end mark, its usage or its finish reason. Without all three it was cut off."""
    stream = [{"choices": [{"delta": {"content": "Guten Tag"}}]}, *ends]
    found = _ask("chat", _server_sent(*stream), {"content-type": "text/event-stream"})
    assert found.rule is TABLE[code]
    assert (found.reply is not None and found.reply.text == "Guten Tag") == (code == "ok")


def test_a_stream_of_tool_calls_is_joined() -> None:
    """Parquill joins tool calls whose names come once and whose arguments come in pieces."""
    stream = [
        _chunk(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]),
        _chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        _chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    found = _ask("chat", _server_sent(*stream), {"content-type": "text/event-stream"})
    assert found.reply is not None
    assert orjson.loads(found.reply.text or "") == [
        {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}, "id": "c1"}
    ]


def test_streams_of_the_other_apis_are_joined() -> None:
    """Legacy completions stream pieces of text, and the Responses API sends the whole reply in its last event."""
    pieces = [{"choices": [{"text": part, "finish_reason": None}]} for part in ("Grüße, ", "世界 🙂")]
    last = {"choices": [{"text": "", "finish_reason": "stop"}], "usage": USAGE}
    found = _ask("completions", _server_sent(*pieces, last, b"[DONE]"), {"content-type": "text/event-stream"})
    assert found.reply is not None
    assert (found.rule, found.reply.text) == (TABLE["ok"], TEXT)
    events_of: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"status": "in_progress", "output": []}},
        {"type": "response.output_text.delta", "delta": "Grüße"},
        {"type": "response.completed", "response": RESPONSE},
    ]
    named = b"".join(b"event: %b\n" % e["type"].encode() + _server_sent(e) for e in events_of)
    found = _ask("responses", named, {})
    assert found.reply is not None
    assert (found.rule, found.reply.text) == (TABLE["ok"], TEXT)


@pytest.mark.parametrize(
    "body",
    [b"", b"data: [DONE]\n\n", b"data: {\n\n", b": ping\n\n", b"data: []\n\n"],
)
def test_a_stream_without_an_answer_is_no_answer(body: bytes) -> None:
    """A stream without an answer is an unreadable reply, not an empty answer."""
    assert _ask("chat", body, {"content-type": "text/event-stream"}).rule is TABLE["bad_reply"]


def test_a_bomb_is_not_unpacked() -> None:
    """The limit on a reply's size also applies to what Parquill unpacks."""
    bomb = gzip.compress(b" " * (64 << 20))
    assert unwrap({"content-encoding": "gzip"}, bomb, 1 << 20) is None
    assert unwrap({}, bomb, 1 << 20) is None
    assert _ask("chat", bomb, {"content-encoding": "gzip"}).rule is TABLE["bad_reply"]


@given(
    st.binary(max_size=300),
    st.sampled_from(["", "gzip", "deflate", "br", "gzip, deflate", "\x00"]),
    st.text(max_size=30),
)
def test_no_bytes_raise(data: bytes, encoding: str, content_type: str) -> None:
    """For any bytes and headers, `unwrap` returns bytes or None and never raises."""
    found = unwrap({"content-encoding": encoding, "content-type": f"x; charset={content_type}"}, data, 1_000)
    assert found is None or isinstance(found, bytes)
    assert all(not isinstance(event, bytes) for event in events(data))
