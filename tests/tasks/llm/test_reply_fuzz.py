"""For any bytes that a service sends, reading them ends quickly in one of the documented outcomes and never raises."""

from __future__ import annotations

import asyncio
import math
import time
from functools import cache
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.limits.limiter import RateLimiter
from parquill.tasks.llm.client import Client, aiohttp_transport
from parquill.tasks.llm.failures import Failure
from parquill.tasks.llm.outcomes import TABLE, Money
from parquill.tasks.llm.protocol import APIS, Api
from parquill.tasks.llm.usage import MAX_TOKENS
from tests.tools.small_jobs import resolved_job

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 5,
    "total_tokens": 25,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
GENUINE: dict[str, dict[str, Any]] = {
    "chat": {
        "id": "chatcmpl-1",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": [{"id": "a"}]},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    },
    "completions": {
        "id": "cmpl-1",
        "model": "m",
        "choices": [{"index": 0, "text": "Hi", "finish_reason": "length"}],
        "usage": USAGE,
    },
    "responses": {
        "id": "resp-1",
        "model": "m",
        "status": "completed",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [
            {"type": "message", "content": [{"type": "output_text", "text": "Hi"}, {"refusal": None}]},
            {"type": "function_call", "arguments": "{}"},
        ],
        "usage": {
            "input_tokens": 20,
            "output_tokens": 5,
            "total_tokens": 25,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens_details": {"reasoning_tokens": 2},
        },
    },
}
WORDS = ["stop", "length", "content_filter", "max_output_tokens", "", "\ud800", "\x1b[2J", "x" * 500]
ODD = st.sampled_from([0, -1, 1, True, False, None, 5.5, 1e308, 2**63, 2**64, 10**30, MAX_TOKENS, MAX_TOKENS + 1])
JSON = st.recursive(
    ODD | st.sampled_from(WORDS) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "content", "x"]), inner),
    max_leaves=6,
)


@cache
def _api(name: str) -> Api:
    return APIS[name](_job(name))


def _job(api: str, url: str = "http://localhost:1/v1", **changes: Any) -> Any:
    return resolved_job(
        {
            "name": "x",
            "input": "i",
            "output": "o",
            "prompt": {"user": "x"},
            "model": "gpt-4o-mini",
            "max_output_tokens": 10,
            "endpoint": {"base_url": url, "api": api},
            **changes,
        }
    )


def check_reply(api: str, data: bytes) -> None:
    """Read a reply and check that the result is a possible answer."""
    reply = _api(api).read(data)
    if reply is None:
        return
    if isinstance(reply, Failure):
        rule, _ = reply.rule(retry_after=False)
        assert rule in TABLE.values()
        assert rule.status != "ok"
        assert reply.money(rule) is not Money.UNPAID or not (reply.has_text or reply.usage)
        assert reply.retry_after_s is None or 0 <= reply.retry_after_s <= 60
        return
    assert TABLE[reply.code].money is Money.BILLED
    if reply.text is not None:
        reply.text.encode()
    for label in (reply.finish_reason, reply.model, reply.request_id):
        assert label is None or (len(label) <= 200 and label.isprintable() and len(label.encode()) >= len(label))
    if reply.usage is not None:
        usage = reply.usage
        for count in usage:
            assert type(count) is int
            assert 0 <= count <= MAX_TOKENS
        assert usage.cached + usage.cache_write <= usage.prompt
        assert usage.reasoning <= usage.completion


def _locations(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) below a document."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [location for key in keys for location in [(value, key), *_locations(value[key])]]


def _dump(value: Any) -> bytes:
    import json  # services may send what orjson refuses: lone surrogates, huge integers

    return json.dumps(value).encode()


@settings(max_examples=300)
@given(st.sampled_from(list(GENUINE)), st.data())
def test_a_document_with_anything_in_any_place_is_read(api: str, data: st.DataObject) -> None:
    """If any values replace members of a genuine reply, it is an answer of the table or not a reply."""
    document = orjson.loads(orjson.dumps(GENUINE[api]))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(_locations(document)))
        container[key] = data.draw(JSON)
        if not _locations(document):
            break
    check_reply(api, _dump(document))


