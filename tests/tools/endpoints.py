"""Several services in simulated time, each of which may fail for a part of the day."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from tests.tools.simulated_day import USAGE, SimulatedService

Fault = Callable[[], tuple[int, dict[str, Any]]]  # raises, or returns a reply


def refused_connection() -> tuple[int, dict[str, Any]]:
    """Fail before anything is sent."""
    raise httpx.ConnectError("refused")


def server_error() -> tuple[int, dict[str, Any]]:
    """Answer with an error of the service."""
    return 500, {"error": {"message": "The server had an error", "type": "server_error"}}


def bad_key() -> tuple[int, dict[str, Any]]:
    """Refuse the key."""
    return 401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}


def no_quota() -> tuple[int, dict[str, Any]]:
    """Refuse for an account without credit."""
    return 429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}


def no_such_model() -> tuple[int, dict[str, Any]]:
    """Refuse the model."""
    return 404, {"error": {"message": "The model does not exist", "code": "model_not_found"}}


@dataclass
class Outage:
    """A fault of one host, from a second of the day to another one."""

    host: str
    fault: Fault | None  # None hangs
    begin_s: float = 0.0
    end_s: float = float("inf")


class Services(SimulatedService):
    """Services that answer after a second, each under its own host; `sent` has the times of the requests to each."""

    def __init__(self, *outages: Outage, latency_s: float = 1.0) -> None:
        self._outages, self._latency_s = outages, latency_s
        self.sent: dict[str, list[float]] = defaultdict(list)
        self.answered: Counter[str] = Counter()
        self.headers: dict[str, set[str | None]] = defaultdict(set)
        self.bodies: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.refuses: dict[str, str] = {}  # a parameter of requests, by host
        self.bad_texts: set[str] = set()  # that every host refuses
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()

    def open(self) -> Services:
        """Return itself, for a caller that opens a transport."""
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, or fail."""
        host, now = request.url.host, self.now
        self.sent[host].append(now)
        self.headers[host].add(request.headers.get("Authorization"))
        self.bodies[host].append(orjson.loads(await request.aread()))
        for of in (host, "all"):
            self.at_once[of] += 1
            self.most_at_once[of] = max(self.most_at_once[of], self.at_once[of])
        try:
            status, document = await self._reply(host, now)
        finally:
            self.at_once[host] -= 1
            self.at_once["all"] -= 1
        return httpx.Response(status, content=orjson.dumps(document), request=request)

    async def _reply(self, host: str, now: float) -> tuple[int, dict[str, Any]]:
        for outage in self._outages:
            if outage.host == host and outage.begin_s <= now < outage.end_s:
                await asyncio.sleep(0.1 if outage.fault is not None else 1e6)
                return (outage.fault or server_error)()
        if (refused := self.refuses.get(host)) in self.bodies[host][-1]:
            return 400, {"error": {"message": f"Unsupported parameter: '{refused}'", "param": refused}}
        content = self.bodies[host][-1]["messages"][-1]["content"]
        if content in self.bad_texts:
            return 400, {"error": {"message": "Invalid text"}}
        await asyncio.sleep(self._latency_s)
        self.answered[host] += 1
        text = f"answer to {content}"
        return 200, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": USAGE}


def endpoints(*hosts: str, **each: Any) -> list[dict[str, Any]]:
    """Return endpoints at hosts, with the settings of `each`; a list has one value for each host."""
    return [
        {
            "base_url": f"https://{host}/v1",
            **{name: value[at] if isinstance(value, list) else value for name, value in each.items()},
        }
        for at, host in enumerate(hosts)
    ]
