"""Parquill checks the messages and parameters of a row's request and makes a key of the whole request."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import RowFault
from parquill.tasks.job.parameters import OUTPUT_LIMITS, OWNED, REFUSED, own_parameters
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.prompts.chat_fields import DROPPED
from parquill.tasks.prompts.request import (
    KeyMaker,
    canonical_messages,
    chain_key,
    check_messages,
    check_parameters,
    check_prompt,
)
from tests.tools.small_jobs import make_test_job

HELLO = [{"role": "user", "content": "hello"}]
# any character that UTF-8 can hold
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FIELD = st.sampled_from(["role", "content", "name", "refusal", "tool_call_id"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
LINE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=30)  # for settings that are names
PLAIN = st.lists(st.dictionaries(FIELD, TEXT, max_size=4), max_size=3)
PARTS = st.lists(
    st.fixed_dictionaries({"role": TEXT, "content": st.lists(st.fixed_dictionaries({"text": TEXT}), max_size=2)}),
    max_size=2,
)


def _are_allowed(parameters: dict[str, Any]) -> bool:
    try:
        own_parameters(parameters)
    except ValueError:
        return False
    return True


# Hypothesis also draws words of the code, such as `tools`
PARAMETERS = st.dictionaries(TEXT, JSON, max_size=3).filter(_are_allowed)


def _job(**changes: Any) -> ResolvedJob:
    return make_test_job(**changes)


def _key(job: ResolvedJob, messages: Any = HELLO, parameters: Any = None, identity: Any = ("a.parquet", "0")) -> str:
    return KeyMaker(job).key(messages, parameters, list(identity)).hex()


def _expected(job: ResolvedJob, messages: Any, parameters: Any, identity: list[Any]) -> str:
    """Compute the key as DESIGN.md describes it, from the whole mapping at once."""
    whole = {
        "v": 1,
        "endpoint": job.endpoint.name or job.endpoint.base_url,
        "api": job.endpoint.api,
        "model": job.model,
        "max_output_tokens": job.max_output_tokens,
        "parameters": {**job.parameters, **(parameters or {})},
        "response_format": job.response_format,
        "messages": messages,
        **({} if job.dedupe else {"row": identity}),
    }
    return hashlib.sha256(rfc8785.dumps(whole)).hexdigest()


@settings(max_examples=200)
@given(
    messages=PLAIN | PARTS,
    own=PARAMETERS,
    parameters=st.none() | PARAMETERS,
    schema=st.none() | st.fixed_dictionaries({"type": st.just("object"), "description": TEXT}),
    model=LINE.filter(bool),
    dedupe=st.booleans(),
)
def test_the_key_is_that_of_the_whole_mapping(
    messages: Any, own: dict[str, Any], parameters: Any, schema: Any, model: str, *, dedupe: bool
) -> None:
    """However it is computed, a key is the sha256 of the RFC 8785 JSON of the whole request."""
    job = _job(parameters=own, response_format=schema, model=model, dedupe=dedupe)
    identity = ["a.parquet", "7", "fr"]
    assert _key(job, messages, parameters, identity) == _expected(job, messages, parameters, identity)


@settings(max_examples=200)
@given(PLAIN | PARTS)
def test_canonical_messages_are_rfc_8785(messages: Any) -> None:
    """The fast writer of messages gives the same bytes as the slow one."""
    assert canonical_messages(messages) == rfc8785.dumps(messages)


@pytest.mark.parametrize(
    "text", ["\0\x01\x1f\x7f", "\u2028\u2029", '"\\/', "\b\f\n\r\t", "\u00e9e\u0301", "\U0001f600", '"messages":0']
)
def test_characters_that_json_writers_disagree_on(text: str) -> None:
    """Controls, separators, quotes and text that looks like the request itself have the canonical bytes."""
    messages = [{"role": "user", "content": text}]
    job = _job(parameters={"stop": text})
    assert canonical_messages(messages) == rfc8785.dumps(messages)
    assert _key(job, messages) == _expected(job, messages, None, [])


def test_the_key_changes_with_each_member() -> None:
    """Two requests that differ in anything the key covers have different keys."""
    keys = {
        "base": _key(_job()),
        "messages": _key(_job(), [{"role": "user", "content": "hello "}]),
        "role": _key(_job(), [{"role": "system", "content": "hello"}]),
        "two messages": _key(_job(), [*HELLO, *HELLO]),
        "model": _key(_job(model="gpt-4o")),
        "max_output_tokens": _key(_job(max_output_tokens=101)),
        "job's parameters": _key(_job(parameters={"temperature": 0})),
        "row's parameters": _key(_job(), HELLO, {"temperature": 1}),
        "response_format": _key(_job(response_format={"type": "object"})),
        "endpoint": _key(_job(endpoint={"base_url": "http://localhost/v1"})),
        "api": _key(_job(endpoint={"api": "responses"})),
        "endpoint's name": _key(_job(endpoint={"name": "ours"})),
        "identity": _key(_job(dedupe=False)),
        "another identity": _key(_job(dedupe=False), identity=("a.parquet", "1")),
    }
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"budget": {"run_usd": 5}},
        {"limits": {"max_at_once": 5}},
        {"retry": {"attempts": 1}},
        {"output": "elsewhere"},
        {"labels": {"a": "b"}},
        {"endpoint": {"api_key_env": "OTHER"}},
        {"price": {"usd_per_mtok_input": 1, "usd_per_mtok_output": 1}},
        {"prompt": {"user": "{{ other }}"}},
    ],
)
def test_the_key_does_not_change_with_what_the_service_never_sees(changes: dict[str, Any]) -> None:
    """Answers are reused if only budgets, limits, folders, API keys or the way to the same text changed."""
    assert _key(_job(**changes)) == _key(_job())


def test_a_chained_key_follows_from_the_step_before() -> None:
    """The key of a dependent step changes only with the step before and with its own template."""
    first, other = KeyMaker(_job()).key(HELLO, None, []), KeyMaker(_job(model="gpt-4o")).key(HELLO, None, [])
    template = {"user": "And in {{ language }}?", "language": "French"}
    key = chain_key(first, template)
    assert key == hashlib.sha256(rfc8785.dumps({"v": 2, "previous": first.hex(), "template": template})).digest()
    assert key == chain_key(first, dict(reversed(template.items())))
    keys = [
        key,
        chain_key(other, template),
        chain_key(first, {**template, "language": "German"}),
        chain_key(key, template),
    ]
    assert len(set(keys)) == 4
    with pytest.raises(RowFault, match="cannot be written as JSON"):
        chain_key(first, {"value": 2**70})


def test_a_named_endpoint_may_move() -> None:
    """If an endpoint has a `name`, its address is not part of the key."""
    here = _job(endpoint={"base_url": "http://localhost:1/v1", "name": "local"})
    there = _job(endpoint={"base_url": "http://localhost:2/v1", "name": "local"})
    assert _key(here) == _key(there)


def test_the_rows_parameters_override_the_jobs() -> None:
    """A parameter of the row counts as if the job had set it."""
    assert _key(_job(parameters={"temperature": 0}), HELLO, {"temperature": 1}) == _key(
        _job(parameters={"temperature": 1})
    )
    assert _key(_job(), HELLO, {}) == _key(_job())


def test_identity_counts_without_dedupe_only() -> None:
    """With dedupe, equal requests of different rows have one key. Without it, each row has its own."""
    first, second = ("a.parquet", "0"), ("b.parquet", "9")
    assert _key(_job(), identity=first) == _key(_job(), identity=second)
    assert _key(_job(dedupe=False), identity=first) != _key(_job(dedupe=False), identity=second)


@pytest.mark.parametrize("parameters", [{"seed": 2**60}, {"x": float("nan")}, {"stop": "\ud800"}, {"x": b"bytes"}])
def test_what_json_cannot_hold_rejects_the_row(parameters: dict[str, Any]) -> None:
    """A row's parameter without canonical JSON is a fault of its row."""
    with pytest.raises(RowFault):
        _key(_job(), HELLO, parameters)


