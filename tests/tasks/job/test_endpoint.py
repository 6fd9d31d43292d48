"""A job can set what a service needs in its requests, and a refused setting comes with advice."""

from __future__ import annotations

import asyncio
import traceback
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.flows.cli.lists import show_preview
from parquill.flows.cli.preview import preview_rows
from parquill.tasks.errors import BadJob
from parquill.tasks.job.api_key import header_names, read_key
from parquill.tasks.job.endpoint import Endpoint
from parquill.tasks.job.key import Key
from parquill.tasks.job.load import load_job
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.client import Client
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.request import KeyMaker
from tests.tasks.llm.test_live_lane import GOOD
from tests.tasks.prompts.test_planner import DAY
from tests.tools.small_jobs import resolved_job

AZURE = "https://acme.openai.azure.com/openai/deployments/gpt-4o"
SECRET, OTHER = "sk-canary-4711-key", "hdr-canary-0815"


def _job(location: Path = Path("i"), **endpoint: Any) -> ResolvedJob:
    return resolved_job({
        "name": "x", "input": str(location), "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini",
        "max_output_tokens": 7, "endpoint": {"base_url": AZURE, "api_key_env": "A_KEY", **endpoint},
    })  # fmt: skip


def _refusal(**endpoint: Any) -> str:
    with pytest.raises(BadJob) as caught:
        _job(**endpoint)
    return str(caught.value)


def _sent(job: ResolvedJob, key: Key | None, status: int = 200, **more: Any) -> list[httpx.Request]:
    requests: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(status, content=GOOD if status == 200 else b"", **more)

    asyncio.run(Client(job, key, httpx.MockTransport(answer)).send("[]", None))
    return requests


def test_an_azure_deployment_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to one of Azure's older addresses has the version in its query and the key in a header of its own."""
    monkeypatch.setenv("A_KEY", SECRET)
    job = _job(auth="api-key", query={"api-version": "2024-10-21"})
    (request,) = _sent(job, read_key(job.endpoint))
    assert str(request.url) == f"{AZURE}/chat/completions?api-version=2024-10-21"
    assert request.headers["api-key"] == SECRET
    assert "authorization" not in request.headers


def test_headers_of_variables_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job can send several headers to a gateway, in addition to the key or in its place."""
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setenv("GATEWAY", f" {OTHER} v2\n")
    job = _job(headers_env={"X-Gateway": "GATEWAY"})
    (request,) = _sent(job, read_key(job.endpoint))
    assert (request.headers["x-gateway"], request.headers["authorization"]) == (f"{OTHER} v2", f"Bearer {SECRET}")
    alone = _job(headers_env={"Authorization": "GATEWAY"}, api_key_env=None)
    (request,) = _sent(alone, read_key(alone.endpoint))
    assert request.headers.get_list("authorization") == [f"{OTHER} v2"]
    assert header_names(job.endpoint) == {"X-Gateway": "GATEWAY", "Authorization": "A_KEY"}


def test_organization_and_project_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job names the organization and the project that OpenAI bills by their variables, beside the key."""
    names = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    values = dict(zip(names, ("org-0123456789", "proj_0123456789"), strict=True))
    monkeypatch.setenv("A_KEY", SECRET)
    for name, variable in names.items():
        monkeypatch.setenv(variable, values[name])
    job = _job(base_url="https://api.openai.com/v1", headers_env=names)
    (request,) = _sent(job, read_key(job.endpoint))
    assert {name: request.headers[name] for name in names} == values
    assert request.headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_gets_no_header(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Headers go only to the address that the job names, never to the target of a redirect."""
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setenv("GATEWAY", OTHER)
    job = _job(headers_env={"X-Gateway": "GATEWAY"})
    sent = _sent(job, read_key(job.endpoint), status, headers={"location": "https://evil.example/v1"})
    assert [request.url.host for request in sent] == ["acme.openai.azure.com"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "is not set"),
        ("", "is blank"),
        (" \n", "is blank"),
        (f"{OTHER}\nX-Evil: 1", "holds quotes, a line break"),
        (f"{OTHER}\r\nX-Evil: 1", "holds quotes, a line break"),
        (f"{OTHER}\t2", "holds quotes, a line break"),
        (f'"{OTHER}"', "holds quotes, a line break"),
        (f"'{OTHER}'", "holds quotes, a line break"),
        (f"{OTHER}\u00e9", "holds quotes, a line break"),
        (f"{OTHER}\x1b[2J", "holds quotes, a line break"),
    ],
    ids=ascii,
)
def test_a_value_that_no_header_has_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, value: str | None, reason: str
) -> None:
    """A refusal names the variable and its header, but not the value."""
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.delenv("GATEWAY", raising=False)
    if value is not None:
        monkeypatch.setenv("GATEWAY", value)
    with pytest.raises(BadJob, match=f"the environment variable GATEWAY .of the header X-Gateway. {reason}") as caught:
        read_key(_job(headers_env={"X-Gateway": "GATEWAY"}).endpoint)
    text = "".join(traceback.format_exception(caught.value))
    assert OTHER not in text
    assert SECRET not in text


def test_values_of_headers_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of a header that a service echoes is masked in every result, with its scheme or without."""
    monkeypatch.setenv("GATEWAY", f"Basic {OTHER}")
    key = read_key(_job(headers_env={"Authorization": "GATEWAY"}, api_key_env=None).endpoint)
    assert key is not None
    assert key.hide_in(f"you sent Basic {OTHER} and {OTHER}") == "you sent *** and ***"
    assert OTHER.encode() not in key.hide_in_bytes(f'{{"a":"{OTHER}"}}'.encode())
    assert key.has_part("canary")
    assert OTHER not in repr(key)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ({"base_url": f"{AZURE}?api-version=2024-10-21"}, "`endpoint.query: {api-version: ...}`"),
        ({"base_url": f"{AZURE}?api-version=2024-10-21"}, "https://acme.openai.azure.com/openai/v1"),
        ({"base_url": "https://gw.example/v1?tenant=a&region=b"}, "`endpoint.query: {tenant: ..., region: ...}`"),
        ({"base_url": "https://gw.example/v1?"}, "without a query"),
        ({"base_url": "https://gw.example/v1#x"}, "without a query, fragment or blanks"),
        ({"auth": "azure"}, "signs in by itself"),
        ({"auth": "basic"}, "auth"),
        ({"headers_env": {"Content-Type": "X"}}, "'Content-Type' is a header of the protocol"),
        ({"headers_env": {"host": "X"}}, "'host' is a header of the protocol"),
        ({"headers_env": {"Proxy-Authorization": "X"}}, "a header of the protocol"),
        ({"headers_env": {"X Y": "X"}}, "a name that no header can have"),
        ({"headers_env": {"X:": "X"}}, "a name that no header can have"),
        ({"headers_env": {"X-A": OTHER}}, "'X-A' must have the name of a variable"),
        ({"headers_env": {"X-A": "A", "x-a": "B"}}, "a header twice"),
        ({"headers_env": {"authorization": "X"}}, "'authorization', which is the header of the key"),
        ({"headers_env": {"API-Key": "X"}, "auth": "api-key"}, "'api-key', which is the header of the key"),
        ({"query": {"api_key": OTHER}}, "'api_key' is a secret"),
        ({"query": {"key": OTHER}}, "'key' is a secret"),
        ({"query": {"subscription-key": OTHER}}, "is a secret"),
        ({"query": {"access_token": OTHER}}, "is a secret"),
        ({"query": {"sig": OTHER}}, "is a secret"),
        ({"query": {"a\nb": "x"}}, "characters that no query has"),
        ({"query": {"a": "x\ny"}}, "characters that no query has"),
        ({"query": {"a": True}}, "query"),
        ({"query": "api-version=1"}, "query"),
        ({"limit_name": "max_words"}, "limit_name"),
    ],
    ids=str,
)
def test_what_cannot_be_said_is_refused_with_what_to_do(endpoint: dict[str, Any], expected: str) -> None:
    """A refusal says where the setting belongs, and shows no value that may be a secret."""
    refusal = _refusal(**endpoint)
    assert expected in refusal
    assert OTHER not in refusal
    assert "2024-10-21" not in refusal


