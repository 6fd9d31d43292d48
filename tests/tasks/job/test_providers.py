"""A model has the price of the seller at the job's address, or no price."""

from __future__ import annotations

from datetime import date

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.job.providers import is_openai
from parquill.tasks.money.prices import find_price, price_of

DAY = date(2026, 11, 23)
OPENAI = "https://api.openai.com/v1"
LOCAL = "http://localhost:11434/v1"
OWN = {"usd_per_mtok_input": 3, "usd_per_mtok_output": 5}


def _refusal(model: str, url: str | None) -> str:
    with pytest.raises(BadJob) as caught:
        find_price(model, url, DAY)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("ft:o4-mini-2025-04-16:acme:rft:AbCdEf", OPENAI),
        ("ft:gpt-4.1-mini-2025-04-14:acme::x", OPENAI),
        ("ft:o4-mini-2025-04-16:acme", "https://acme.openai.azure.com/openai/v1"),
        ("ft:gpt-4.1-mini-2025-04-14:acme::x", LOCAL),
        ("davinci:ft-acme-2023", LOCAL),
        ("claude-sonnet-4-5", OPENAI),
        ("gpt-4o-mini", "https://api.anthropic.com/v1"),
        ("gpt-4o-mini", "https://api.deepseek.com/v1"),
        ("deepseek-chat", "https://api.mistral.ai/v1"),
        ("gpt-4o-mini", "https://openrouter.ai/api/v1"),
        ("deepseek-reasoner", "https://openrouter.ai/api/v1"),
        ("grok-4", "https://eu.api.openai.com/v1"),
        ("deepseek-r1:8b", LOCAL),
        ("deepseek-r1:8b", "https://llm.example.com/v1"),
        ("llama3.2:1b", LOCAL),
        ("gemma2:2b", LOCAL),
        ("deepseek-chat", "https://api.siliconflow.com/v1"),
        ("qwen-max", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"),
        ("gpt-4o", "https://models.github.ai/inference"),
        ("gpt-3.5-turbo-0301", "https://api.groq.com/openai/v1"),
    ],
)
def test_no_price_of_another_seller(model: str, url: str) -> None:
    """M2: a model never has another seller's price, nor a fine-tuned or tagged model the price of its base model."""
    refusal = _refusal(model, url)
    assert refusal.startswith(f"no price is known for the model {model!r}")
    assert "price: {usd_per_mtok_input" in refusal
    job = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": model, "max_output_tokens": 5}
    own = price_of(make_job({**job, "endpoint": {"base_url": url}, "price": OWN}), DAY)
    assert own.source == "the job's `price`"


@pytest.mark.parametrize(
    ("model", "url", "source"),
    [
        ("gpt-4o-mini", OPENAI, "openai"),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", OPENAI, "openai"),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", LOCAL, "openai"),
        ("gpt-4o-mini", "https://acme.openai.azure.com/openai/v1", "azure"),
        ("claude-sonnet-4-5", "https://acme.services.ai.azure.com/openai/v1", "azure"),
        ("openai/gpt-4o-mini", "https://openrouter.ai/api/v1", "openrouter"),
        ("deepseek-chat", "https://api.deepseek.com", "deepseek"),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "https://api.together.ai/v1", "together"),
        ("claude-sonnet-4-5", LOCAL, "anthropic"),
    ],
)
def test_the_seller_at_the_address_counts(model: str, url: str, source: str) -> None:
    """M2: a seller's own list prices its models, also those that genai-prices says it sells at the maker's price."""
    assert find_price(model, url, DAY).source == f"genai-prices, {source}"


def test_a_refusal_names_the_nearest_of_the_seller() -> None:
    """M2: a refusal names the nearest models of the seller at the address, and says whose prices count."""
    refusal = _refusal("gpt-4o-mini", "https://openrouter.ai/api/v1")
    assert "the nearest known are openai/gpt-4o-mini" in refusal
    assert "only OpenRouter's prices count" in refusal


@pytest.mark.parametrize(
    ("model", "url", "words"),
    [
        ("gpt-4o-search-preview", OPENAI, "searches"),
        ("gpt-4o-mini-search-preview", OPENAI, "searches"),
        ("gpt-4o-mini-search-preview-2025-03-11", LOCAL, "searches"),
        ("gpt-5-search-api", OPENAI, "searches"),
        ("gpt-5-search-api-2025-10-14", OPENAI, "searches"),
        ("o3-deep-research", OPENAI, "searches"),
        ("o4-mini-deep-research-2025-06-26", OPENAI, "searches"),
        ("openai/o4-mini-deep-research", "https://openrouter.ai/api/v1", "searches"),
        ("sonar-deep-research", "https://api.perplexity.ai", "searches"),
        ("qwen-deep-research", LOCAL, "searches"),
        ("openai/gpt-4o:online", "https://openrouter.ai/api/v1", "`:online`"),
        ("openai/gpt-4o:nitro", "https://openrouter.ai/api/v1", "`:nitro`"),
        ("llama-3.1-sonar-large-128k-online", "https://api.perplexity.ai", "searches"),
        ("perplexity/sonar", "https://openrouter.ai/api/v1", "by the request"),
        ("perplexity/sonar-pro-search", "https://openrouter.ai/api/v1", "by the request"),
        ("groq/compound", "https://api.groq.com/openai/v1", "uses tools"),
        ("compound-beta-mini", "https://api.groq.com/openai/v1", "uses tools"),
        ("openrouter/auto", "https://openrouter.ai/api/v1", "passes the request on"),
        ("model-router", "https://acme.openai.azure.com/openai/v1", "passes the request on"),
    ],
)
def test_a_model_that_is_billed_beside_its_tokens_is_refused(model: str, url: str, words: str) -> None:
    """M1: a model that searches, or lets another one answer, is refused with a reason, even if the job sets a price."""
    refusal = _refusal(model, url)
    assert words in refusal
    assert "more than its tokens" in refusal
    job = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": model, "max_output_tokens": 5}
    with pytest.raises(BadJob, match="more than its tokens"):
        price_of(make_job({**job, "endpoint": {"base_url": url}, "price": OWN}), DAY)


@pytest.mark.parametrize("model", ["gpt-4o-mini", "o4-mini", "gpt-6-luna", "gpt-4o-audio-preview"])
def test_a_model_beside_them_is_not_refused(model: str) -> None:
    """A model that is not a search model keeps its price, even if its name looks like one."""
    assert find_price(model, OPENAI, DAY).request == 0


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        (OPENAI, True),
        ("https://eu.api.openai.com/v1", True),
        ("https://api.openai.com:443/v1", True),
        ("https://api.openai.com.example.com/v1", False),
        ("https://example.com/api.openai.com/v1", False),
        ("https://acme.openai.azure.com/openai/v1", False),
        (LOCAL, False),
        (None, False),
    ],
)
def test_openais_own_addresses(url: str | None, *, is_own: bool) -> None:
    """Only OpenAI's own hosts count as OpenAI."""
    assert is_openai(url) is is_own