def test_messages_from_structs() -> None:
    """A list of structs is accepted without the null fields that Arrow adds to every struct."""
    cell = [
        {"role": "system", "content": "Be brief.", "name": None},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": None, "name": None, "tool_calls": [{"id": "1"}]},
    ]
    assert check_messages(cell) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
    ]


def test_messages_from_json_text() -> None:
    """A cell of text holds the JSON of its messages."""
    text = orjson.dumps([{"role": "user", "content": "{{ 7*7 }} \u00e9\0"}]).decode()
    assert check_messages(text) == [{"role": "user", "content": "{{ 7*7 }} \u00e9\0"}]


def test_messages_from_maps() -> None:
    """An Arrow map, which Python sees as pairs, is a message."""
    assert check_messages([[("role", "user"), ("content", "Hi")]]) == [{"role": "user", "content": "Hi"}]


def test_content_in_parts() -> None:
    """Parts of text are kept, and a part whose cost is unknown before sending, such as an image, is refused."""
    part = {"type": "text", "text": "Hi", "image_url": None}
    assert check_messages([{"role": "user", "content": [part]}]) == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    ]
    for bad in (
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "image_url", "text": "x"},
        {"type": "text"},
        "Hi",
        None,
    ):
        with pytest.raises(RowFault) as caught:
            check_messages([{"role": "user", "content": [bad]}])
        assert caught.value.code == "bad_messages"


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "not json",
        '[{"role": "user"',
        '"text"',
        "{}",
        '{"role": "user", "content": "Hi"}',
        "[]",
        "null",
        '["Hi"]',
        "[[]]",
        '[{"content": "Hi"}]',
        '[{"role": "robot", "content": "Hi"}]',
        '[{"role": 5, "content": "Hi"}]',
        '[{"role": ["user"], "content": "Hi"}]',
        '[{"role": "user"}]',
        '[{"role": "user", "content": 5}]',
        '[{"role": "user", "content": {"text": "Hi"}}]',
        '[{"role": "user", "content": "Hi", "audio": {}}]',
        '[{"role": "user", "content": "Hi"}, {"role": "user"}]',
        '[{"role": "user", "content": "\\ud800"}]',
        "[" * 200_000,
        5,
        b"[]",
        [],
        [None],
        [[("role", "user", "x")]],
        {"role": "user", "content": "Hi"},
    ],
    ids=lambda cell: str(cell)[:30],
)
def test_bad_messages_reject_their_row(cell: Any) -> None:
    """A cell that is not a list of chat messages is a fault of its row, and the fault does not repeat the cell."""
    with pytest.raises(RowFault) as caught:
        check_messages(cell)
    assert caught.value.code == "bad_messages"
    assert "Hi" not in caught.value.message


