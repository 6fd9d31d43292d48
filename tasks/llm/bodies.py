"""Unwraps the body of a reply from what a gateway may add: compression, a charset, a stream of events.

Parquill asks for identity encoding and for one JSON document, but an answer in another wrapping is billed all the same.
The unpacked body is bounded like any other reply.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

MAX_EVENTS = 1_000_000
END = "[DONE]"
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def unwrap(headers: Mapping[str, str], data: bytes, max_bytes: int) -> bytes | None:
    """Return the body as UTF-8 without compression; None if it cannot be unpacked or grows beyond `max_bytes`.

    Bytes that are not text in the declared charset stay as they are: the reader decides.
    """
    plain = _decompress(headers.get("content-encoding", ""), data, max_bytes)
    if plain is None:
        return None
    charset = _charset(headers.get("content-type", ""))
    for mark, name in _BYTE_ORDER_MARKS.items():
        if plain.startswith(mark):
            plain, charset = plain[len(mark) :], name
            break
    if charset in {"", "utf-8", "utf8", "us-ascii", "ascii"}:
        return plain
    try:
        return plain.decode(charset).encode("utf-8", "surrogatepass")
    except (LookupError, ValueError):  # an unknown charset, a name with a NUL, or bytes of another charset
        return plain


def _charset(content_type: str) -> str:
    for part in content_type.split(";")[1:]:
        name, _, value = part.partition("=")
        if name.strip().casefold() == "charset":
            return value.strip().strip("\"'").casefold()[:40]
    return ""


def _decompress(encoding: str, data: bytes, max_bytes: int) -> bytes | None:
    names = [name.strip().casefold() for name in encoding.split(",") if name.strip()]
    names = [name for name in names if name != "identity"]
    if not names:
        return _inflate(data, 31, max_bytes) if data.startswith(_GZIP) else data
    for name in reversed(names):  # the last one was applied last
        # promise: A5 a compressed answer is decompressed and read
        if name in {"gzip", "x-gzip"}:
            unpacked = _inflate(data, 31, max_bytes)
        elif name == "deflate":  # with a zlib header by the standard, without one by some servers
            unpacked = _inflate(data, 15, max_bytes) or _inflate(data, -15, max_bytes)
        else:
            unpacked = None
        if unpacked is None:
            # a gateway may have unpacked the body and kept the header
            return data if data.lstrip()[:1] in {b"{", b"["} else None
        data = unpacked
    return data


def _inflate(data: bytes, window_bits: int, max_bytes: int) -> bytes | None:
    unpacker = zlib.decompressobj(window_bits)
    try:
        unpacked = unpacker.decompress(data, max_bytes)
    except zlib.error:
        return None
    # promise: service: the unpacked size of a reply is bounded
    return unpacked if unpacker.eof and not unpacker.unconsumed_tail else None


def is_stream(headers: Mapping[str, str], data: bytes) -> bool:
    """Whether a body is a stream of server-sent events."""
    if headers.get("content-type", "").casefold().startswith("text/event-stream"):
        return True
    return data.lstrip()[:6].lower().startswith((b"data:", b"event:"))


def events(data: bytes) -> Iterator[Any]:
    """Yield the JSON documents of a stream of server-sent events in order, and END for its end mark.

    Everything that is not JSON, such as comments, is left out.

    By the standard, lines end with a line feed, a carriage return or both. Lines of one event are joined.
    """
    lines: list[bytes] = []
    count = 0
    for line in [*data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), b""]:
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
            continue
        if line or not lines:
            continue
        count += 1
        if count > MAX_EVENTS:
            return
        document = b"\n".join(lines)
        lines = []
        if document.strip() == END.encode():
            yield END
            continue
        try:
            found = orjson.loads(document)
        except orjson.JSONDecodeError:
            continue
        yield found
