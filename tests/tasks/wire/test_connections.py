"""A connection is used again only when nothing came on it unasked, not even bytes that nobody has read yet."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

from parquill.tasks.job_file import make_job
from parquill.tasks.wire.client import Client, Result, aiohttp_transport


def _reply(text: bytes) -> bytes:
    body = b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % text
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def test_a_reply_that_waits_unread_is_not_the_next_ones_answer() -> None:
    """A second reply that reached this machine before the next request left, and that the event loop has not seen, is nobody's."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)
    forged = threading.Event()

    def serve() -> None:
        first, _ = listener.accept()
        first.recv(65_536)
        first.sendall(_reply(b"first"))
        time.sleep(0.05)
        first.sendall(_reply(b"forged"))
        forged.set()
        first.settimeout(5)
        with first, contextlib.suppress(ConnectionResetError):  # closed with the forged reply unread
            if first.recv(65_536):  # the connection is used again
                first.sendall(_reply(b"too late"))
                return
        second, _ = listener.accept()
        with second:
            second.recv(65_536)
            second.sendall(_reply(b"second"))

    server = threading.Thread(target=serve)
    server.start()

    async def ask() -> list[Result]:
        least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini"}
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        job = make_job({**least, "max_output_tokens": 10, "endpoint": {"base_url": url}, "retry": {"timeout_s": 5}})
        transport = aiohttp_transport()
        client = Client(job, None, transport)
        first = await client.send("[]", None)
        forged.wait(5)  # the event loop stands still meanwhile
        second = await client.send("[]", None)
        await transport.aclose()
        return [first, second]

    try:
        found = asyncio.run(ask())
    finally:
        server.join()
        listener.close()
    assert [result.reply.text for result in found if result.reply] == ["first", "second"]