def test_null_and_blank_messages() -> None:
    """Null and blank messages have different codes, and messages are blank only if all of them are."""
    with pytest.raises(RowFault) as null:
        check_messages(None)
    assert null.value.code == "null_value"
    for blank in (
        [{"role": "user", "content": " \n\t\u00a0"}],
        [{"role": "user", "content": [{"text": " "}]}, {"role": "system", "content": ""}],
    ):
        with pytest.raises(RowFault) as caught:
            check_messages(blank)
        assert caught.value.code == "blank_prompt"
    assert len(check_messages([{"role": "system", "content": " "}, {"role": "user", "content": "Hi"}])) == 2


@pytest.mark.parametrize("text", ["", " ", "\n\t\r", "\u00a0\u2003\u3000"])
def test_a_blank_prompt_rejects_its_row(text: str) -> None:
    """A row whose own text is blank is rejected, whatever the system text says."""
    with pytest.raises(RowFault) as caught:
        check_prompt([{"role": "system", "content": "Translate."}, {"role": "user", "content": text}])
    assert caught.value.code == "blank_prompt"
    check_prompt([{"role": "system", "content": ""}, {"role": "user", "content": f"{text}."}])


@pytest.mark.parametrize("name", sorted(OUTPUT_LIMITS | REFUSED.keys() | OWNED))
@pytest.mark.parametrize("as_text", [True, False])
def test_refused_parameters_reject_their_row(name: str, as_text: bool) -> None:  # noqa: FBT001
    """A row may not set a parameter that the job may not set."""
    cell: Any = {"temperature": 0, name: 2}
    with pytest.raises(RowFault) as caught:
        check_parameters(orjson.dumps(cell).decode() if as_text else cell)
    assert caught.value.code == "bad_parameters"
    assert name in caught.value.message


def test_parameters_of_a_row() -> None:
    """A struct or its JSON text overrides the job's parameters, and nulls or an empty cell leave them."""
    assert check_parameters({"temperature": 0.5, "stop": None}) == {"temperature": 0.5}
    assert check_parameters('{"temperature": 0.5, "seed": 1}') == {"temperature": 0.5, "seed": 1}
    assert [check_parameters(cell) for cell in (None, {}, "{}", {"stop": None}, {"n": None})] == [None] * 5
    assert check_parameters({"n": 1, "best_of": 1, "stream": False}) is None


