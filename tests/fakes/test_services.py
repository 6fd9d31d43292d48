"""The services count and limit correctly, because other tests rely on it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest

from .asking import ask, chat
from .limits import duration
from .running import ROOT, FakeService, ServiceError, busiest_window, fake_openai, llmock_service

if TYPE_CHECKING:
    from collections.abc import Callable

HANGS_S = 60.0  # a bound for what takes milliseconds


def test_billing(service: FakeService, client: httpx.Client) -> None:
    """The service knows each content's bill, and names a content that was billed twice."""
    for text in ("a", "b", "a"):
        ask(client, service, text)
    figures = service.stats(full=True)
    assert (figures["billed_requests"], figures["billed"]) == (3, 2)
    assert figures["billed_tokens"] == {
        "prompt": 12, "cached": 0, "cache_write": 0, "completion": 48, "reasoning": 0,
    }  # fmt: skip
    assert [figures["billed_map"][content] for content in figures["billed_twice"]] == [[2, 8, 32]]
    assert figures["statuses"] == {"200": 3}
    assert service.log() == []
    service.configure(log=1, log_bodies=True)
    ask(client, service, "c")
    ask(client, service, "d")
    (entry,) = service.log()
    assert orjson.loads(entry["body"]) == chat("d")
    assert entry["answered_at"] >= entry["at"]
    service.reset()
    assert service.stats()["billed_requests"] == 0


def test_limit_is_strict_in_every_window(service: FakeService, client: httpx.Client) -> None:
    """However many requests come, no window admits more than the limit.
    A client that waits for the time in the refusal is admitted.
    """
    service.configure(rpm=15, window_s=0.4)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        reply = ask(client, service, "x")
    while (refused := ask(client, service, "x")).status_code == 200:
        pass
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-limit-requests"] == "15"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"].endswith("ms")
    time.sleep(int(refused.headers["retry-after-ms"]) / 1000)
    assert ask(client, service, "x").status_code == 200
    arrivals = service.arrivals()
    admitted = [at for at, admitted in zip(arrivals["at"], arrivals["admitted"], strict=True) if admitted]
    most, _ = busiest_window({"at": admitted, "tokens": [0] * len(admitted)}, 0.4)
    assert most == 15
    figures = service.stats()
    assert figures["statuses"]["429"] == figures["refused"]["requests"] == len(arrivals["at"]) - len(admitted)
    assert "x-ratelimit-limit-tokens" not in reply.headers


def test_token_limit(service: FakeService, client: httpx.Client) -> None:
    """Input and reserved output are charged at admission; a request that can never fit gets a refusal that says so."""
    service.configure(tpm=250, prompt_tokens="fixed:20")
    first = ask(client, service, "x", max_tokens=100)
    assert first.headers["x-ratelimit-remaining-tokens"] == "130"
    assert first.headers["x-ratelimit-reset-tokens"] == "1m0s"
    assert ask(client, service, "x", max_tokens=100).status_code == 200
    refused = ask(client, service, "x", max_tokens=100)
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "tokens"
    huge = ask(client, service, "x", max_tokens=1000)
    assert "too large" in huge.json()["error"]["message"]
    assert "retry-after" not in huge.headers
    service.reset()
    service.configure(count_output="actual")
    assert ask(client, service, "x", max_tokens=100).headers["x-ratelimit-remaining-tokens"] == "214"
    assert [duration(seconds) for seconds in (0, 0.0117, 8.64, 90.5, 60 + 1e-11)] == [
        *("0s", "12ms", "8.64s", "1m30.5s", "1m0s")
    ]


def test_key(service: FakeService, client: httpx.Client) -> None:
    """Without the right key, the service answers and bills nothing."""
    service.configure(require_key="sk-right", log=10)
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer sk-wrong"}, 401),
        ({"api-key": "sk-right"}, 200),
    ):
        reply = client.post(f"{service.url}/chat/completions", json=chat("x"), headers=headers)
        assert reply.status_code == status
    assert service.stats()["billed_requests"] == 1
    assert [entry["status"] for entry in service.log()] == [401, 401, 200]


def test_in_flight(service: FakeService) -> None:
    """Requests wait for their latency in parallel, and the service knows what a client left open."""
    service.configure(latency_ms=1_000, latency_sigma=0.3)

    async def many() -> list[float]:
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:
            url = f"{service.url}/chat/completions"
            replies = await asyncio.gather(*(client.post(url, json=chat(f"row {number}")) for number in range(20)))
            return [float(reply.headers["openai-processing-ms"]) for reply in replies]

    times = asyncio.run(many())
    assert 800 < statistics.mean(times) < 1_250
    assert len(set(times)) > 10
    assert 10 <= service.stats()["max_in_flight"] <= 20
    service.reset()
    service.configure(latency_ms=60_000, latency_sigma=0)
    with closing(raw_request(service)):
        content = wait_for(service, lambda figures: figures["in_flight"] == 1)["in_flight_contents"]
    figures = wait_for(service, lambda figures: figures["in_flight"] == 0)
    assert figures["cut_by_client"] == {content[0]: "waiting"}
    assert figures["billed_requests"] == 1
    service.reset()
    service.configure(latency_ms=0)
    with closing(raw_request(service)) as connection:
        wait_for(service, lambda figures: figures["billed_requests"] == 1)
        connection.recv(1, socket.MSG_PEEK)  # the reply is here, and is left unread
    figures = wait_for(service, lambda figures: figures["cut_by_client"] != {})
    assert figures["cut_by_client"] == {content[0]: "unread"}


def raw_request(service: FakeService) -> socket.socket:
    body = orjson.dumps(chat("raw"))
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    return connection


def wait_for(service: FakeService, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    until = time.monotonic() + HANGS_S
    while not condition(figures := service.stats(full=True)):
        assert time.monotonic() < until, figures
        time.sleep(0.005)
    return figures


def test_wire(service: FakeService) -> None:
    """The service reads requests in any pieces, and answers them in order."""
    body = orjson.dumps(chat("x" * 300_000))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    service.configure(latency_ms=20)
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        for piece in (head[:10], head[10:], body[:5], body[5:200_000], body[200_000:] + head + body):
            connection.sendall(piece)
            time.sleep(0.01)
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\nGARBAGE")
        got = b""
        while part := connection.recv(65_536):
            got += part
    assert got.count(b"HTTP/1.1 200 OK") == 3
    assert got.endswith(b'connection: close\r\n\r\n{"status":"ok"}')
    for wrong in (b"nonsense\r\n\r\n", b"POST /v1/responses HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
            connection.sendall(wrong)
            assert connection.recv(65_536)[9:12] in {b"400", b"411"}


def test_service_dies_with_its_parent() -> None:
    """A test run that is killed leaves no service behind."""
    program = (
        "import time\nfrom tests.fakes.running import fake_openai\n"
        "with fake_openai() as service:\n    print(service.pid, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    until = time.monotonic() + HANGS_S
    while alive(pid):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the service outlived its parent")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_llmock(client: httpx.Client) -> None:
    """The other service, llmock, runs too, and its refusals can be read with their time."""
    with llmock_service(rpm=2) as service:
        before = time.monotonic()
        for _ in range(3):
            client.post(f"{service.url}/chat/completions", json=chat("x"))
        assert service.statuses() == {200: 2, 429: 1}
        (at,) = service.throttled()
        assert before < at < time.monotonic()
        service.reset()
        assert service.requests() == []


def test_a_service_that_cannot_start_says_why() -> None:
    """A wrong option is named in the error, and does not end in a timeout."""
    with pytest.raises(ServiceError, match="lognormal"), fake_openai(output_tokens="normal:3"):
        pass
