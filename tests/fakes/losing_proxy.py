"""A proxy to Prefect's server that loses one answer: the request is carried out, and the client gets no reply."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator

import httpx

Chosen = Callable[[str, str, bytes], bool]
_HOP = {
    "connection",
    "content-length",
    "transfer-encoding",
    "content-encoding",
    "accept-encoding",
    "host",
    "keep-alive",
}


class _Losing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    origin: str
    chosen: Chosen
    asked: list[str]

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        reply = httpx.request(
            self.command, self.origin + self.path, content=body, headers=headers, timeout=60, trust_env=False
        )
        kind = type(self)
        if kind.chosen(self.command, self.path, body):
            kind.asked.append(self.path)
            if len(kind.asked) == 1:
                self.close_connection = True
                return
        self.send_response(reply.status_code)
        for name, value in reply.headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        self.wfile.write(reply.content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass_on  # noqa: N815 - the names are the library's

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def losing(api: str, chosen: Chosen) -> Iterator[tuple[str, list[str]]]:
    """Run a proxy for the API at an address; yield its address and the chosen paths that were requested.

    The answer to the first chosen request is lost.
    """
    origin, _, path = api.partition("/api")
    asked: list[str] = []
    kind = type("_LosingOne", (_Losing,), {"origin": origin, "chosen": staticmethod(chosen), "asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api{path}", asked
    finally:
        server.shutdown()
        server.server_close()
