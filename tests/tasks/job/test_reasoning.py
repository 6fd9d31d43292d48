"""Models that think before they answer are known, and one with a small max_output_tokens causes a warning."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.job.reasoning import answers_at_once, thinks, warn_of_thinking


def _job(model: str, max_output_tokens: int = 120, api: str = "chat", **parameters: Any) -> Any:
    job = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "{{ x }}"}, "model": model}
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "api": api}
    return make_job({**job, "max_output_tokens": max_output_tokens, "endpoint": endpoint, "parameters": parameters})


@pytest.mark.parametrize(
    "model",
    "gpt-6-luna gpt-6.1-sol openai/gpt-6-luna gpt-5 gpt-5-mini o3 o4-mini gpt-oss-120b gemini-2.5-flash gemini-3.8-flash "
    "google/gemini-2.5-pro deepseek-reasoner deepseek-r1 deepseek/deepseek-r1:free deepseek-v4-flash grok-4 qwq-32b Qwen3-8B "
    "grok-4-fast-reasoning kimi-k2-thinking magistral-small".split(),
)
def test_models_that_think(model: str) -> None:
    """These models think unless a parameter switches it off."""
    assert thinks(_job(model))


@pytest.mark.parametrize(
    "model",
    "gpt-4o-mini gpt-4.1 gpt-5.1 gpt-5.4-nano gpt-5-chat-latest gemini-2.5-flash-lite deepseek-chat deepseek-v3.2 "
    "grok-4-fast-non-reasoning mistral-small-latest claude-sonnet-4-6 smollm2-135m-instruct foo3 qwen3-8b-instruct-2507".split(),
)
def test_models_that_do_not(model: str) -> None:
    """These models answer without thinking first, as far as is known."""
    assert not thinks(_job(model))


@pytest.mark.parametrize(
    "parameters",
    [
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}},
        {"reasoning": {"enabled": False}},
        {"thinking": {"type": "disabled"}},
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_thinking_can_be_switched_off(parameters: dict[str, Any]) -> None:
    """A parameter that switches thinking off, in the form of any service, silences the warning."""
    assert warn_of_thinking(_job("gpt-6-luna", **parameters)) is None


def test_a_model_that_is_asked_to_think() -> None:
    """A model that thinks only on request causes the warning when the job asks it to think."""
    assert warn_of_thinking(_job("gpt-5.4-nano")) is None
    assert warn_of_thinking(_job("gpt-5.4-nano", reasoning_effort="low")) is not None


def test_the_warning_says_what_to_do() -> None:
    """The warning names both ways out, in the words of the job's API; with enough tokens there is no warning."""
    assert "max_output_tokens = 120" in str(warn_of_thinking(_job("gpt-6-luna")))
    assert "Set `parameters: {reasoning_effort: none}`" in str(warn_of_thinking(_job("gpt-6-luna")))
    warning = str(warn_of_thinking(_job("gpt-6-luna", api="responses")))
    assert "Set `parameters: {reasoning: {effort: none}}`" in warning
    assert "Switch its thinking off with a parameter" in str(warn_of_thinking(_job("o3")))
    assert warn_of_thinking(_job("gpt-6-luna", 1_000)) is None
    assert warn_of_thinking(_job("gpt-6-luna", 999)) is not None


@pytest.mark.parametrize(
    ("model", "api", "parameters"),
    [
        ("gpt-6-luna", "chat", {"reasoning_effort": "none"}),
        ("openai/gpt-5.4-mini", "chat", {"reasoning_effort": "none"}),
        ("gpt-6-luna", "responses", {"reasoning": {"effort": "none"}}),
        ("gpt-4o-mini", "chat", {}),
        ("gpt-5-mini", "chat", {}),  # it has no effort of none
        ("gpt-5.2-pro", "chat", {}),
        ("gpt-5.1-codex", "chat", {}),
        ("o3", "chat", {}),
        ("gemini-2.5-flash", "chat", {}),
    ],
)
def test_answers_at_once(model: str, api: str, parameters: dict[str, Any]) -> None:
    """Only a model that accepts an effort of none gets that parameter; no model gets a temperature."""
    assert answers_at_once(model, api) == parameters
