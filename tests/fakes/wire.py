"""HTTP/1.1 on a raw asyncio protocol: only what a client of an LLM service needs, and fast."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple, cast

from .exchange import REASONS, Manner, Reply, Request

if TYPE_CHECKING:
    from .fake_openai import Service

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 67_108_864
MAX_UPLOAD_BYTES = 268_435_456
_UPLOADS = {b"/v1/files", b"/openai/v1/files"}
_PIECE_BYTES = 65_536
_DRIP_S = 0.05
_ENDLESS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
_BLOCK = b"10000\r\n" + b" " * 65_536 + b"\r\n"


class _Head(NamedTuple):
    method: bytes
    target: bytes
    length: int
    keep_alive: bool
    expects: bool
    problem: int  # a status with which it is refused, or 0


# The heads of one client differ in little but the length, so most are found here and not parsed again.
_known_heads: dict[bytes, _Head] = {}


def parse_head(head: bytes) -> _Head:
    """Parse a head, without the blank line that ends it."""
    known = _known_heads.get(head)
    if known is not None:
        return known
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _Head(b"", b"", 0, keep_alive=False, expects=False, problem=400)
    fields = (line.partition(b":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    length = headers.get(b"content-length", b"0")
    connection = headers.get(b"connection", b"").lower()
    keep_alive = connection == b"keep-alive" if words[2] == b"HTTP/1.0" else connection != b"close"
    problem = 0
    if b"transfer-encoding" in headers:
        problem = 411
    elif not length.isdigit():
        problem = 400
    elif int(length) > (MAX_UPLOAD_BYTES if words[1] in _UPLOADS else MAX_BODY_BYTES):
        problem = 413
    size = 0 if problem else int(length)
    expects = headers.get(b"expect", b"").lower() == b"100-continue"
    parsed = _Head(words[0], words[1], size, keep_alive, expects, problem)
    if len(_known_heads) < 4096:
        _known_heads[head] = parsed
    return parsed


class Connection(asyncio.Protocol):
    """One connection: requests are answered one after another, in order."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.loop = loop
        self.last_digest: bytes | None = None
        self.waiting: Reply | None = None
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 0
        self._keep_alive = True
        self._continued = False
        self._paused = False
        self._rest: memoryview | None = None
        self._breaks = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is not a subclass
        self.service.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the end of the connection, with the answers that the client never got."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self.service.disconnected(self, reset=exc is not None)

    def abort(self) -> None:
        """Close at once: the service stops."""
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """The client reads too slowly for a long body."""
        self._paused = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._paused = False
        if self._rest is not None:
            self._stream()

    def data_received(self, data: bytes) -> None:
        """Take bytes; serve every request that is complete."""
        if self._have:
            self._chunks.append(data)
            self._have += len(data)
            # A join only when all is there avoids a copy of many megabytes for each part.
            if self._have < self._need or self.waiting is not None:
                return
            data = b"".join(self._chunks)
        self._chunks = []
        self._have = self._need = 0
        self._serve(data)

    def _serve(self, data: bytes) -> None:
        while data:
            end = -1 if self.waiting is not None else data.find(b"\r\n\r\n")
            if end < 0:
                self._keep(data, 0)
                if self.waiting is None and len(data) > MAX_HEAD_BYTES:
                    self._refuse(431)
                return
            head = data[:end]
            parsed = parse_head(head)
            if parsed.problem:
                self._refuse(parsed.problem)
                return
            total = end + 4 + parsed.length
            if len(data) < total:
                if parsed.expects and not self._continued and self._transport is not None:
                    self._continued = True
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._keep(data, total)
                return
            self._continued = False
            self._keep_alive = parsed.keep_alive
            body = data[end + 4 : total]
            data = data[total:]
            self._answer(Request(parsed.method, parsed.target, head, body, time.monotonic()))
            if self._transport is None or self._transport.is_closing():
                return

    def _keep(self, data: bytes, need: int) -> None:
        self._chunks = [data]
        self._have, self._need = len(data), need

    def _refuse(self, status: int) -> None:
        self._keep_alive = False
        self._write(Reply(status, b'{"error":{"message":"%b"}}' % REASONS[status]))

    def _answer(self, request: Request) -> None:
        reply = self.service.respond(request)
        if reply.delay_s:
            self.waiting = reply
            self.service.started()
            self._timer = self.loop.call_later(reply.delay_s, self._answer_late, reply)
        elif reply.manner in {Manner.WHOLE, Manner.NOTHING, Manner.CUT}:
            self._write(reply)
        else:
            self.waiting = reply
            self.service.started()
            self._write(reply)

    def _answer_late(self, reply: Reply) -> None:
        self._write(reply)
        if reply.manner in {Manner.WHOLE, Manner.NOTHING, Manner.CUT} and self.waiting is not None:
            self._done()

    def _done(self) -> None:
        """The reply is out; continue with what came meanwhile."""
        self.waiting = None
        self.service.finished()
        if self._chunks and self._transport is not None and not self._transport.is_closing():
            data = b"".join(self._chunks)
            self._chunks, self._have, self._need = [], 0, 0
            self._serve(data)

    def _write(self, reply: Reply) -> None:
        transport = self._transport
        if transport is None:
            return
        manner = reply.manner
        self.service.answered(reply)
        if manner is Manner.WHOLE:
            self.last_digest = reply.digest
            transport.write(self._head_of(reply) + reply.body)
            if not self._keep_alive:
                transport.close()
        elif manner is Manner.NOTHING:
            transport.close()
        elif manner is Manner.CUT:
            transport.write(self._head_of(reply))
            transport.close()
        elif manner is Manner.HALF:
            transport.write(self._head_of(reply) + reply.body)
        elif manner is Manner.DRIP:
            transport.write(self._head_of(reply))
            self._drip(reply.body)
        elif manner is Manner.ENDLESS:
            transport.write(_ENDLESS_HEAD)
            self._flood()
        elif manner is not Manner.HANG:
            transport.write(self._head_of(reply))
            half = len(reply.body) // 2 if manner is Manner.BROKEN else None
            self._rest, self._breaks = memoryview(reply.body)[:half], half is not None
            self._stream()

    def _head_of(self, reply: Reply) -> bytes:
        length = len(reply.body) if reply.declared_length is None else reply.declared_length
        reason = REASONS.get(reply.status, b"Unknown")
        end = b"\r\n" if self._keep_alive else b"connection: close\r\n\r\n"
        is_chunked = reply.manner in {Manner.STREAM, Manner.BROKEN}
        size = b"transfer-encoding: chunked" if is_chunked else b"content-length: %d" % length
        return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%b\r\n%b%b" % (
            reply.status, reason, reply.content_type, size, reply.headers, end,
        )  # fmt: skip

    def _stream(self) -> None:
        """Write pieces until the client reads too slowly; `resume_writing` continues."""
        while self._rest is not None and self._transport is not None and not self._paused:
            piece, rest = self._rest[:_PIECE_BYTES], self._rest[_PIECE_BYTES:]
            if piece:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)))
            self._rest = rest or None
            if self._rest is None and self._breaks:
                self._transport.close()
            elif self._rest is None:
                self._transport.write(b"0\r\n\r\n")
                if not self._keep_alive:
                    self._transport.close()
                self._done()

    def _drip(self, rest: bytes) -> None:
        if self._transport is None:
            return
        self._transport.write(rest[:1])
        if len(rest) > 1:
            self._timer = self.loop.call_later(_DRIP_S, self._drip, rest[1:])
        else:
            self._done()

    def _flood(self) -> None:
        if self._transport is None:
            return
        if not self._paused:
            self._transport.write(_BLOCK)
        self._timer = self.loop.call_later(0.001, self._flood)