@pytest.mark.parametrize(
    "cell",
    ["", "no", "[]", "5", '"x"', "[" * 200_000, 5, ["x"], [("temperature", 1)], b"{}"],
    ids=lambda c: str(c)[:20],
)
def test_bad_parameters_reject_their_row(cell: Any) -> None:
    """Parameters that are not a mapping are a fault of their row."""
    with pytest.raises(RowFault) as caught:
        check_parameters(cell)
    assert caught.value.code == "bad_parameters"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", (0, 2, 0.7), (-0.1, 2.1, True, "0", float("nan"), [0])),
        ("top_p", (0, 1), (-0.1, 1.1, False)),
        ("presence_penalty", (-2, 2), (-2.1, 2.1)),
        ("frequency_penalty", (-2, 2), (-2.1, 2.1)),
    ],
)
def test_parameters_out_of_range_reject_their_row(name: str, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    """A value that the service would refuse rejects its row before it is sent."""
    for value in good:
        assert check_parameters({name: value}) == {name: value}
    for value in bad:
        with pytest.raises(RowFault) as caught:
            check_parameters({name: value})
        assert caught.value.code == "bad_parameters"
        assert name in caught.value.message


def test_text_that_is_no_json_is_told_from_other_json() -> None:
    """The message says whether parameters or messages of text are not JSON or have the wrong type."""
    for check, what in ((check_parameters, "the parameters are not"), (check_messages, "the messages are not")):
        with pytest.raises(RowFault, match=f"^{what} JSON$"):
            check("{")
        with pytest.raises(RowFault, match=f"^{what} a (mapping|list)"):
            check("5")


def _refused(*messages: Any) -> str:
    with pytest.raises(RowFault) as caught:
        check_messages(list(messages))
    assert caught.value.code == "bad_messages"
    return caught.value.message


@pytest.mark.parametrize("name", sorted(DROPPED))
def test_fields_that_say_nothing_to_the_model_are_dropped(name: str) -> None:
    """Extra fields that data sets add to a message are not sent, whatever their value."""
    for value in (1, 0.5, "x", [1], {"a": 1}, True):
        assert check_messages([{**HELLO[0], name: value}]) == HELLO


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"from": "human", "value": "hi"}, ["the field `from`", "ShareGPT", "human is user"]),
        ({"from": "gpt", "value": "hi", "weight": 1}, ["the field `from`", "ShareGPT"]),
        ({"role": "user", "value": "hi"}, ["the field `value`", "ShareGPT"]),
        ({"role": "user", "parts": [{"text": "hi"}]}, ["the field `parts`", "Gemini"]),
        ({"role": "user", "text": "hi"}, ["the field `text`", "write it as `content`"]),
        ({"role": "user", "content": "hi", "zebra": 1}, ["the field `zebra`", "a message can have content"]),
        ({"role": "assistant", "function_call": {"name": "f"}}, ["`function_call`", "older form of `tool_calls`"]),
        ({"role": "human", "content": "hi"}, ["the role human", "write it as user"]),
        ({"role": "GPT", "content": "hi"}, ["the role gpt", "write it as assistant"]),
        ({"content": "hi"}, ["no known role", "assistant"]),
        ({"role": "assistant", "content": None}, ["no text", "leave the message out"]),
        ({"role": "user", "content": None}, ["no text"]),
        ({"role": "user", "content": 5}, ["no text"]),
    ],
)
def test_a_refusal_names_the_field(message: dict[str, Any], words: list[str]) -> None:
    """The refusal of a message has its number, the wrong field or role, and a fix."""
    refusal = _refused({"role": "system", "content": "be short"}, message)
    assert refusal.startswith("message 1 has ")
    assert all(word in refusal for word in words), refusal


def test_a_refusal_shows_no_cell() -> None:
    """The refusal does not show a field that is not a word, or an unknown role, because it may come from a cell."""
    for refusal in (
        _refused({"role": "user", "content": "x", "secret words of a cell": 1}),
        _refused({"role": "user", "content": "x", "s" * 41: 1}),
        _refused({"role": "secret", "content": "x"}),
    ):
        assert "secret" not in refusal
        assert "sssss" not in refusal


def test_a_mapping_in_the_place_of_messages() -> None:
    """If a cell holds the list of messages under a name, the refusal says which name."""
    for name in ("messages", "conversations", "conversation"):
        with pytest.raises(RowFault, match=f"holds its `{name}`"):
            check_messages(orjson.dumps({name: HELLO}).decode())
    with pytest.raises(RowFault, match="a mapping, not a list"):
        check_messages({"role": "user", "content": "x"})


def test_messages_without_text_that_can_be_sent() -> None:
    """An assistant message with tool calls or a refusal needs no text.

    An empty list of tool calls is left out, because services refuse it.
    """
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert check_messages([*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}])[1] == {
        "role": "assistant",
        "tool_calls": [call],
    }
    assert check_messages([*HELLO, {"role": "assistant", "refusal": "no"}])[1] == {"role": "assistant", "refusal": "no"}
    assert check_messages([{**HELLO[0], "tool_calls": []}]) == HELLO
