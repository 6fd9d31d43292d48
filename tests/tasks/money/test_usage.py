"""The usage that a reply reports: read under every name, never believed when it cannot be true."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.money.usage import MOST_TOKENS, Usage, read_usage

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 8},
}
RESPONSES = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_tokens_details": {"cached_tokens": 64},
    "output_tokens_details": {"reasoning_tokens": 8},
}
GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*CHAT, *RESPONSES, "cached_tokens", "reasoning_tokens"]), inner, max_size=6)
    ),
    max_leaves=12,
)
COUNT = st.integers(-2, 5) | st.sampled_from([MOST_TOKENS, MOST_TOKENS + 1, None, True, 2.0, "3"])


@pytest.mark.parametrize("usage", [CHAT, RESPONSES])
def test_every_api_has_the_same_four_names(usage: dict[str, Any]) -> None:
    """Chat and Responses name their figures differently; here they have one name each."""
    assert read_usage({"usage": usage}) == Usage(prompt=100, cached=64, completion=20, reasoning=8)


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"prompt_tokens_details": None},
        {"prompt_tokens_details": {}},
        {"prompt_tokens_details": {"cached_tokens": None}},
        {"completion_tokens_details": []},
    ],
)
def test_details_may_be_missing(details: dict[str, Any]) -> None:
    """Without details nothing was cached and nothing was reasoning."""
    assert read_usage({"usage": {"prompt_tokens": 7, "completion_tokens": 0, **details}}) == Usage(7, 0, 0, 0)


@pytest.mark.parametrize(
    "reply", [None, [], "usage", 5, {}, {"usage": None}, {"usage": []}, {"usage": "many"}, {"usage": {}}]
)
def test_missing_usage_is_told_from_zero(reply: Any) -> None:
    """No usage is None, and not a usage of nothing that would book a cost of 0."""
    assert read_usage(reply) is None


@pytest.mark.parametrize(
    "value", [None, True, False, -1, 1.0, 1.5, "7", float("nan"), 1e309, [7], {"n": 7}, MOST_TOKENS + 1, 10**30]
)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_impossible_figures_are_not_believed(name: str, value: Any) -> None:
    """Negative, fractional, absurd and boolean figures make the whole usage unknown: the reservation is booked."""
    assert (
        read_usage({"usage": {**CHAT, "prompt_tokens_details": None, "completion_tokens_details": None, name: value}})
        is None
    )


@pytest.mark.parametrize("value", [True, -1, 1.5, "7", 101, [7], MOST_TOKENS + 1])
def test_impossible_details_are_not_believed(value: Any) -> None:
    """More cached than prompted, more reasoned than completed, or no number: unknown."""
    assert read_usage({"usage": {**CHAT, "prompt_tokens_details": {"cached_tokens": value}}}) is None
    assert read_usage({"usage": {**CHAT, "completion_tokens_details": {"reasoning_tokens": value}}}) is None


def test_all_of_it_may_be_cached_or_reasoning() -> None:
    """Equal figures are possible: a prompt wholly cached, an answer that is reasoning alone."""
    usage = {
        **CHAT,
        "prompt_tokens_details": {"cached_tokens": 100},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    assert read_usage({"usage": usage}) == Usage(100, 100, 20, 20)
    assert read_usage({"usage": {"prompt_tokens": MOST_TOKENS, "completion_tokens": MOST_TOKENS}}) is not None


def _is_possible(found: Usage | None) -> bool:
    if found is None:
        return True
    counts = (found.prompt, found.cached, found.completion, found.reasoning)
    return (
        all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts)
        and found.cached <= found.prompt
        and found.reasoning <= found.completion
    )


@settings(max_examples=300)
@given(GARBAGE)
def test_garbage_never_raises(garbage: Any) -> None:
    """Whatever a service reports, reading it gives a possible usage or none, and never an error."""
    assert _is_possible(read_usage(garbage))
    assert _is_possible(read_usage({"usage": garbage}))


@settings(max_examples=300)
@given(COUNT, COUNT, COUNT, COUNT)
def test_only_consistent_figures_are_believed(prompt: Any, cached: Any, completion: Any, reasoning: Any) -> None:
    """Figures are believed exactly when they are whole, in range, parts of each other, and of a prompt at all."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    given_ = (prompt, 0 if cached is None else cached, completion, 0 if reasoning is None else reasoning)
    whole = all(type(value) is int and 0 <= value <= MOST_TOKENS for value in given_)
    believed = whole and given_[0] > 0 and given_[1] <= given_[0] and given_[3] <= given_[2]
    assert read_usage({"usage": usage}) == (Usage(*given_) if believed else None)


def test_the_last_of_two_keys_counts() -> None:
    """A reply with a key twice is read as JSON readers do, and stays consistent."""
    reply = orjson.loads(b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens": -5}}')
    assert read_usage(reply) is None


def test_usages_add_up() -> None:
    """A row that was billed twice used both."""
    assert Usage(1, 2, 3, 4) + Usage(10, 20, 30, 40) == Usage(11, 22, 33, 44)
