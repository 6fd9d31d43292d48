"""max_output_tokens is sent under the name that the job sets, the model needs or the service's refusal asks for."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import orjson
import pytest

from parquill.tasks.llm.client import MAX_MISSED_NAMES, Client
from parquill.tasks.llm.limit_name import other_limit_name
from parquill.tasks.llm.outcomes import error_of_body
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.reply_reader import Result
from tests.tasks.llm.test_live_lane import GOOD
from tests.tools.small_jobs import resolved_job

MESSAGES = '[{"role":"user","content":"Hi"}]'
OLD, NEW = "max_tokens", "max_completion_tokens"


def _openai(name: str, other: str) -> dict[str, Any]:
    message = f"Unsupported parameter: '{name}' is not supported with this model. Use '{other}' instead."
    return {
        "error": {"message": message, "type": "invalid_request_error", "param": name, "code": "unsupported_parameter"}
    }


def _error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


# Service -> its error body, the name that was sent, the name that it asks for.
WORDINGS: dict[str, tuple[Any, str, str | None]] = {
    "openai": (_openai(OLD, NEW), OLD, NEW),
    "openai-the-reverse": (_openai(NEW, OLD), NEW, OLD),
    "copilot": (_error("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."), OLD, NEW),
    "azure": (_error("Unrecognized request argument supplied: max_completion_tokens", param=None), NEW, OLD),
    "mistral": (
        {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", NEW], "msg": "Extra inputs are not permitted", "input": 7}]}},
        NEW,
        OLD,
    ),
    "vllm": ({"object": "error", "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'msg': 'Extra inputs are not permitted'}]"}, NEW, OLD),
    "fastapi": ({"detail": [{"type": "extra_forbidden", "loc": ["body", NEW], "msg": "Extra inputs are not permitted"}]}, NEW, OLD),
    "litellm": (_error("litellm.UnsupportedParamsError: mistral does not support parameters: {'max_completion_tokens': 4096}"), NEW, OLD),
    "groq": (_error("property 'max_completion_tokens' is unsupported", type="invalid_request_error"), NEW, OLD),
    "deprecated": (_error("`max_tokens` is deprecated, please use `max_completion_tokens`."), OLD, NEW),
    "required": (_error("max_tokens: Field required"), NEW, OLD),
    "missing": ({"detail": [{"type": "missing", "loc": ["body", OLD], "msg": "Field required"}]}, NEW, OLD),
    "text-generation": (_error("max_tokens is not supported; use max_new_tokens"), OLD, "max_new_tokens"),
    "llamacpp": (_error("Unknown field max_tokens, did you mean n_predict?"), OLD, "n_predict"),
    # refusals that are not about the name
    "too-large": (_error("max_tokens is too large: 5000. This model supports at most 4096 completion tokens.", param=OLD), OLD, None),
    "too-large-by-another-name": (_error("max_tokens (9000) must be less than max_completion_tokens"), OLD, None),
    "value": (_error("Unsupported value: 'max_tokens' must be at least 16", code="unsupported_value"), OLD, None),
    "temperature": (_error("Unsupported parameter: 'temperature' is not supported with this model."), OLD, None),
    "context": (_error("This model's maximum context length is 8192 tokens, however you requested 9000 tokens"), OLD, None),
    "model": (_error("The model does not exist"), OLD, None),
    "use-something-else": (_error("Unsupported parameter: 'functions'. Use 'tools' instead."), OLD, None),
    "an-unknown-name": (_error("Unsupported parameter: 'max_tokens'. Use 'output_cap' instead."), OLD, NEW),
    "no-reason": ({"error": {"code": 400}}, OLD, None),
    "nothing": ({}, OLD, None),
}  # fmt: skip


@pytest.mark.parametrize("name", WORDINGS)
def test_a_refusal_names_the_other_name(name: str) -> None:
    """Parquill reads each service's wording. A refusal of a value or of another parameter asks for no other name."""
    document, used, wanted = WORDINGS[name]
    assert other_limit_name(error_of_body(document), used) == wanted


class Service:
    """A service that accepts one name of the limit and refuses the others."""

    def __init__(self, wanted: str | None, refusal: Any = None) -> None:
        self.wanted, self.refusal = wanted, refusal
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(request.content)
        self.bodies.append(body)
        used = next(name for name in (OLD, NEW) if name in body)
        await asyncio.sleep(0)
        if used == self.wanted:
            return httpx.Response(200, content=GOOD)
        return httpx.Response(400, json=self.refusal or _openai(used, NEW if used == OLD else OLD))