def test_a_version_that_yaml_takes_for_a_date(tmp_path: Path) -> None:
    """A job can set `api-version: 2024-10-21` without quotes, although YAML reads it as a date."""
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: x\ninput: i\noutput: o\nprompt: {user: x}\nmodel: gpt-4o-mini\nmax_output_tokens: 7\n"
        f"endpoint: {{base_url: '{AZURE}', api_key_env: K, query: {{api-version: 2024-10-21, n: 5}}}}\n"
    )
    assert load_job(path).endpoint.query == {"api-version": "2024-10-21", "n": "5"}


def test_what_the_query_means_for_keys() -> None:
    """Another API version keeps the request keys. Another query value changes them, unless the endpoint has a name."""

    def key(**endpoint: Any) -> bytes:
        return KeyMaker(_job(**endpoint)).key([], None, [])

    assert key(query={"api-version": "2024-10-21"}) == key(query={"api-version": "2025-01-01"}) == key()
    assert len({key(), key(query={"tenant": "a"}), key(query={"tenant": "b"})}) == 3
    assert key(name="x", query={"tenant": "a"}) == key(name="x")
    assert key(query={"a": "1", "b": "2"}) == key(query={"b": "2", "a": "1"})
    assert key(auth="api-key", headers_env={"X-A": "B"}, limit_name="max_tokens") == key()


def test_an_address_with_a_query_is_written_safely() -> None:
    """Query values are escaped, so that no value becomes another parameter or another path."""
    endpoint = Endpoint.model_validate({"base_url": "https://gw.example/v1", "query": {"a": "x&b=/?# y"}})
    assert endpoint.url("/models") == "https://gw.example/v1/models?a=x%26b%3D%2F%3F%23+y"


def test_preview_shows_the_request_without_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The preview shows the exact address, the name of the limit and the names of headers; it reads no value."""
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setenv("GATEWAY", OTHER)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "in.parquet")
    job = _job(
        tmp_path / "in.parquet",
        auth="api-key",
        headers_env={"X-Gateway": "GATEWAY"},
        query={"api-version": "2024-10-21"},
        limit_name="max_completion_tokens",
    )
    rows = preview_rows(job, RunOptions(DAY), 1)
    assert rows[0]["url"] == f"{AZURE}/chat/completions?api-version=2024-10-21"
    assert rows[0]["headers"] == {"X-Gateway": "GATEWAY", "api-key": "A_KEY"}
    assert rows[0]["body"]["max_completion_tokens"] == 7
    show_preview(rows)
    output = capsys.readouterr().out + orjson.dumps(rows).decode()
    assert "api-key: (from A_KEY)" in output
    assert SECRET not in output
    assert OTHER not in output
