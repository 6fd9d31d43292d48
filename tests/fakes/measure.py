"""Measures the speed of the fake service: `python -m tests.fakes.measure --connections 64 512 --latency-ms=50`.

The client is as small as the server, so on two cores the server is the bottleneck; the server's CPU time per request
does not depend on the client.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from itertools import cycle
from typing import TYPE_CHECKING, cast

import orjson
import uvloop

from .running import FakeService, fake_openai

if TYPE_CHECKING:
    from collections.abc import Iterator

_DISTINCT = 5_000


class _Client(asyncio.Protocol):
    """Sends the next request as soon as a reply is complete."""

    def __init__(self, requests: Iterator[bytes], counts: dict[str, int]) -> None:
        self._requests = requests
        self._counts = counts
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class is not a subclass
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        end = data.find(b"\r\n\r\n")
        start = data.find(b"content-length: ") + 16
        if end < 0 or len(data) < end + 4 + int(data[start : data.find(b"\r", start)]):
            self._rest = data
            return
        self._rest = b""
        self._counts["ok" if data[9:12] == b"200" else "other"] += 1
        if self._transport is not None:
            self._transport.write(next(self._requests))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the name is asyncio's
        self._transport = None
        self._counts["lost"] += 1


def _bodies(size: int) -> Iterator[bytes]:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer sk-measure\r\n"
    head += b"content-type: application/json\r\naccept: application/json\r\nuser-agent: measure\r\n"
    requests = []
    for number in range(_DISTINCT):
        text = f"Translate product {number}: ".ljust(size, "x")
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        body = orjson.dumps({"model": "gpt-4o-mini", "messages": messages, "max_tokens": 120, "temperature": 0})
        requests.append(head + b"content-length: %d\r\n\r\n" % len(body) + body)
    return cycle(requests)


async def _run(service: FakeService, connections: int, seconds: float, size: int) -> None:
    loop = asyncio.get_running_loop()
    counts = {"ok": 0, "other": 0, "lost": 0}
    requests = _bodies(size)
    made = [
        await loop.create_connection(lambda: _Client(requests, counts), "127.0.0.1", service.port)
        for _ in range(connections)
    ]
    await asyncio.sleep(0.5)
    before, served, started, spent = service.stats(), counts["ok"], time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    after, took = service.stats(), time.monotonic() - started
    answered, own = counts["ok"] - served, time.process_time() - spent
    for transport, _ in made:
        transport.abort()
    rate, cost = answered / took, (after["cpu_s"] - before["cpu_s"]) / answered
    sys.stdout.write(
        f"{connections:5d} connections, bodies of {size} characters: {rate:8,.0f} requests/s, server CPU "
        f"{cost * 1e6:.0f} us per request, client CPU {own / answered * 1e6:.0f} us, other {counts['other']}\n"
    )


def main() -> None:
    """Measure each number of connections against one new service; unknown options go to the service."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--characters", type=int, default=400)
    given, rest = parser.parse_known_args()
    options = dict(each.removeprefix("--").split("=", 1) for each in rest)
    for connections in given.connections:
        with fake_openai(**options) as service:
            uvloop.run(_run(service, connections, given.seconds, given.characters))


if __name__ == "__main__":
    main()
