"""A connection is used again only when nothing came on it unasked, not even bytes that nobody has read yet."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from parquill.tasks.llm.client import Client, aiohttp_transport
from tests.tools.small_jobs import resolved_job

HANGS_S = 60.0  # for what takes milliseconds


def _reply(text: bytes) -> bytes:
    body = b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % text
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class _Forger:
    """A service that sends a second reply to its first request once it is told to, in the name of nobody."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._told, self._sent = threading.Event(), threading.Event()

    def forge(self) -> None:
        """Send it; it has reached this machine then."""
        self._told.set()
        self._sent.wait(HANGS_S)

    def serve(self) -> None:
        """Answer two requests, and close a connection that is used again after the forged reply."""
        first, _ = self._listener.accept()
        first.recv(65_536)
        first.sendall(_reply(b"first"))
        self._told.wait(HANGS_S)
        first.sendall(_reply(b"forged"))
        self._sent.set()
        first.settimeout(HANGS_S)
        with first, contextlib.suppress(ConnectionResetError):  # closed with the forged reply unread
            if first.recv(65_536):  # the connection is used again
                first.sendall(_reply(b"too late"))
                return
        second, _ = self._listener.accept()
        with second:
            second.recv(65_536)
            second.sendall(_reply(b"second"))


@contextmanager
def _forging() -> Iterator[tuple[str, _Forger]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(HANGS_S)
        forger = _Forger(listener)
        server = threading.Thread(target=forger.serve)
        server.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", forger
        finally:
            forger.forge()
            server.join()


async def _ask_twice(url: str, between: Callable[[], None]) -> list[str | None]:
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini"}
    job = resolved_job(
        {**least, "max_output_tokens": 10, "endpoint": {"base_url": url}, "retry": {"timeout_s": HANGS_S}}
    )
    transport = aiohttp_transport()
    client = Client(job, None, transport)
    first = await client.send("[]", None)
    between()
    second = await client.send("[]", None)
    await transport.aclose()
    return [result.reply.text for result in (first, second) if result.reply]


@pytest.mark.integration
def test_a_reply_that_waits_unread_is_not_the_next_ones_answer() -> None:
    """A second reply that reached this machine before the next request left, and that the event loop has not seen, is nobody's."""
    with _forging() as (url, forger):
        # the event loop stands still meanwhile
        assert asyncio.run(_ask_twice(url, forger.forge)) == ["first", "second"]


@pytest.mark.integration
def test_a_connection_rests_before_it_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second reply that comes in the moment after the first is nobody's, because no request leaves in that moment."""
    with _forging() as (url, forger):

        async def rest(_seconds: float) -> None:
            forger.forge()

        monkeypatch.setattr(
            "parquill.tasks.llm.connections.REST_INTERVAL_S", 60.0
        )  # longer than any pause of this machine
        monkeypatch.setattr("parquill.tasks.llm.connections.asyncio", SimpleNamespace(sleep=rest))
        assert asyncio.run(_ask_twice(url, lambda: None)) == ["first", "second"]
