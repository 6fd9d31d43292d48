"""The faults of the fake service: each does what its name says, hits the right requests, and ends."""

from __future__ import annotations

import time

import httpx
import orjson
import pytest

from .asking import ask, chat
from .faults import KINDS
from .running import FakeService, ServiceError

# What a client sees of a fault that is more than an odd answer.
# fmt: off
SEEN = {
    "status:429": "429", "status:503": "503", "insufficient_quota": "429", "redirect": "307", "echo": "400",
    "ansi": "400", "disconnect_before": "RemoteProtocolError", "disconnect_after": "RemoteProtocolError",
    "hang": "ReadTimeout", "huge_length": "ReadTimeout", "garbage": "no JSON", "empty_body": "no JSON",
    "truncated_json": "no JSON", "invalid_utf8": "no JSON", "lone_surrogate": "no JSON", "nested": "no JSON",
    "bad_usage:nan": "no JSON", "bad_usage:infinity": "no JSON", "gzip_bomb": "no JSON",
}
# fmt: on


def observed(client: httpx.Client, service: FakeService, timeout_s: float) -> str:
    """Return what a client sees, in one word."""
    try:
        reply = client.post(f"{service.url}/chat/completions", json=chat("x"), timeout=timeout_s)
        if reply.status_code != 200:
            return str(reply.status_code)
        orjson.loads(reply.content)
    except httpx.HTTPError as problem:
        return type(problem).__name__
    except orjson.JSONDecodeError:
        return "no JSON"
    return "odd"


@pytest.mark.parametrize("kind", [kind for kind in SEEN | KINDS if kind not in {"slow_loris", "endless_body"}])
def test_fault(service: FakeService, client: httpx.Client, kind: str) -> None:
    """A client sees each fault as its table says, the fault is billed as its table says, and it ends."""
    service.configure(faults=[{"kind": kind, "total": 1}])
    # a fault that never answers gets a short timeout; any other answers in time on any machine
    timeout_s = 0.5 if SEEN.get(kind) == "ReadTimeout" else 60.0
    assert observed(client, service, timeout_s) == SEEN.get(kind, "odd")
    assert service.stats()["billed_requests"] == KINDS.get(kind, False)
    assert service.stats()["faults"] == {kind: 1}
    assert ask(client, service, "after").status_code == 200
    assert service.stats()["in_flight"] == 0


@pytest.mark.parametrize("kind", ["slow_loris", "endless_body"])
def test_fault_that_never_ends(service: FakeService, client: httpx.Client, kind: str) -> None:
    """A client's timeout for each read does not end these faults, because bytes keep coming."""
    service.configure(faults=[{"kind": kind, "total": 1}])
    timeout_s, wanted = 1.0, 1_000_000 if kind == "endless_body" else 3
    began, got = time.monotonic(), 0
    with client.stream("POST", f"{service.url}/chat/completions", json=chat("x"), timeout=timeout_s) as reply:
        for chunk in reply.iter_raw():
            got += len(chunk)
            if got > wanted and time.monotonic() > began + timeout_s:
                break
    assert got > wanted
    assert ask(client, service, "after").status_code == 200


def test_fault_contents(service: FakeService, client: httpx.Client) -> None:
    """The faults of a model appear in each API's own form."""
    message = {"content_filter": "", "refusal": None, "null_content": None}
    for kind, content in message.items():
        service.configure(faults=[{"kind": kind}])
        choice = ask(client, service, "x").json()["choices"][0]
        assert choice["message"]["content"] == content
    service.configure(faults=[{"kind": "refusal"}])
    output = client.post(f"{service.url}/responses", json={"model": "m", "input": "x"}).json()["output"]
    assert output[0]["content"][0]["type"] == "refusal"
    service.configure(faults=[{"kind": "content_filter"}])
    answer = client.post(f"{service.url}/responses", json={"model": "m", "input": "x"}).json()
    assert answer["incomplete_details"] == {"reason": "content_filter"}
    service.configure(faults=[{"kind": "length"}])
    assert ask(client, service, "x", max_tokens=90).json()["usage"]["completion_tokens"] == 90
    service.configure(faults=[{"kind": "bad_usage:negative"}])
    assert ask(client, service, "x").json()["usage"]["prompt_tokens"] == -4
    service.configure(faults=[{"kind": "overrun"}])
    assert ask(client, service, "x", max_tokens=10).json()["usage"]["completion_tokens"] == 20
    service.configure(faults=[{"kind": "status:503", "retry_after": "-5"}])
    assert ask(client, service, "x").headers["retry-after"] == "-5"
    service.configure(faults=[{"kind": "echo"}])
    reply = client.post(
        f"{service.url}/responses", content=b'{"model":"m","input":"secret"}', headers={"api-key": "sk"}
    )
    assert "sk" in reply.text
    assert "secret" in reply.text


def test_rules(service: FakeService, client: httpx.Client) -> None:
    """Rules choose by content, by times for each content, by total and by the number of earlier requests."""
    rules = [
        {"kind": "status:500", "match": "bad", "times": 2},
        {"kind": "status:401", "after": 6, "total": 1, "billed": True},
    ]
    service.configure(faults=rules)
    texts = ["bad 1", "bad 1", "bad 1", "good", "bad 2", "bad 2", "good", "good"]
    assert [ask(client, service, text).status_code for text in texts] == [
        500,
        500,
        200,
        200,
        500,
        500,
        401,
        200,
    ]
    assert service.stats()["billed_requests"] == 4
    for wrong in ({"kind": "nonsense"}, {"kind": "hang", "probability": 2}, {"kind": "hang", "often": 1}):
        with pytest.raises(ServiceError, match="faults"):
            service.configure(faults=[wrong])
    with pytest.raises(ServiceError, match="unknown options"):
        service.configure(latency=3)
