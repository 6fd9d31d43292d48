"""The client reuses a connection only if no unrequested bytes came on it, including bytes that are still unread."""

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

HANGS_S = 60.0  # each step takes milliseconds


def _reply(text: bytes) -> bytes:
    body = b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % text
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


# What a service, or a proxy in front of it, sends after its reply.
FORGERIES = {
    "a reply": _reply(b"forged"),
    "half a reply": _reply(b"forged")[:60],
    "blank lines and a reply": b"\r\n\r\n" + _reply(b"forged"),
}
forgeries = pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES)


class _Forger:
    """A service that sends unrequested bytes after the reply to its first request when the test asks for it."""

    def __init__(self, listener: socket.socket, forged: bytes) -> None:
        self._listener = listener
        self._forged = forged
        self._asked, self._sent = threading.Event(), threading.Event()

    def forge(self) -> None:
        """Send the unrequested bytes and return when it has reached this machine."""
        self._asked.set()
        self._sent.wait(HANGS_S)

    def serve(self) -> None:
        """Answer two requests, and close a connection that is reused after the unrequested bytes."""
        first, _ = self._listener.accept()
        first.recv(65_536)
        first.sendall(_reply(b"first"))
        self._asked.wait(HANGS_S)
        first.sendall(self._forged)
        self._sent.set()
        first.settimeout(HANGS_S)
        with first, contextlib.suppress(ConnectionResetError):  # closed with the bytes unread
            if first.recv(65_536):  # the connection is reused
                first.sendall(_reply(b"too late"))
                return
        second, _ = self._listener.accept()
        with second:
            second.recv(65_536)
            second.sendall(_reply(b"second"))


@contextmanager
def _forging(forged: bytes) -> Iterator[tuple[str, _Forger]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(HANGS_S)
        forger = _Forger(listener, forged)
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


@forgeries
@pytest.mark.integration
def test_a_reply_that_waits_unread_is_not_the_next_ones_answer(forged: bytes) -> None:
    """If a second reply, or a part of one, is unread when the next request leaves, it is not used as an answer."""
    with _forging(forged) as (url, forger):
        # the event loop does not run meanwhile
        assert asyncio.run(_ask_twice(url, forger.forge)) == ["first", "second"]


@forgeries
@pytest.mark.integration
def test_a_connection_rests_before_it_is_used_again(monkeypatch: pytest.MonkeyPatch, forged: bytes) -> None:
    """No request leaves right after a reply, so the client does not use a second reply of that moment as an answer."""
    with _forging(forged) as (url, forger):

        async def rest(_seconds: float) -> None:
            forger.forge()

        monkeypatch.setattr(
            "parquill.tasks.llm.connections.REST_INTERVAL_S", 60.0
        )  # longer than any pause of this machine
        monkeypatch.setattr("parquill.tasks.llm.connections.asyncio", SimpleNamespace(sleep=rest))
        assert asyncio.run(_ask_twice(url, lambda: None)) == ["first", "second"]
