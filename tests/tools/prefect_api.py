"""Requests of tests to a Prefect server, repeated like those of its own clients if its SQLite is busy."""

from __future__ import annotations

import time
from typing import Any

import httpx

ANSWER_S = 90.0  # a Prefect server on SQLite waits up to 60 s for its own lock
TRIES = 10
PAUSE_S = 0.5
TLS = httpx.create_ssl_context()  # made once: it reads every certificate, which takes 25 ms


def ask_prefect(address: str, method: str, path: str, **body: Any) -> Any:
    """Ask the API at an address; return its answer, decoded, or None if it is empty.

    Prefect answers 503 while its database is locked, so that clients try again ("Send 503 for errors clients can retry
    on", prefect/server/api/server.py). Raises AssertionError on any other answer that is not a success.
    """
    for _ in range(TRIES):
        reply = httpx.request(
            method,
            address + path,
            json=None if method == "GET" else body,
            timeout=ANSWER_S,
            verify=TLS,
            trust_env=False,
        )
        if reply.status_code != 503:
            break
        time.sleep(PAUSE_S)  # another transaction holds the lock of a real server's database
    assert reply.status_code < 300, f"{method} {path}: {reply.status_code} {reply.text}"
    return reply.json() if reply.content else None


def is_up(address: str) -> bool:
    """Return whether a server answers at the address of its API."""
    try:
        return httpx.get(f"{address}/health", timeout=2, verify=TLS, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
