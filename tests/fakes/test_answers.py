"""The answers of the fake service: their shapes, their tokens, and that equal requests get equal answers."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from .answers import echo
from .asking import ask, chat, completion_tokens
from .running import FakeService, fake_openai

if TYPE_CHECKING:
    import httpx


def test_chat_reply(service: FakeService, client: httpx.Client) -> None:
    """A chat reply has OpenAI's shape, and its text and tokens follow from the prompt."""
    service.configure(cached_ratio=0.5, reasoning_tokens=4, model_suffix="-2024-07-18")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é" * 50}]
    body = {"model": "gpt-4o-mini", "messages": messages, "max_completion_tokens": 100}
    reply = client.post(f"{service.url}/chat/completions", json=body)
    answer = reply.json()
    assert answer["choices"][0]["message"]["content"] == echo(["Be brief.", "é" * 50])
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == "gpt-4o-mini-2024-07-18"
    assert answer["id"].startswith("chatcmpl-")
    assert reply.headers["x-request-id"].startswith("req_")
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (109 // 4 + 6, 20)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 16
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 4


def test_other_apis(service: FakeService, client: httpx.Client) -> None:
    """Responses and completions answer in their own shapes, and refuse each other's parameter names."""
    body = {"model": "m", "instructions": "Be brief.", "input": "hello", "max_output_tokens": 5}
    answer = client.post(f"{service.url}/responses", json=body).json()
    assert answer["output"][0]["content"][0]["text"] == echo(["Be brief.", "hello"])[:20]
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (9, 5)
    answer = client.post(f"{service.url}/completions", json={"model": "m", "prompt": "hello"}).json()
    assert answer["choices"][0]["text"] == echo(["hello"])
    assert ask(client, service, "x", max_output_tokens=5).status_code == 400
    o4 = client.post(f"{service.url}/chat/completions", json=chat("x", max_tokens=5) | {"model": "o4-mini"})
    assert o4.json()["error"]["code"] == "unsupported_parameter"
    assert client.get(f"{service.url}/models").json()["data"][0]["object"] == "model"
    assert client.get(f"{service.origin}/health").status_code == 200
    assert service.stats()["billed_requests"] == 2


def test_same_answers_for_the_same_seed(service: FakeService, client: httpx.Client) -> None:
    """Two services with one seed agree on every answer, token and fault; with another seed they do not."""
    options: dict[str, Any] = {
        "output_tokens": "lognormal:40:0.6",
        "faults": [{"kind": "status:500", "probability": 0.3}],
    }

    def outcome(where: FakeService, seed: int) -> list[tuple[int, int]]:
        where.configure(seed=seed, **options)
        where.reset()
        replies = [ask(client, where, f"row {number}") for number in range(40)]
        return [(each.status_code, completion_tokens(each) if each.is_success else 0) for each in replies]

    with fake_openai() as other:
        assert outcome(service, 1) == outcome(other, 1)
    assert outcome(service, 2) != outcome(service, 1)
    assert 4 < sum(status == 500 for status, _ in outcome(service, 1)) < 20


def test_output_laws(service: FakeService, client: httpx.Client) -> None:
    """Answer lengths follow their law and are cut at the request's maximum, with finish_reason length."""
    service.configure(output_tokens="lognormal:100:0.5")
    drawn = [completion_tokens(ask(client, service, f"row {number}")) for number in range(200)]
    assert 85 < statistics.median(drawn) < 117
    cut = [ask(client, service, f"row {number}", max_tokens=100).json() for number in range(200)]
    expected = [min(100, tokens) for tokens in drawn]  # a maximum changes the content, and so the draws
    assert max(each["usage"]["completion_tokens"] for each in cut) == max(expected) == 100
    for each in cut:
        assert (each["choices"][0]["finish_reason"] == "length") <= (each["usage"]["completion_tokens"] == 100)
    assert 60 < sum(each["choices"][0]["finish_reason"] == "length" for each in cut) < 140
    service.configure(output_tokens="proportional:2:0", prompt_tokens="fixed:70", pad_answers=True)
    long = ask(client, service, "row").json()
    assert long["usage"]["completion_tokens"] == 140
    assert len(long["choices"][0]["message"]["content"]) == 560


def test_tiktoken_counts(service: FakeService, client: httpx.Client) -> None:
    """The service can count tokens as OpenAI does."""
    service.configure(prompt_tokens="tiktoken:o200k_base")
    assert ask(client, service, "hello world").json()["usage"]["prompt_tokens"] == 2 + 4 + 3
    service.configure(prompt_tokens="scaled:1.5:4:o200k_base")
    assert ask(client, service, "hello world").json()["usage"]["prompt_tokens"] == round(1.5 * (2 + 4 + 3) + 4)


def test_json_schema(service: FakeService, client: httpx.Client) -> None:
    """An answer to a JSON schema is valid for it, and broken when it is cut."""
    item = {
        "type": "object",
        "properties": {
            "color": {"enum": ["red", "blue"]},
            "count": {"type": "integer", "minimum": 3, "maximum": 5},
            "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "new": {"type": "boolean"},
            "note": {"type": ["string", "null"], "maxLength": 10},
        },
        "required": ["color", "count", "share", "new", "note"],
        "additionalProperties": False,
    }
    tags = {"type": "array", "items": {"type": "string"}}
    schema = {
        "type": "object",
        "$defs": {"item": item},
        "properties": {
            "tags": tags,
            "items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 3},
        },
        "required": ["tags", "items"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    for number in range(20):
        answer = ask(client, service, f"row {number}", response_format=wanted).json()["choices"][0]["message"]
        Draft202012Validator(schema).validate(orjson.loads(answer["content"]))
    cut = ask(client, service, "row", response_format=wanted, max_tokens=4).json()["choices"][0]
    assert cut["finish_reason"] == "length"
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(cut["message"]["content"])
    body = {
        "model": "m",
        "input": "x",
        "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}},
    }
    output = client.post(f"{service.url}/responses", json=body).json()["output"]
    Draft202012Validator(schema).validate(orjson.loads(output[0]["content"][0]["text"]))
