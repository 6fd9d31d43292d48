"""Parquill reads usage under every documented name and books the larger figure if it does not add up.

`LAYOUTS` is the table of tests/README.md: one documented layout each.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.llm.usage import FLAGS, MAX_TOKENS, UNKNOWN, Reading, read_usage
from parquill.tasks.records import NO_CHARGE, Charge, Usage, add_usage

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 30, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 8},
}
RESPONSES = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 30},
    "output_tokens_details": {"reasoning_tokens": 8},
}


def _plain(prompt: int, completion: float, total: float | None = None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    return found | {"total_tokens": prompt + completion if total is None else total} | more


# Provider and layout -> (its `usage`, the meaning); a reply has `timings` next to its `usage`.
LAYOUTS: dict[str, tuple[dict[str, Any], Usage]] = {
    "openai-chat": (CHAT, Usage(100, 64, 30, 20, 8)),
    "openai-responses": (RESPONSES, Usage(100, 64, 30, 20, 8)),
    "openai-completions": (_plain(9, 4), Usage(9, 0, 0, 4)),
    "azure-chat": (
        _plain(
            1_200,
            300,
            completion_tokens_details={
                "accepted_prediction_tokens": 0,
                "audio_tokens": 0,
                "reasoning_tokens": 256,
                "rejected_prediction_tokens": 0,
            },
            prompt_tokens_details={"audio_tokens": 0, "cached_tokens": 1_024},
        ),
        Usage(1_200, 1_024, 0, 300, 256),
    ),
    "azure-older": (_plain(30, 7, prompt_tokens_details=None, completion_tokens_details=None), Usage(30, 0, 0, 7)),
    "openrouter-cache-writes": (
        _plain(
            10_339,
            60,
            prompt_tokens_details={"cached_tokens": 0, "cache_write_tokens": 10_318, "audio_tokens": 0},
            completion_tokens_details={"reasoning_tokens": 0},
            cost=0.04,
            cost_details={"upstream_inference_cost": None},
        ),
        Usage(10_339, 0, 10_318, 60),
    ),
    "openrouter-reasoning": (
        _plain(
            194, 500, prompt_tokens_details={"cached_tokens": 128}, completion_tokens_details={"reasoning_tokens": 450}
        ),
        Usage(194, 128, 0, 500, 450),
    ),
    "gemini-thoughts-in-total-only": (_plain(758, 102, 1_725), Usage(758, 0, 0, 967)),
    "gemini-no-thoughts": (_plain(12, 40), Usage(12, 0, 0, 40)),
    "gemini-thoughts-alone": (
        _plain(21, 0, 81, completion_tokens_details={"reasoning_tokens": 60}),
        Usage(21, 0, 0, 60, 60),
    ),
    "gemini-no-completion": ({"prompt_tokens": 21, "total_tokens": 81}, Usage(21, 0, 0, 60)),
    "gemini-cached": (
        _plain(5_000, 10, 5_030, prompt_tokens_details={"cached_tokens": 4_096}),
        Usage(5_000, 4_096, 0, 30),
    ),
    "xai-reasoning-beside": (
        _plain(
            12,
            2,
            2_814,
            prompt_tokens_details={"text_tokens": 12, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 4},
            completion_tokens_details={"reasoning_tokens": 2_800, "audio_tokens": 0},
            num_sources_used=0,
        ),
        Usage(12, 4, 0, 2_802, 2_800),
    ),
    "xai-no-reasoning": (
        _plain(125, 48, prompt_tokens_details={"text_tokens": 125, "cached_tokens": 98}),
        Usage(125, 98, 0, 48),
    ),
    "xai-responses": (
        {
            "input_tokens": 125,
            "output_tokens": 348,
            "total_tokens": 473,
            "input_tokens_details": {"cached_tokens": 98},
            "output_tokens_details": {"reasoning_tokens": 300},
        },
        Usage(125, 98, 0, 348, 300),
    ),
    "xai-earlier-cached": (_plain(125, 48, cached_prompt_text_tokens=98), Usage(125, 98, 0, 48)),
    "deepseek-hit-and-miss": (
        _plain(
            10_000,
            2,
            prompt_tokens_details={"cached_tokens": 9_000},
            prompt_cache_hit_tokens=9_000,
            prompt_cache_miss_tokens=1_000,
        ),
        Usage(10_000, 9_000, 0, 2),
    ),
    "deepseek-hit-only": (
        _plain(10_000, 2, prompt_cache_hit_tokens=9_000, prompt_cache_miss_tokens=1_000),
        Usage(10_000, 9_000, 0, 2),
    ),
    "deepseek-reasoner": (
        _plain(
            17,
            420,
            prompt_cache_hit_tokens=0,
            prompt_cache_miss_tokens=17,
            completion_tokens_details={"reasoning_tokens": 400},
        ),
        Usage(17, 0, 0, 420, 400),
    ),
    "moonshot-cached": (_plain(3_000, 20, cached_tokens=2_816), Usage(3_000, 2_816, 0, 20)),
    "moonshot-cache-writes": (
        _plain(3_000, 20, prompt_tokens_details={"cached_tokens": 1_024, "cache_write_tokens": 1_792}),
        Usage(3_000, 1_024, 1_792, 20),
    ),
    "mistral": (_plain(50, 9, prompt_audio_seconds={}), Usage(50, 0, 0, 9)),
    "mistral-cached": (_plain(2_100, 9, prompt_tokens_details={"cached_tokens": 2_048}), Usage(2_100, 2_048, 0, 9)),
    "groq": (
        _plain(
            18,
            556,
            queue_time=0.037493756,
            prompt_time=0.000680594,
            completion_time=0.463333333,
            total_time=0.464013927,
            prompt_tokens_details={"cached_tokens": 16},
            completion_tokens_details={"reasoning_tokens": 300},
        ),
        Usage(18, 16, 0, 556, 300),
    ),
    "vllm-null-details": (_plain(7, 16, prompt_tokens_details=None), Usage(7, 0, 0, 16)),
    "vllm-cached": (_plain(700, 16, prompt_tokens_details={"cached_tokens": 688}), Usage(700, 688, 0, 16)),
    "sglang": (_plain(32, 10, prompt_tokens_details=None, reasoning_tokens=0), Usage(32, 0, 0, 10)),
    "sglang-cached": (
        _plain(32, 10, prompt_tokens_details={"cached_tokens": 16}, reasoning_tokens=6),
        Usage(32, 16, 0, 10, 6),
    ),
    "ollama": (_plain(26, 298), Usage(26, 0, 0, 298)),
    "llamacpp-usage": (
        _plain(31, 10, prompt_tokens_details={"cached_tokens": 30}),
        Usage(31, 30, 0, 10),
    ),
    "llamacpp-timings": (
        {**_plain(31, 10), "timings": {"cache_n": 30, "prompt_n": 1, "predicted_n": 10, "predicted_ms": 80.5}},
        Usage(31, 30, 0, 10),
    ),
    "llamacpp-timings-alone": (
        {"timings": {"cache_n": 236, "prompt_n": 1, "prompt_ms": 30.9, "predicted_n": 35}},
        Usage(237, 236, 0, 35),
    ),
    "lmstudio": (_plain(24, 11, input_tokens=24), Usage(24, 0, 0, 11)),
    "lmstudio-reasoning": (
        _plain(24, 110, completion_tokens_details={"reasoning_tokens": 90}),
        Usage(24, 0, 0, 110, 90),
    ),
    "litellm-openai": (
        _plain(
            2_006,
            300,
            prompt_tokens_details={"cached_tokens": 1_920},
            completion_tokens_details={"reasoning_tokens": 0},
        ),
        Usage(2_006, 1_920, 0, 300),
    ),
    "litellm-anthropic": (
        _plain(
            2_100,
            300,
            prompt_tokens_details={"cached_tokens": 600, "cache_creation_tokens": 1_400},
            cache_creation_input_tokens=1_400,
            cache_read_input_tokens=600,
        ),
        Usage(2_100, 600, 1_400, 300),
    ),
    "litellm-anthropic-beside-in-total": (
        _plain(31, 467, 1_751, cache_creation_input_tokens=1_253, cache_read_input_tokens=0),
        Usage(1_284, 0, 1_253, 467),
    ),
    "anthropic-native-names": (
        {
            "input_tokens": 21,
            "cache_creation_input_tokens": 188,
            "cache_read_input_tokens": 1_800,
            "output_tokens": 393,
        },
        Usage(2_009, 1_800, 188, 393),
    ),
    "anthropic-compatible": (_plain(21, 393, prompt_tokens_details=None), Usage(21, 0, 0, 393)),
    "alibaba-explicit-cache": (
        _plain(
            2_000,
            90,
            prompt_tokens_details={"cached_tokens": 0, "cache_creation_input_tokens": 1_500, "cache_type": "ephemeral"},
        ),
        Usage(2_000, 0, 1_500, 90),
    ),
    "together-cached": (_plain(500, 9, cached_tokens=256), Usage(500, 256, 0, 9)),
    "perplexity": (
        _plain(8, 100, search_context_size="low", citation_tokens=0, reasoning_tokens=40),
        Usage(8, 0, 0, 100, 40),
    ),
    "whole-floats": (
        {"prompt_tokens": 100.0, "completion_tokens": 20.0, "total_tokens": 120.0},
        Usage(100, 0, 0, 20),
    ),
    "no-total": ({"prompt_tokens": 7, "completion_tokens": 3}, Usage(7, 0, 0, 3)),
    "no-prompt": ({"completion_tokens": 3, "total_tokens": 10}, Usage(7, 0, 0, 3)),
}
# Contradiction -> (the usage, the booked usage, the flag)
ODD: dict[str, tuple[dict[str, Any], Usage, str]] = {
    "total-is-more-than-reasoning-explains": (
        _plain(100, 20, 200, completion_tokens_details={"reasoning_tokens": 30}),
        Usage(100, 0, 0, 100, 30),
        "total",
    ),
    "total-is-less-than-reasoning-needs": (
        _plain(100, 150, 350, completion_tokens_details={"reasoning_tokens": 200}),
        Usage(100, 0, 0, 350, 200),
        "total",
    ),
    "total-is-too-small": (_plain(100, 20, 119), Usage(100, 0, 0, 20), "total"),
    "total-is-zero": (_plain(100, 20, 0), Usage(100, 0, 0, 20), "total"),
    "reasoning-beyond-completion": (
        _plain(100, 20, completion_tokens_details={"reasoning_tokens": 21}),
        Usage(100, 0, 0, 41, 21),
        "reasoning_beside",
    ),
    "reasoning-beyond-completion-without-total": (
        {"prompt_tokens": 100, "completion_tokens": 20, "reasoning_tokens": 500},
        Usage(100, 0, 0, 520, 500),
        "reasoning_beside",
    ),
    "cached-beyond-prompt": (
        _plain(100, 20, prompt_tokens_details={"cached_tokens": 101}),
        Usage(201, 101, 0, 20),
        "cache_beside",
    ),
    "litellm-of-2025": (  # BerriAI/litellm issue 15056
        _plain(
            31,
            467,
            prompt_tokens_details={"cached_tokens": 0},
            cache_creation_input_tokens=1_253,
            cache_read_input_tokens=0,
        ),
        Usage(1_284, 0, 1_253, 467),
        "cache_beside",
    ),
    "cached-and-written-beyond-prompt": (
        _plain(100, 20, prompt_tokens_details={"cached_tokens": 60, "cache_write_tokens": 60}),
        Usage(220, 60, 60, 20),
        "cache_beside",
    ),
    "fractions": (_plain(100, 20.5, 120.5), Usage(100, 0, 0, 21), "fraction"),
    "two-prompts": (_plain(100, 20, input_tokens=130), Usage(130, 0, 0, 20), "total"),
    "two-cached": (
        _plain(100, 20, prompt_tokens_details={"cached_tokens": 10}, cached_tokens=40),
        Usage(100, 40, 0, 20),
        "names",
    ),
    "misses-beyond-prompt": (
        _plain(100, 20, prompt_cache_hit_tokens=50, prompt_cache_miss_tokens=70),
        Usage(120, 50, 0, 20),
        "names",
    ),
}
GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*CHAT, *RESPONSES, "cached_tokens", "reasoning_tokens", "cache_creation_input_tokens"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
COUNT = st.integers(-2, 50) | st.sampled_from([MAX_TOKENS, MAX_TOKENS + 1, None, True, 2.0, 3.5, "3"])


def _reply(usage: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in usage.items() if name != "timings"}
    return {"usage": rest, "timings": usage["timings"]} if "timings" in usage else {"usage": rest}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_documented_layout(name: str) -> None:
    """M6: each service's usage is read as its documentation defines it, and nothing is flagged."""
    usage, meaning = LAYOUTS[name]
    assert read_usage(_reply(usage)) == Reading(meaning)