def _client(service: Any, **endpoint: Any) -> Client:
    job = resolved_job({
        "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "my-deployment",
        "max_output_tokens": 7, "endpoint": {"base_url": "http://localhost:1/v1", **endpoint},
    })  # fmt: skip
    return Client(job, None, httpx.MockTransport(service))


def _send(client: Client, times: int = 1) -> list[Result]:
    async def send() -> Result:
        result = await client.send(MESSAGES, None)
        return result if result.limit_name is None else await client.send(MESSAGES, None, result)

    async def send_all() -> list[Result]:
        return list(await asyncio.gather(*(send() for _ in range(times))))

    return asyncio.run(send_all())


def test_the_name_is_learned_once_for_all_rows(caplog: pytest.LogCaptureFixture) -> None:
    """The client repeats a refused request with the other name, then uses it from the start, and warns once."""
    service = Service(NEW)
    client = _client(service)
    with caplog.at_level(logging.WARNING):
        assert [result.rule.code for result in _send(client, 10)] == [None] * 10
    assert len(service.bodies) == 20  # the first ten had left under the old name
    assert [result.rule.code for result in _send(client, 5)] == [None] * 5
    assert len(service.bodies) == 25
    assert all(body[NEW] == 7 and OLD not in body for body in service.bodies[20:])
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("the service expects max_output_tokens as max_completion_tokens; set endpoint.limit_name")


def test_a_row_of_its_own_parameters_has_the_learned_name() -> None:
    """A row with its own parameters uses the learned name."""
    service = Service(NEW)
    client = _client(service)
    _send(client)
    asyncio.run(client.send(MESSAGES, '{"temperature":1}'))
    assert service.bodies[-1].keys() == {"model", NEW, "messages", "temperature"}


def test_what_is_refused_under_both_names_is_told_as_at_first() -> None:
    """If a service accepts neither name, the client tries only a few times, and each row shows the first refusal."""
    service = Service(None)
    client = _client(service)
    for _ in range(MAX_MISSED_NAMES + 3):
        (result,) = _send(client)
        assert result.rule.code == "bad_request"
        assert "parameter 'max_tokens'" in result.sentence
    assert len(service.bodies) == 2 * MAX_MISSED_NAMES + 3
    assert client.api.limit == OLD


def test_the_next_fault_is_told_after_the_name() -> None:
    """If the service accepts the other name and refuses something else, the row shows that refusal."""

    async def answer(request: httpx.Request) -> httpx.Response:
        if OLD in orjson.loads(request.content):
            return httpx.Response(400, json=_openai(OLD, NEW))
        return httpx.Response(
            400, json=_error("Unsupported parameter: 'temperature' is not supported", param="temperature")
        )

    client = _client(answer)
    (result,) = _send(client)
    assert "temperature" in result.sentence
    assert client.api.limit == NEW


def test_an_outage_after_the_refusal_teaches_nothing() -> None:
    """A failure of the service does not show that it accepts the other name."""

    async def answer(request: httpx.Request) -> httpx.Response:
        return (
            httpx.Response(400, json=_openai(OLD, NEW)) if OLD in orjson.loads(request.content) else httpx.Response(500)
        )

    client = _client(answer)
    (result,) = _send(client)
    assert result.rule.code == "bad_gateway"
    assert client.api.limit == OLD


def test_a_name_that_the_job_sets_stays() -> None:
    """The client sends `endpoint.limit_name` for any model and tries no other name."""
    service = Service(NEW)
    client = _client(service, limit_name=OLD)
    (result,) = _send(client)
    assert result.rule.code == "bad_request"
    assert len(service.bodies) == 1
    assert _send(_client(service, limit_name=NEW))[0].rule.code is None


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("ft:o4-mini-2025-04-16:acme::abc", NEW),
        ("openai.gpt-5", NEW),
        ("openai.gpt-5-mini", NEW),
        ("GPT-5", NEW),
        ("Gpt-6-Luna", NEW),
        ("codex-mini-latest", NEW),
        ("openrouter/openai/o3-mini", NEW),
        ("o1:free", NEW),
        ("ft:gpt-4o-mini-2024-07-18:acme::1", OLD),
        ("gpt-35-turbo", OLD),
        ("gpt-oss-120b", OLD),
        ("prod-gpt5-mini", OLD),
        ("o1x", OLD),
    ],
)
def test_the_name_by_the_model(model: str, name: str) -> None:
    """Parquill recognizes fine-tuned and resold reasoning models by name, but not deployments with a free name."""
    job = resolved_job({
        "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": model, "max_output_tokens": 7,
    })  # fmt: skip
    assert {key for key in orjson.loads(APIS["chat"](job).body(MESSAGES, None)) if "token" in key} == {name}
