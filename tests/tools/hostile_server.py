"""A hostile service on a raw socket: `python -m tests.tools.hostile_server`.

A prompt names its attack: `<drip_head> ...`.

It writes `READY <port>` to stdout and serves 127.0.0.1 until SIGTERM, with a thread for each connection. A prompt
without a name gets a good answer with its own text, so that an answer in the wrong row shows. GET /seen returns as JSON
how many requests came for each name, and what must never come: a cookie, or a path that was not configured.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import orjson

NAMED = re.compile(rb"<([a-z0-9_]+)>")


class Gone(Exception):
    """The client has closed the connection."""


class Talk:
    """One request on one connection, for an attack to read and write. `again`: how often this name came before."""

    def __init__(self, connection: Connection, head: bytes, body: bytes, name: str, again: int) -> None:
        self.head, self.body, self.name, self.again = head, body, name, again
        self.socket = connection.socket
        self.keep_alive = False

    @property
    def text(self) -> str:
        """Return the prompt."""
        prompt: str = orjson.loads(self.body)["messages"][-1]["content"]
        return prompt

    def send(self, data: bytes) -> Talk:
        """Send bytes. Raises Gone."""
        try:
            self.socket.sendall(data)
        except OSError:
            raise Gone from None
        return self

    def flood(self, block: bytes) -> None:
        """Send the same bytes until the client goes away."""
        block *= max(1, 65_536 // len(block))
        while True:
            self.send(block)

    def drip(self, data: bytes, every_s: float = 0.02) -> None:
        """Send byte by byte, and repeat the last one forever."""
        while True:
            self.send(data[:1])
            data = data[1:] or data
            self.hold(every_s)

    def hold(self, seconds: float = 30.0) -> None:
        """Wait. Raises Gone as soon as the client closes."""
        self.socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            try:
                gone = not self.socket.recv(1)
            except ConnectionError:
                gone = True
            if gone:
                raise Gone
        self.socket.settimeout(30.0)

    def reset(self) -> None:
        """End with RST in place of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def document(self, **changes: object) -> dict[str, object]:
        """Return a good answer, which names the prompt that it answers."""
        message = {"role": "assistant", "content": answer_to(self.text)}
        return {
            "id": "chatcmpl-1",
            "model": "gpt-4o-mini",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
            **changes,
        }

    def good(self, **changes: object) -> bytes:
        """Return a good answer as JSON."""
        return orjson.dumps(self.document(**changes))


def answer_to(text: str) -> str:
    """Return the text of a good answer to a prompt."""
    return f"answer to {text[:60]}"


def reply(
    body: bytes, *headers: bytes, status: bytes = b"200 OK", length: int | None = None, keep: bool = False
) -> bytes:
    """Return a whole reply, which says whether the connection closes after it."""
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % (len(body) if length is None else length), *headers]
    if not keep:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Seen:
    """Counts of what came, over all connections."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count(self, name: str) -> int:
        """Count once, and return how often the name was counted before."""
        with self._lock:
            self._counts[name] += 1
            return self._counts[name] - 1

    def as_json(self) -> bytes:
        """Return all counts as JSON."""
        with self._lock:
            return orjson.dumps(self._counts)


class Connection:
    """Serves one client until one side closes."""

    def __init__(self, accepted: socket.socket, seen: Seen) -> None:
        self.socket, self._seen = accepted, seen
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.settimeout(30.0)

    def serve(self) -> None:
        """Take request after request."""
        from tests.tools.attacks import ATTACKS

        self._seen.count("connections")
        with self.socket, contextlib.suppress(Gone, OSError):
            for head, body in self._requests():
                if head.startswith(b"GET /seen "):
                    self.socket.sendall(reply(self._seen.as_json()))
                    continue
                if not head.startswith(b"POST /v1/chat/completions "):
                    self._seen.count("strange_path")
                if b"\r\ncookie:" in head.lower():
                    self._seen.count("cookie")
                found = NAMED.search(body)
                name = found[1].decode() if found else "good"
                talk = Talk(self, head, body, name, self._seen.count(name))
                ATTACKS[name].act(talk)
                if not talk.keep_alive:
                    return

    def _requests(self) -> Iterator[tuple[bytes, bytes]]:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                data += self._receive()
            head, _, data = data.partition(b"\r\n\r\n")
            found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            length = int(found[1]) if found else 0
            while len(data) < length:
                named = NAMED.search(data)
                if named and named[1].startswith(b"unread"):
                    break  # this attack acts before it has read the request
                data += self._receive()
            yield head, data[:length]
            data = data[length:]

    def _receive(self) -> bytes:
        data = self.socket.recv(65_536)
        if not data:
            raise Gone
        return data


def main() -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    seen = Seen()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        sys.stdout.write(f"READY {listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            accepted, _ = listener.accept()
            threading.Thread(target=Connection(accepted, seen).serve, daemon=True).start()


if __name__ == "__main__":
    main()