@pytest.mark.parametrize("name", ODD)
def test_what_does_not_add_up_is_booked_at_the_larger_figure(name: str) -> None:
    """M3: usage that does not add up is booked at the larger figure that it can mean and flagged with the reason."""
    usage, meaning, flag = ODD[name]
    assert read_usage({"usage": usage}) == Reading(meaning, flag)
    assert flag in FLAGS


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
    """Without details, no token was cached and none was reasoning."""
    assert read_usage({"usage": {"prompt_tokens": 7, "completion_tokens": 0, **details}}) == Reading(Usage(7))


@pytest.mark.parametrize(
    "reply", [None, [], "usage", 5, {}, {"usage": None}, {"usage": []}, {"usage": "many"}, {"usage": {}}]
)
def test_missing_usage_is_told_from_zero(reply: Any) -> None:
    """Missing usage is None, not a usage of zero tokens with a cost of 0."""
    assert read_usage(reply) == UNKNOWN


BAD = [True, False, -1, -0.5, "7", float("nan"), 1e309, [7], {"n": 7}, 2 * MAX_TOKENS + 1, 10**30]


@pytest.mark.parametrize("value", [*BAD, MAX_TOKENS + 1])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_impossible_figures_are_not_believed(name: str, value: Any) -> None:
    """A negative, absurd or boolean figure makes the whole usage unknown, and the other figures are its minimum."""
    usage = {"prompt_tokens": 100, "completion_tokens": 20, name: value}
    usage |= {"prompt_tokens_details": None}
    least = Usage(completion=20) if name == "prompt_tokens" else Usage(prompt=100)
    assert read_usage({"usage": usage}) == Reading(None, None, least)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["cached_tokens", "cache_write_tokens", "reasoning_tokens", "total_tokens"])
