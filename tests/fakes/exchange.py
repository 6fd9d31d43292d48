"""What passes between the socket and the service: a request as it came, a reply as it is to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

JSON = b"application/json"


class Manner(Enum):
    """How a reply goes over the wire; all but WHOLE and STREAM are faults."""

    WHOLE = auto()
    NOTHING = auto()  # closed without one byte
    CUT = auto()  # closed after the headers
    HANG = auto()  # never a byte, the connection stays open
    HALF = auto()  # the headers and the body, then silence: more was promised than sent
    DRIP = auto()  # one byte at a time
    ENDLESS = auto()  # a chunked body without an end
    STREAM = auto()  # a chunked body, as fast as the client reads; no fault
    BROKEN = auto()  # half of a chunked body, then closed


@dataclass(slots=True)
class Request:
    """One request; its head is not parsed yet."""

    method: bytes
    target: bytes
    head: bytes
    body: bytes
    at: float

    def header(self, name: bytes) -> bytes:
        """Return the value of a header, empty if there is none; the head is searched only on this call."""
        start = self.head.lower().find(b"\r\n" + name + b":")
        if start < 0:
            return b""
        start += len(name) + 3
        end = self.head.find(b"\r\n", start)
        return self.head[start : end if end >= 0 else None].strip()

    def headers(self) -> dict[str, str]:
        """Return all headers, with names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}


@dataclass(slots=True)
class Reply:
    """A status, a body and how they are sent."""

    status: int
    body: bytes
    headers: bytes = b""  # whole lines, each ended by CR LF
    content_type: bytes = JSON
    manner: Manner = Manner.WHOLE
    delay_s: float = 0.0
    declared_length: int | None = None  # another content-length than the true one
    digest: bytes | None = None  # of the request that it answers; only for admitted requests
    entry: dict[str, object] | None = None  # its place in the log


REASONS = {
    200: b"OK", 307: b"Temporary Redirect", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden",
    404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout", 409: b"Conflict", 411: b"Length Required",
    413: b"Content Too Large", 422: b"Unprocessable Content", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 502: b"Bad Gateway",
    503: b"Service Unavailable", 504: b"Gateway Timeout", 529: b"Overloaded",
}  # fmt: skip
