"""Each way to buy completions, behind one face: what is sent, what was paid, and a process that ends at any call."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import orjson

from parquill.tasks.llm.client import aiohttp_transport
from parquill.tasks.llm.pace import REAL, Pace
from tests.fakes.batching import START
from tests.fakes.in_process import InProcess
from tests.tools.direct import job_of, results, run_steps, summary_of
from tests.tools.simulated_day import SimulatedService

MODEL = "gpt-6-luna"
PRICE = {"usd_per_mtok_input": "0.1", "usd_per_mtok_output": "0.5"}
HALF = {"usd_per_mtok_input": "0.05", "usd_per_mtok_output": "0.25"}
NANO = Decimal("1e-9")
COMPLETIONS = ("/chat/completions", "/responses", "/completions")


@dataclass(frozen=True)
class Kind:
    """One way to buy completions. `job` is what its jobs set; `hosts` are its services, each with its own key."""

    name: str
    job: dict[str, Any] = field(default_factory=dict)
    path: str = "/v1"
    hosts: tuple[str, ...] = ("service.example",)
    endpoint: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # of the fake service
    share: Decimal = Decimal(1)  # of the price
    url: str | None = None  # of a real service


KINDS = {
    kind.name: kind
    for kind in (
        Kind("chat", {"price": PRICE}),
        Kind("responses", {"price": PRICE}, endpoint={"api": "responses"}),
        Kind("completions", {"price": PRICE, "model": "gpt-3.5-turbo-instruct"}, endpoint={"api": "completions"}),
        Kind("flex", {"lane": "flex"}, options={"service_tier": "asked"}, share=Decimal("0.5")),
        Kind(
            "batch", {"lane": "batch"}, options={"clock_start": START, "batch": {"rows_per_s": 1}}, share=Decimal("0.5")
        ),
        Kind("azure", {"price": PRICE}, "/openai/v1", ("unit.openai.azure.com",), {"auth": "api-key"}),
        Kind(
            "azure batch",
            {"price": HALF, "lane": "batch"},
            "/openai/v1",
            ("unit.openai.azure.com",),
            {"auth": "api-key"},
            {"clock_start": START, "batch": {"rows_per_s": 1, "dialect": "azure"}},
            share=Decimal("0.5"),
        ),
        Kind("compatible", {"price": PRICE, "model": "local-model"}),
        Kind("endpoints", {"price": PRICE}, hosts=("a.example", "b.example")),
    )
}


class SimulatedKind(SimulatedService):
    """The services of a kind in the simulated time of a day; each answers after a second, or fails in an outage."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.services = kind, {host: InProcess(**kind.options) for host in kind.hosts}
        self.sent: dict[str, list[float]] = defaultdict(list)
        self.outage = (0.0, 0.0)

    @property
    def job(self) -> dict[str, Any]:
        """The settings of a job that buys from these services."""
        places = [
            {"base_url": f"https://{host}{self.kind.path}", "api_key_env": None, **self.kind.endpoint}
            for host in self.kind.hosts
        ]
        own = {"endpoint": places[0]} if len(places) == 1 else {"endpoints": places}
        return {"lane": "live", "model": MODEL, **self.kind.job, **own}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, or fail."""
        self.sent[request.url.host].append(self.now)
        begin, end = self.outage
        if begin <= self.now < end:
            await asyncio.sleep(0.1)
            error = {"error": {"message": "The server is overloaded", "type": "server_error"}}
            return httpx.Response(503, content=orjson.dumps(error), request=request)
        await asyncio.sleep(1)
        return await self.services[request.url.host].handle_async_request(request)


class Killed(BaseException):
    """Stands for the end of the process: no later call reaches a service."""


class Interface(httpx.AsyncBaseTransport):
    """A job over rows that buys in one way, and its services. It is its own transport, for one run after another."""

    def __init__(self, kind: Kind, folder: Path, rows: int = 12, **job: Any) -> None:
        self.kind, self.folder = kind, folder
        self.services = {host: InProcess(**kind.options) for host in kind.hosts if kind.url is None}
        self.keys = {host: f"sk-canary-{number}-of-{folder.name}" for number, host in enumerate(kind.hosts)}
        places = [self._place(number, host) for number, host in enumerate(kind.hosts)]
        own = {"endpoint": places[0]} if len(places) == 1 else {"endpoints": places}
        self.texts = [f"text {number}" for number in range(rows)]
        given = {"model": MODEL, "max_output_tokens": 40, "limits": {"max_at_once": 3}, **own, **kind.job, **job}
        self.settings = job_of(folder, self.texts, "", **given)
        self.calls = 0
        self.end_at: int | None = None  # the call at which the process ends
        self.is_carried_out = False  # whether this call still reaches its service
        self.loses: set[str] = set()  # prompts whose next reply is lost
        self.on_call: Callable[[], None] = lambda: None
        self.headers: dict[str, set[str]] = defaultdict(set)
        self._real: httpx.AsyncBaseTransport | None = None
        self._paid: Counter[str] = Counter()
        self._usd = Decimal(0)

    def _place(self, number: int, host: str) -> dict[str, Any]:
        url = self.kind.url or f"https://{host}{self.kind.path}"
        return {"base_url": url, "api_key_env": f"KEY_{number}", **self.kind.endpoint}

    @property
    def is_batch(self) -> bool:
        """Whether rows are bought in batches."""
        return self.kind.job.get("lane") == "batch"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with the keys."""
        return {f"KEY_{number}": key for number, key in enumerate(self.keys.values())}

    def open(self) -> Interface:
        """Return itself, for a caller that opens a transport."""
        self._real = None if self.services else aiohttp_transport()
        return self

    async def aclose(self) -> None:
        """Close the connections of a run."""
        if self._real is not None:
            await self._real.aclose()

    def run(self) -> None:
        """Run the job to its end, or to its next stop."""
        run_steps(self.settings, transport=self.open, pace=self._pace())

    def _pace(self) -> Pace:
        if not self.is_batch:
            return Pace(REAL.sleep, REAL.now, lambda seconds: asyncio.sleep(seconds / 50))
        (service,) = self.services.values()

        async def sleep(seconds: float) -> None:
            assert service.advance(seconds) < START + 30 * 86_400, "the run waits forever"
            await asyncio.sleep(0.0005)

        return Pace(sleep, lambda: service.advance(0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass one request on, unless the process has ended."""
        self.calls += 1
        self.on_call()
        is_end = self.end_at is not None and self.calls >= self.end_at
        if is_end and not (self.is_carried_out and self.calls == self.end_at):
            raise Killed
        self.headers[request.url.host].update(request.headers.values())
        body = await request.aread()
        response = await self._pass_on(request)
        if request.url.path.endswith(COMPLETIONS) and response.status_code == 200:
            prompt = self._bill(body, response.content)
            if prompt in self.loses:
                self.loses.discard(prompt)
                raise httpx.ReadError("the connection was lost", request=request)
        if is_end:
            raise Killed
        return response

    async def _pass_on(self, request: httpx.Request) -> httpx.Response:
        if self._real is None:
            response = await self.services[request.url.host].handle_async_request(request)
        else:
            response = await self._real.handle_async_request(request)
        content = await response.aread()
        await response.aclose()
        headers = [
            pair for pair in response.headers.raw if pair[0].lower() not in {b"transfer-encoding", b"content-length"}
        ]
        return httpx.Response(response.status_code, headers=headers, content=content, request=request)

    def _bill(self, body: bytes, content: bytes) -> str:
        """Count a reply that is paid; returns its prompt."""
        asked, usage = orjson.loads(body), orjson.loads(content)["usage"]
        given = asked.get("messages") or asked.get("input") or asked["prompt"]
        text = given if isinstance(given, str) else given[-1]["content"]
        text = text if isinstance(text, str) else text[-1]["text"]
        tokens = (
            usage.get("prompt_tokens", usage.get("input_tokens")),
            usage.get("completion_tokens", usage.get("output_tokens")),
        )
        self._paid[text] += 1
        self._usd += self.kind.share * (tokens[0] * Decimal("0.1") + tokens[1] * Decimal("0.5")) / 1_000_000
        return str(text)

    @property
    def paid(self) -> list[int]:
        """How often each row that was paid was paid."""
        if self.is_batch:
            (service,) = self.services.values()
            return list(Counter(row["content"] for row in service.bills()["rows"]).values())
        return list(self._paid.values())

    @property
    def usd(self) -> Decimal:
        """What the services have charged."""
        if self.is_batch:
            (service,) = self.services.values()
            return Decimal(service.bills()["lanes"].get("batch", {"usd": 0})["usd"])
        return self._usd

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the results."""
        return results(self.settings)

    @property
    def summary(self) -> dict[str, Any]:
        """The summary of the latest run."""
        return summary_of(self.settings)
