"""Parquill reads each service's list of models and finds the job's model in it."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.llm.model_list import ModelList, read_model_list

BASE = "https://api.example.com/v1"


def _data(*names: str, **more: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model"} for name in names], **more}


# The documented shapes of OpenAI, Gemini, Fireworks, Together, Ollama, vLLM, Mistral and llama.cpp.
FOUND: list[tuple[Any, str, str]] = [
    (_data("gpt-6-luna", "gpt-4o-mini"), "gpt-6-luna", "gpt-6-luna"),
    (_data("models/gemini-2.5-flash"), "gemini-2.5-flash", "models/gemini-2.5-flash"),
    (_data("gemini-2.5-flash"), "models/gemini-2.5-flash", "gemini-2.5-flash"),
    ({"models": [{"name": "models/gemini-2.5-flash"}]}, "gemini-2.5-flash", "models/gemini-2.5-flash"),
    (
        _data("publishers/google/models/gemini-3.8-flash"),
        "gemini-3.8-flash",
        "publishers/google/models/gemini-3.8-flash",
    ),
    (
        _data("accounts/fireworks/models/llama-v3p1-8b-instruct"),
        "llama-v3p1-8b-instruct",
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
    ),
    ([{"id": "meta-llama/Llama-3.3-70B", "type": "chat"}], "meta-llama/Llama-3.3-70B", "meta-llama/Llama-3.3-70B"),
    (["one", "two"], "two", "two"),
    (_data("llama3.2:latest"), "llama3.2", "llama3.2:latest"),
    (_data("llama3.2"), "llama3.2:latest", "llama3.2"),
    ({"models": [{"name": "qwen3:8b", "model": "qwen3:8b"}]}, "qwen3:8b", "qwen3:8b"),
    ({"models": [{"model": "a"}], "data": [{"id": "b"}]}, "b", "b"),
    (_data("Qwen/Qwen3-8B"), "qwen/qwen3-8b", "Qwen/Qwen3-8B"),
    (_data("gpt-4o-mini-2024-07-18"), "gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    (_data("claude-sonnet-4-5-20250929"), "claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
    (_data("mistral-small-2503"), "mistral-small-latest", "mistral-small-2503"),
    (_data("grok-4-0709"), "grok-4", "grok-4-0709"),
    (_data("deepseek/deepseek-r1"), "deepseek/deepseek-r1:free", "deepseek/deepseek-r1"),
]


@pytest.mark.parametrize(("document", "model", "name"), FOUND)
def test_a_model_is_found(document: Any, model: str, name: str) -> None:
    """`name_of` finds a model in every shape of list and returns the service's name for it."""
    found = read_model_list(document, BASE)
    assert found is not None
    assert found.name_of(model) == name


@pytest.mark.parametrize(
    ("listed", "model"),
    [
        ("gpt-5", "gpt-6"),
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o-mini", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4o-mini-2023-01-01"),  # another version is another model
        ("llama3.2:1b", "llama3.2"),
        ("Qwen/Qwen3-8B", "Qwen3-8B"),  # vLLM answers 404 to it
        ("gemini-2.5-flash-lite", "gemini-2.5-flash"),
    ],
)
def test_another_model_is_not(listed: str, model: str) -> None:
    """`name_of` does not accept a name that only looks similar, and `nearest` suggests that name."""
    found = read_model_list(_data("zzz", listed), BASE)
    assert found is not None
    assert found.name_of(model) is None
    assert found.nearest(model)[0] == listed


@pytest.mark.parametrize(
    "document",
    [None, {}, [], {"data": []}, {"data": None}, {"data": [{"x": 1}, 3]}, {"error": {"message": "no"}}, "text", 5,
     {"data": [{"id": None}, {"id": ""}]}, {"data": {"id": "a"}}],
)  # fmt: skip
def test_what_is_no_list(document: Any) -> None:
    """A document that names no model is not a list of models."""
    assert read_model_list(document, BASE) is None


@pytest.mark.parametrize(
    ("document", "base_url", "why"),
    [
        (_data("a"), BASE, None),
        (_data("a"), "https://api.openai.com/v1", None),
        (_data("a", has_more=False), BASE, None),
        (_data("a", has_more=True), BASE, "more pages"),
        ({"models": [{"name": "models/a"}], "nextPageToken": "x"}, BASE, "more pages"),
        (_data("openai/*"), BASE, "patterns"),
        ({"data": [{"id": "a.gguf", "owned_by": "llamacpp"}]}, "http://127.0.0.1:8080/v1", "any name"),
        (_data("a"), "https://shop.openai.azure.com/openai/v1", "a part"),
        (_data("a"), "https://api.fireworks.ai/inference/v1", "a part"),
        (_data("a"), "https://azure.com.example.com/v1", None),
    ],
)
def test_lists_that_are_a_part(document: Any, base_url: str, why: str | None) -> None:
    """If a list is known to be incomplete, `why_partial` says why."""
    found = read_model_list(document, base_url)
    assert found is not None
    assert found.why_partial is None if why is None else why in str(found.why_partial)


def test_names_are_safe_to_show() -> None:
    """A listed name has a limited length and no control characters that a terminal would obey."""
    found = read_model_list(_data("a\x1b[2Jb", "x" * 5_000), BASE)
    assert found is not None
    assert all(len(name) <= 200 and name.isprintable() for name in found.names)


def test_the_shutdown_is_kept() -> None:
    """The list keeps a model's shutdown date, and a model without one has None."""
    found = read_model_list({"data": [{"id": "a", "shutdown_date": "2027-01-14"}, {"id": "b"}]}, BASE)
    assert found == ModelList({"a": "2027-01-14", "b": None})
