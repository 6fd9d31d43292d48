"""Models that are billed for more than their tokens: they are refused, since no budget could hold.

A model with a fee for each request is not refused if genai-prices knows the fee: the fee is part of the price then.
"""

from __future__ import annotations

import re

from parquill.tasks.errors import BadJob

_ROUTER = "the service passes the request on to a model of its choice, whose price is not known before"
# One closed list: a pattern of the name, and what is billed besides the tokens. Names are compared in lower case.
_MODELS = (
    # OpenAI: gpt-4o-search-preview, gpt-4o-mini-search-preview, gpt-5-search-api; $10 and more for 1,000 searches
    (r"-search-(?:preview|api)", "it searches the web on every request, and each search is billed"),
    # OpenAI o3-deep-research, o4-mini-deep-research; Perplexity sonar-deep-research; Alibaba qwen-deep-research
    (r"deep-research", "it makes as many searches as it likes, and each search is billed"),
    # OpenRouter: the suffix that turns the web plugin on
    (r":online$", "`:online` searches the web on every request, and each search is billed"),
    # Perplexity's earlier names, sold by others too
    (r"-online$", "it searches the web on every request, and each search is billed"),
    # Groq: compound, compound-mini, compound-beta run searches and code by themselves
    (r"(?:^|/)compound(?:-|$)", "it uses tools of the service by itself, and each use is billed"),
    # OpenRouter auto, auto-beta, fusion, bodybuilder, pareto-code, free; switchpoint/router; Azure model-router
    (r"^openrouter/", _ROUTER),
    (
        r"^(?:model-router|switchpoint/router)$",
        "it passes the request on to a model of the service's choice, whose price is not known before",
    ),
    # OpenRouter: the fastest seller instead of the cheapest
    (r":nitro$", "`:nitro` takes the fastest seller whatever it costs, so its price is not known before"),
    # Exa: exa-research, exa-research-pro
    (r"(?:^|/)exa-research", "it makes as many searches as it likes, and each search is billed"),
)
_COMPILED = tuple((re.compile(pattern), reason) for pattern, reason in _MODELS)
_SONAR = re.compile(r"(?:^|/)sonar(?:-|$)")  # Perplexity: a fee for each request


def refuse_model(model: str, *, has_fee: bool = False) -> None:
    """Raise BadJob for a model that is billed for more than its tokens; `has_fee`: its price includes a request fee."""
    name = model.lower()
    for pattern, reason in _COMPILED:
        if pattern.search(name):
            raise BadJob(
                f"the model {model!r} is billed for more than its tokens: {reason}. No budget would hold; choose "
                "another model"
            )
    if _SONAR.search(name) and not has_fee:
        raise BadJob(
            f"the model {model!r} is billed for more than its tokens: by the request too, with a fee that is not known "
            "here. No budget would hold; use it at https://api.perplexity.ai, where the fee is known"
        )
