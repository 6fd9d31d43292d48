"""A managed identity of Azure's App Service on this machine: the endpoint that azure-identity asks for tokens there.

GET ?api-version=2019-08-01&resource=... with the header X-IDENTITY-HEADER, as in
https://learn.microsoft.com/azure/app-service/overview-managed-identity (REST endpoint reference).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Identity:
    """A running identity service: `tokens` are given in turn, the last one again; `resources` were asked for."""

    def __init__(self, tokens: list[str], lifetime_s: int = 3_600) -> None:
        self.tokens, self.lifetime_s = tokens, lifetime_s
        self.header = "a-header-of-this-app"
        self.resources: list[str] = []
        self.is_refusing = False
        self.url = ""

    @property
    def environment(self) -> dict[str, str]:
        """What an app finds in its environment."""
        return {"IDENTITY_ENDPOINT": self.url, "IDENTITY_HEADER": self.header}

    def answer(self, target: str, header: str | None) -> tuple[int, dict[str, str]]:
        """Return status and document for a request."""
        asked = parse_qs(urlsplit(target).query)
        if self.is_refusing or header != self.header or asked.get("api-version") != ["2019-08-01"]:
            return 400, {"error": "invalid_request", "error_description": "AADSTS7000215: Invalid client secret"}
        self.resources += asked["resource"]
        token = self.tokens[min(len(self.resources), len(self.tokens)) - 1]
        expires_on = str(int(time.time()) + self.lifetime_s)
        return 200, {"access_token": token, "expires_on": expires_on, "token_type": "Bearer"}


@contextmanager
def identity_service(*tokens: str, lifetime_s: int = 3_600) -> Iterator[Identity]:
    """Run an identity service on a free port of this machine."""
    identity = Identity(list(tokens), lifetime_s)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = identity.answer(self.path, self.headers.get("X-IDENTITY-HEADER"))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    identity.url = f"http://127.0.0.1:{server.server_address[1]}/msi/token"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield identity
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
