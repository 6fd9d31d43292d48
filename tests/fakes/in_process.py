"""The fake service as an httpx transport: no process, no socket, no waiting.

service = InProcess(batch={"rows_per_s": 10})
client = httpx.Client(transport=service, base_url=service.url)  # or AsyncClient
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import orjson

from .controls import Controls
from .exchange import Manner, Reply, Request
from .fake_openai import Service
from .options import Options
from .running import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_PIECE_BYTES = 65_536


class InProcess(Controls, httpx.BaseTransport, httpx.AsyncBaseTransport):
    """One service for the clients of one process, with the controls of a running one.

    A reply that takes longer than the client's timeout is a ReadTimeout at once; latency is not waited for.
    """

    origin = "http://fake.test"
    url = origin + "/v1"

    def __init__(self, **options: Any) -> None:
        self.service = Service(Options().changed(options))

    def open(self) -> InProcess:
        """Return itself, for a caller that opens a transport."""
        return self

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        return self._answer(request, request.read())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        return self._answer(request, await request.aread())

    def _answer(self, request: httpx.Request, body: bytes) -> httpx.Response:
        head = b"".join(b"\r\n%b: %b" % (name, value) for name, value in request.headers.raw)
        target = request.url.raw_path
        reply = self.service.respond(Request(request.method.encode(), target, head, body, time.monotonic()))
        timeout_s = request.extensions.get("timeout", {}).get("read")
        endless = reply.manner in {Manner.HANG, Manner.HALF, Manner.DRIP, Manner.ENDLESS}
        if endless or (timeout_s is not None and reply.delay_s > timeout_s):
            raise httpx.ReadTimeout("The service did not answer in time.", request=request)
        if reply.manner in {Manner.NOTHING, Manner.CUT}:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)
        lines = (line.partition(b":") for line in reply.headers.split(b"\r\n") if line)
        headers = [(name, value.strip()) for name, _, value in lines] + [(b"content-type", reply.content_type)]
        return httpx.Response(reply.status, headers=headers, stream=_Body(reply), request=request)

    def _ask(self, method: str, path: str, content: bytes | None = None) -> Any:
        reply = self.service.respond(Request(method.encode(), path.encode(), b"", content or b"", time.monotonic()))
        if reply.status >= 400:
            raise ServiceError(f"{method} {path}: {reply.status} {reply.body.decode()}")
        return orjson.loads(reply.body)


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces; a broken one ends in the middle."""

    def __init__(self, reply: Reply) -> None:
        self._breaks = reply.manner is Manner.BROKEN
        self._bytes = reply.body[: len(reply.body) // 2] if self._breaks else reply.body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._bytes), _PIECE_BYTES):
            yield self._bytes[start : start + _PIECE_BYTES]
        if self._breaks:
            raise httpx.RemoteProtocolError("The connection was closed before the end of the body.")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece
