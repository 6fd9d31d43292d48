"""Each protocol writes a request in its own form and reads any reply."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.llm.failures import Failure
from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.replies import Reply, parse_json
from parquill.tasks.records import Usage
from tests.tools.small_jobs import resolved_job

MESSAGES = '[{"role":"user","content":"{{ 7*7 }}"}]'
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
REPLACED = "\N{REPLACEMENT CHARACTER}"
DEEP = 200_000


def _job(api: str, **changes: Any) -> ResolvedJob:
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "gpt-4o-mini"}
    return resolved_job({**least, "max_output_tokens": 7, "endpoint": {"api": api}, **changes})


def _body(api: str, messages: str = MESSAGES, parameters: str | None = None, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(APIS[api](_job(api, **changes)).body(messages, parameters))
    return body


def _read(api: str, reply: Any) -> Reply:
    data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    found = APIS[api](_job(api)).read(data)
    assert isinstance(found, Reply)
    return found


def _nothing(api: str, reply: Any) -> bool:
    data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    return APIS[api](_job(api)).read(data) is None


def _chat(message: Any, reason: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason}], **more}


def _text(text: Any, reason: Any = "stop") -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": reason}]}


def _responses(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"status": "completed", "output": [{"type": "message", "content": list(parts)}], **more}


def test_chat_request() -> None:
    """A chat request has the model, the limit and the unchanged messages, and nothing else."""
    asked = {"model": "gpt-4o-mini", "max_tokens": 7, "messages": json.loads(MESSAGES)}
    assert _body("chat", endpoint={"base_url": "http://localhost:1/v1"}) == asked


def test_completions_request() -> None:
    """A legacy request has one text."""
    assert _body("completions", '"one text"') == {"model": "gpt-4o-mini", "max_tokens": 7, "prompt": "one text"}


def test_responses_request() -> None:
    """A Responses request has its own names and asks the service to store nothing."""
    found = _body("responses")
    assert found.pop("prompt_cache_key").startswith("parquill-")
    assert found == {
        "model": "gpt-4o-mini",
        "max_output_tokens": 7,
        "input": json.loads(MESSAGES),
        "store": False,
        "service_tier": "default",
    }


def test_the_rows_of_a_template_share_a_cache_at_openai() -> None:
    """At OpenAI all requests of one template and model name one cache; a job may name another, elsewhere none is named."""
    keys = [
        _body("chat")["prompt_cache_key"],
        _body("responses")["prompt_cache_key"],
        _body("chat", prompt={"user": "{{ other }}"})["prompt_cache_key"],
        _body("chat", model="gpt-4o")["prompt_cache_key"],
    ]
    assert len(keys[0]) == len("parquill-") + 24
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    own = APIS["chat"](_job("chat", parameters={"prompt_cache_key": "mine"}))
    assert orjson.loads(own.body(MESSAGES, None))["prompt_cache_key"] == "mine"
    assert "prompt_cache_key" not in _body("completions", '"one text"')
    for base_url in ("http://localhost:1/v1", "https://shop.openai.azure.com/openai/v1"):
        assert "prompt_cache_key" not in _body("chat", endpoint={"base_url": base_url})


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o-mini", "max_tokens"),
        ("gpt-4.1", "max_tokens"),
        ("gpt-3.5-turbo", "max_tokens"),
        ("SmolLM2-135M-Instruct", "max_tokens"),
        ("llama-o3", "max_tokens"),
        ("o1", "max_completion_tokens"),
        ("o3-mini", "max_completion_tokens"),
        ("o4-mini-2025-04-16", "max_completion_tokens"),
        ("gpt-5-nano", "max_completion_tokens"),
        ("openai/o3-mini", "max_completion_tokens"),
        ("openai/gpt-5", "max_completion_tokens"),
    ],
)
def test_the_limit_has_the_name_that_the_model_wants(model: str, name: str) -> None:
    """A request has the limit's name that its model accepts, once: reasoning models need max_completion_tokens."""
    body = _body("chat", model=model)
    assert {key for key in body if "token" in key} == {name}
    assert {key for key in _body("responses", model=model) if "token" in key} == {"max_output_tokens"}
    assert {key for key in _body("completions", '"x"', model=model) if "token" in key} == {"max_tokens"}


def test_a_schema_goes_where_the_api_wants_it() -> None:
    """Parquill sends response_format as a strict json_schema, under the names of each API."""
    chat = _body("chat", response_format=SCHEMA)["response_format"]
    assert chat == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    responses = _body("responses", response_format=SCHEMA)["text"]["format"]
    assert responses == {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}


@pytest.mark.parametrize(
    ("api", "url", "tier"),
    [
        ("chat", "https://api.openai.com/v1", "default"),
        ("responses", "https://api.openai.com/v1", "default"),
        ("chat", "https://eu.api.openai.com/v1", "default"),
        ("completions", "https://api.openai.com/v1", None),
        ("chat", "https://openrouter.ai/api/v1", None),
        ("chat", "https://acme.openai.azure.com/openai/v1", None),
        ("responses", "http://localhost:1/v1", None),
        ("chat", "https://api.openai.com.example.com/v1", None),
    ],
)
def test_a_request_to_openai_names_its_tier(api: str, url: str, tier: str | None) -> None:
    """M1: a request to OpenAI names the standard tier, because a project's default tier can cost twice as much."""
    assert _body(api, endpoint={"api": api, "base_url": url, "api_key_env": "K"}).get("service_tier") == tier


@pytest.mark.parametrize(("tier", "read"), [("priority", "priority"), (None, None), (5, None), ("\x1b[2J", "?[2J")])
def test_the_tier_of_a_reply(tier: Any, read: str | None) -> None:
    """Parquill reads the service's tier as a label and removes control characters."""
    assert _read("chat", _chat({"content": "Hi"}, service_tier=tier)).service_tier == read


def test_a_text_of_no_tokens_has_no_usage() -> None:
    """M3: if a reply with text reports no output, its usage is unknown and what it reports is the minimum."""
    usage = {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}
    found = _read("chat", _chat({"content": "Hi"}, usage=usage))
    assert (found.usage, found.usage_flag, found.least) == (None, None, Usage(9))


def test_parameters_of_job_and_row() -> None:
    """A row's parameters override the job's for that row only."""
    api = APIS["chat"](_job("chat", parameters={"temperature": 0, "seed": 1}))
    own = orjson.loads(api.body(MESSAGES, '{"temperature": 1.5}'))
    assert (own["temperature"], own["seed"]) == (1.5, 1)
    assert orjson.loads(api.body(MESSAGES, None))["temperature"] == 0


@pytest.mark.parametrize("api", APIS)
def test_parameters_never_override_what_bounds_the_cost(api: str) -> None:
    """A parameter that passed the checks by mistake cannot change the model or the limit."""
    names = {"chat": "max_tokens", "completions": "max_tokens", "responses": "max_output_tokens"}
    body = _body(api, MESSAGES, orjson.dumps({"model": "gpt-4", names[api]: 10_000, "store": True}).decode())
    assert (body["model"], body[names[api]]) == ("gpt-4o-mini", 7)
    assert api != "responses" or body["store"] is False


def test_chat_reply() -> None:
    """Text, reason, model, id and usage are read as the service reports them."""
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    reply = _chat({"role": "assistant", "content": "Hi \u00e9"}, usage=usage, model="gpt-4o-mini-2024", id="chatcmpl-1")
    assert _read("chat", reply) == Reply(
        "ok", "Hi \u00e9", "stop", "gpt-4o-mini-2024", "chatcmpl-1", Usage(9, 0, 0, 2, 0)
    )


def test_completions_reply() -> None:
    """The legacy API's text is the answer."""
    reply = {**_text("Hi"), "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    assert _read("completions", reply) == Reply("ok", "Hi", "stop", None, None, Usage(9, 0, 0, 2, 0))


def test_responses_reply() -> None:
    """The texts of all messages are the answer, the reasoning is not, and the usage has its own names."""
    reply = {
        "id": "resp_1",
        "model": "o3",
        "status": "completed",
        "output": [
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "thoughts"}],
                "content": [{"text": "t"}],
            },
            {
                "type": "message",
                "content": [{"type": "output_text", "text": "Hi "}, {"type": "output_text", "text": "you"}],
            },
        ],
        "usage": {"input_tokens": 9, "output_tokens": 20, "output_tokens_details": {"reasoning_tokens": 18}},
    }
    assert _read("responses", reply) == Reply("ok", "Hi you", "completed", "o3", "resp_1", Usage(9, 0, 0, 20, 18))


@pytest.mark.parametrize(
    ("api", "reply", "code", "text"),
    [
        ("chat", _chat({"content": "H"}, "length"), "max_output_tokens", "H"),
        ("chat", _chat({"content": None}, "length"), "max_output_tokens", None),
        ("chat", _chat({"content": "H"}, "content_filter"), "content_filter", "H"),
        ("chat", _chat({"content": None}, "content_filter"), "content_filter", None),
        ("chat", _chat({"content": None, "refusal": "I cannot"}), "refusal", "I cannot"),
        ("chat", _chat({"content": "Hi", "refusal": ""}), "ok", "Hi"),
        ("chat", _chat({"content": "Hi", "refusal": None}), "ok", "Hi"),
        ("chat", _chat({"content": None}), "no_answer", None),
        ("chat", _chat({}), "no_answer", None),
        ("chat", _chat(None), "no_answer", None),
        ("chat", _chat("Hi"), "no_answer", None),
        ("chat", _chat({"content": 5}), "no_answer", None),
        ("chat", _chat({"content": {"text": "Hi"}}), "no_answer", None),
        ("chat", {"choices": []}, "no_answer", None),
        ("chat", {"choices": [None]}, "no_answer", None),
        ("chat", {"choices": ["Hi"]}, "no_answer", None),
        ("chat", _chat({"content": "Hi"}, None), "ok", "Hi"),
        ("chat", _chat({"content": "Hi"}, ["length"]), "ok", "Hi"),
        ("chat", _chat({"content": "Hi"}, {"reason": "length"}), "ok", "Hi"),
        (
            "chat",
            _chat({"content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]}),
            "ok",
            "Hi you",
        ),
        ("chat", _chat({"content": [{"text": "Hi"}, None, "x", {"text": 5}]}), "ok", "Hi"),
        ("chat", _chat({"content": []}), "no_answer", None),
        ("completions", _text("H", "length"), "max_output_tokens", "H"),
        ("completions", _text(None, "content_filter"), "content_filter", None),
        ("completions", _text(None), "no_answer", None),
        ("completions", _text(5), "no_answer", None),
        ("completions", {"choices": []}, "no_answer", None),
        ("completions", {"choices": [[]]}, "no_answer", None),
        ("responses", _responses({"type": "refusal", "refusal": "I cannot"}), "refusal", "I cannot"),
        (
            "responses",
            _responses({"text": "H"}, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "max_output_tokens",
            "H",
        ),
        (
            "responses",
            _responses(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "max_output_tokens",
            None,
        ),
        ("responses", _responses(incomplete_details={"reason": "content_filter"}), "content_filter", None),
        ("responses", _responses(), "no_answer", None),
        ("responses", {"output": []}, "no_answer", None),
        (
            "responses",
            {"output": [None, 5, {"type": "message", "content": "Hi"}, {"type": "message"}]},
            "no_answer",
            None,
        ),
        ("responses", _responses(None, "x", {"text": 5}), "no_answer", None),
        ("responses", {"output": [{"type": "reasoning", "content": [{"text": "thoughts"}]}]}, "empty", None),
    ],
)
def test_how_an_answer_ended(api: str, reply: Any, code: str, text: str | None) -> None:
    """Each cut, filtered, refused, empty or strange answer has a line of the table, and reading it never raises."""
    found = _read(api, reply)
    assert (found.code, found.text) == (code, text)
    assert code in TABLE


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"<html>busy</html>",
        b"data: {}\n\n",
        b"null",
        b"[]",
        b"5",
        b'"Hi"',
        b"{}",
        b'{"choices": null}',
        b'{"choices": {}}',
        b'{"output": "Hi"}',
        b'{"choices": [{"message": {"content": "Hi"',
        b'{"choices": [{"message": {"content": "\xff"}, "text": "\xff"}], "output": []}',
        b"[" * DEEP,
        b'{"choices":' * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'["\\u0041",' + b"[" * DEEP,
        b'{"choices": [], "output": [], "x": ' + b"9" * 10_000 + b', "y": "\\ud800"}',
        b"\x1f\x8b\x08\0",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_no_reply_is_none(api: str, data: bytes) -> None:
    """`read` returns None for a page, a torn or endless text or another API's reply, and never raises."""
    assert _nothing(api, data)


def test_one_apis_reply_is_not_anothers() -> None:
    """Parquill does not read a reply of another API as an answer."""
    assert _nothing("responses", _chat({"content": "Hi"}))
    assert _nothing("chat", _responses({"text": "Hi"}))
    assert _read("completions", _chat({"content": "Hi"})).code == "no_answer"
    assert _read("chat", _text("Hi")).code == "no_answer"


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        ("\\ud800", REPLACED),
        ("a\\udfffb", f"a{REPLACED}b"),
        ("\\ud83d\\ude00", "\U0001f600"),
        ("\\ude00\\ud83d", REPLACED * 2),
        ("\\ud83dx", f"{REPLACED}x"),
        ("\\ud83d\\ud83d\\ude00", f"{REPLACED}\U0001f600"),
    ],
)
def test_lone_surrogates_are_repaired(api: str, escaped: str, text: str) -> None:
    """Parquill replaces half a character and keeps the rest, so that the paid answer can be written as UTF-8."""
    reply = '{"choices": [{"message": {"content": "HERE"}, "text": "HERE"}]}'.replace("HERE", escaped)
    found = _read(api, reply.encode())
    assert (found.code, found.text) == ("ok", text)


def test_lone_surrogates_in_parts_and_labels_are_repaired() -> None:
    """Text in parts, the model, the id and the finish reason can always be written as UTF-8."""
    choice = b'{"finish_reason": "\\ud800", "message": {"content": [{"text": "\\ud800"}]}}'
    reply = b'{"id": "\\ud800", "model": "\\udfff", "choices": [' + choice + b"]}"
    found = _read("chat", reply)
    assert found.text == REPLACED
    for label in (found.request_id, found.model, found.finish_reason):
        assert label
        label.encode()


@pytest.mark.parametrize("api", APIS)
def test_labels_are_bounded_and_harmless(api: str) -> None:
    """Parquill shortens a service's labels and removes characters that a terminal would obey."""
    bad = "\x1b[31mred\x07\n\u202e" + "x" * 5_000
    found = _read(api, {"choices": [{"finish_reason": bad}], "output": [], "status": bad, "model": bad, "id": bad})
    for label in (found.model, found.request_id, found.finish_reason):
        assert label is not None
        assert len(label) <= 200
        assert label.isprintable()
    other = _read(api, {"choices": [], "output": [], "status": 5, "model": ["x"], "id": {"x": 1}})
    assert (other.model, other.request_id, other.finish_reason) == (None, None, None)


def test_the_answer_itself_is_not_touched() -> None:
    """Control characters, tags and braces in an answer stay unchanged."""
    text = "\0\x1b[31m <b>{{ 7*7 }}</b>\r\n\ufeff\u202e" + "x" * 10_000
    assert _read("chat", _chat({"content": text})).text == text


def test_the_last_of_two_keys_counts() -> None:
    """If a reply has a key twice, the last one counts, as in JSON readers, also for the usage."""
    choice = b'{"message": {"content": "a", "content": "b"}}'
    usage = b'"usage": {}, "usage": {"prompt_tokens": 1, "completion_tokens": 1}'
    reply = b'{"choices": [], "choices": [' + choice + b"], " + usage + b"}"
    found = _read("chat", reply)
    assert (found.text, found.usage) == ("b", Usage(1, 0, 0, 1, 0))


@pytest.mark.parametrize(
    "usage",
    [None, {}, "x", {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": True, "completion_tokens": 1}],
)
def test_an_answer_with_impossible_usage_is_an_answer(usage: Any) -> None:
    """An answer with impossible usage is kept, and its usage is unknown."""
    found = _read("chat", _chat({"content": "Hi"}, usage=usage))
    assert (found.code, found.text, found.usage) == ("ok", "Hi", None)


def test_a_number_that_is_none_does_not_hide_the_answer_beside_it() -> None:
    """NaN or Infinity in a reply does not lose the paid answer, and usage with such a figure is unknown."""
    data = (
        b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], '
        b'"usage": {"prompt_tokens": NaN, "completion_tokens": Infinity}}'
    )
    reply = APIS["chat"](_job("chat")).read(data)
    assert isinstance(reply, Reply)
    assert (reply.code, reply.text, reply.usage) == ("ok", "hi", None)


def test_json_is_that_of_the_standard() -> None:
    """`parse_json` reads standard JSON and returns None for anything else."""
    for data in (
        b"",
        b"{",
        b'{"a": 1} x',
        b"'a'",
    ):
        assert parse_json(data) is None
    assert parse_json(b'{"a": [1, 2.5, null, true, "\\u00e9"]}') == {"a": [1, 2.5, None, True, "\u00e9"]}
    assert parse_json(b'"\\ud800"') == "\ud800"


KEYS = st.sampled_from(
    ["choices", "message", "content", "text", "refusal", "finish_reason", "output", "type", "reason", "tool_calls"]
)
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["length", "message"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(APIS)),
    st.fixed_dictionaries(
        {},
        optional={
            "choices": ANY,
            "output": ANY,
            "usage": ANY,
            "model": ANY,
            "id": ANY,
            "incomplete_details": ANY,
            "status": ANY,
        },
    ),
)
def test_any_json_is_read_or_refused(api: str, reply: Any) -> None:
    """Any JSON is either not a reply or has a line of the table, and reading it never raises."""
    found = APIS[api](_job(api)).read(json.dumps(reply, allow_nan=True).encode())
    if found is not None:
        assert found.code in TABLE
        assert isinstance(found, Failure) or found.text is None or isinstance(found.text, str)


@settings(max_examples=200)
@given(st.sampled_from(sorted(APIS)), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(api: str, data: bytes) -> None:
    """Reading any bytes never raises."""
    APIS[api](_job(api)).read(data)
    APIS[api](_job(api)).read(b'{"choices": [{"message": {"content": "' + data + b'"}}], "output": []}')