def test_impossible_details_are_not_believed(name: str, value: Any) -> None:
    """An impossible detail or total makes the usage unknown, and it is booked at no less than the other figures."""
    details = {"cached_tokens": "prompt_tokens_details", "cache_write_tokens": "prompt_tokens_details"}
    details["reasoning_tokens"] = "completion_tokens_details"
    changed = {details[name]: {name: value}} if name in details else {name: value}
    assert read_usage({"usage": CHAT | changed}) == Reading(None, None, Usage(prompt=100, completion=20))


def test_an_output_that_is_not_told_makes_usage_unknown() -> None:
    """A prompt alone or a total alone does not show what is billed; it is the minimum."""
    assert read_usage({"usage": {"prompt_tokens": 100}}) == Reading(None, None, Usage(prompt=100))
    assert read_usage({"usage": {"total_tokens": 100}}) == Reading(None, None, Usage(completion=100))
    assert read_usage({"usage": {"prompt_tokens": 0, "completion_tokens": 5}}) == Reading(
        None, None, Usage(completion=5)
    )


def test_all_of_it_may_be_cached_or_reasoning() -> None:
    """Figures may be equal: a prompt can be wholly cached, and an answer can be reasoning alone."""
    usage = {
        **CHAT,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    assert read_usage({"usage": usage}) == Reading(Usage(100, 60, 40, 20, 20))
    most = {"prompt_tokens": MAX_TOKENS, "completion_tokens": MAX_TOKENS}
    assert read_usage({"usage": most}) == Reading(Usage(MAX_TOKENS, 0, 0, MAX_TOKENS))


def _check_possible(found: Reading) -> None:
    assert found.flag is None or (found.usage is not None and found.flag in FLAGS)
    for usage in (found.usage, found.least):
        if usage is not None:
            assert all(type(count) is int and 0 <= count <= 2 * MAX_TOKENS for count in usage)
    if found.usage is not None:
        assert max(found.usage) <= MAX_TOKENS
        assert found.usage.cached + found.usage.cache_write <= found.usage.prompt
        assert found.usage.reasoning <= found.usage.completion


@settings(max_examples=300)
@given(GARBAGE)
def test_garbage_never_raises(garbage: Any) -> None:
    """For any reported usage, the reading is possible or unknown and never an error."""
    for reply in (garbage, {"usage": garbage}, {"timings": garbage}, {"usage": garbage, "timings": garbage}):
        _check_possible(read_usage(reply))


@settings(max_examples=500)
@given(COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)
def test_nothing_is_booked_below_what_is_reported(
    prompt: Any, cached: Any, written: Any, completion: Any, reasoning: Any, total: Any
) -> None:
    """M3: a known usage has no figure below a reported one and covers the reported total."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    found = read_usage({"usage": usage})
    _check_possible(found)
    if found.usage is None:
        return
    for value, count in zip((prompt, cached, written, completion, reasoning), found.usage, strict=True):
        assert count >= (value or 0)
    assert found.usage.prompt + found.usage.completion >= (total or 0)
    as_it_is = (prompt, cached or 0, written or 0, completion, reasoning or 0)
    whole = all(type(value) is int and 0 <= value <= MAX_TOKENS for value in as_it_is)
    if whole and total in {None, (prompt or 0) + (completion or 0)}:
        fits = as_it_is[1] + as_it_is[2] <= as_it_is[0] and as_it_is[4] <= as_it_is[3]
        assert (found == Reading(Usage(*as_it_is))) is fits


def test_the_last_of_two_keys_counts() -> None:
    """If a usage has a key twice, the last one counts, as in JSON readers."""
    reply = orjson.loads(b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens": -5}}')
    assert read_usage(reply).usage is None


def test_usages_add_up() -> None:
    """A row that was billed twice used the sum of both."""
    assert Usage(1, 2, 3, 4, 5) + Usage(10, 20, 30, 40, 50) == Usage(11, 22, 33, 44, 55)
    assert add_usage(None, Usage(1, 2, 3, 4, 5), None, Usage(1)) == Usage(2, 2, 3, 4, 5)
    assert add_usage(None, None) is None


def test_charges_add_up() -> None:
    """The charges of earlier runs and of this run add up, and the sum of unknown usages is unknown."""
    first, second = Charge(7, 3, 2, Usage(9, 1, 0, 5, 0)), Charge(1, 2, 1)
    assert first + second == Charge(8, 5, 3, Usage(9, 1, 0, 5, 0))
    assert (second + second).usage is None
    assert first + NO_CHARGE == first
    assert Charge.of({"cost_nano": 7, "in_doubt_nano": 3, "attempts": 2, "usage": [9, 1, 0, 5, 0]}) == first
    assert Charge.of(None) == NO_CHARGE