@settings(max_examples=300)
@given(st.sampled_from(list(GENUINE)), st.lists(st.tuples(st.integers(0, 500), st.binary(max_size=4)), max_size=4))
def test_a_reply_with_any_bytes_changed_is_read(api: str, changes: list[tuple[int, bytes]]) -> None:
    """If bytes of a genuine reply are replaced, added or removed, it is an answer of the table or not a reply."""
    data = bytearray(orjson.dumps(GENUINE[api]))
    for offset, new in changes:
        data[offset : offset + 2] = new
    check_reply(api, bytes(data))


@settings(max_examples=200)
@given(st.sampled_from(list(GENUINE)), st.binary(max_size=200))
def test_any_bytes_are_read(api: str, data: bytes) -> None:
    """Random bytes end in one of the documented outcomes."""
    check_reply(api, data)


@pytest.mark.parametrize("api", GENUINE)
def test_deep_values_are_read_in_every_place(api: str) -> None:
    """A value nested as deeply as the parsers allow breaks no reader, at any position."""
    for number in range(len(_locations(GENUINE[api]))):
        document = orjson.loads(orjson.dumps(GENUINE[api]))
        container, key = _locations(document)[number]
        container[key] = "DEEP"
        for depth in (300, 990, 1_005, 1_015):
            deep = b"[" * depth + b"]" * depth
            check_reply(api, orjson.dumps(document).replace(b'"DEEP"', deep))


@pytest.mark.parametrize(
    "piece",
    [
        b"[],",
        b'{"a":1},',
        b'"\\ud800",',
        b"9" * 50 + b",",
        b"NaN,",
        b'"' + b"\\\\" * 50 + b'",',
        b'{"type":"message","content":[{"text":"x"}]},',
    ],
    ids=repr,
)
@pytest.mark.parametrize("api", GENUINE)
@pytest.mark.nightly  # it measures CPU time
def test_a_megabyte_of_anything_is_read_in_proportion(api: str, piece: bytes) -> None:
    """The time to read a reply grows with its size, and the worst megabyte takes less than two seconds."""
    name = b"output" if api == "responses" else b"choices"
    for size in (1 << 18, 1 << 20):
        body = b'{"%b":[%b{}],"x":NaN}' % (name, piece * (size // len(piece)))
        began = time.process_time()
        check_reply(api, body)
        assert time.process_time() - began < 2 * size / (1 << 20)


HEADERS = ["limit-requests", "remaining-requests", "limit-tokens", "remaining-tokens"]
FIGURE = st.sampled_from(["-1", "NaN", "1e309", "", "0", "1", "9" * 15, "9" * 400, "\u0665", "5 5", "0x10"]) | st.text(
    max_size=8
)


@settings(max_examples=300)
@given(st.lists(st.dictionaries(st.sampled_from([f"x-ratelimit-{name}" for name in HEADERS]), FIGURE), max_size=5))
def test_any_limit_headers_leave_a_finite_wait(replies: list[dict[str, str]]) -> None:
    """For any x-ratelimit headers, the next request leaves after a finite wait of at most 121 s."""
    limits = RateLimiter(8, clock=lambda: 100.0, sleep=asyncio.sleep)
    for headers in replies:
        limits.learn(99.0, headers)
    for meter in limits.meters:
        wait = meter.wait_s(100.0, 500)
        assert math.isfinite(wait)
        assert 0 <= wait <= 121


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"


@pytest.mark.integration
def test_any_bytes_on_the_wire_end_in_an_outcome() -> None:
    """Genuine HTTP replies with random bytes changed end in a line of the table, and the client never raises."""
    import random

    draw, body = random.Random(5), orjson.dumps(GENUINE["chat"])
    whole = [HEAD % len(body) + body, CHUNKS % (len(body), body)]
    replies = []
    for _ in range(400):
        reply = bytearray(draw.choice(whole))
        for _ in range(draw.randint(1, 6)):
            offset = draw.randrange(min(len(reply), 120))
            reply[offset : offset + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
        replies.append(bytes(reply))

    async def run() -> list[Any]:
        left = iter(replies)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}]}")
            writer.write(next(left))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        transport = aiohttp_transport()
        client = Client(_job("chat", url, retry={"timeout_s": 60}), None, transport)
        found = [await client.send('[{"role":"user","content":"x"}]', None) for _ in replies]
        await transport.aclose()
        server.close()
        await server.wait_closed()
        return found

    found = asyncio.run(run())
    assert {result.rule for result in found} <= set(TABLE.values())
    assert {"ok", "connection_lost", "bad_reply"} <= {result.rule.code or "ok" for result in found}
    assert all(isinstance(result.headers, httpx.Headers) for result in found)
