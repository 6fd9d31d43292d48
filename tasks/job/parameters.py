"""Which request parameters a user may set, in a job's `parameters` and in those of a row.

A parameter is refused if it makes a service bill more than the reserved tokens, or changes the protocol of the reply.
Services ignore or refuse names that they do not know, so a name that is harmless at one service is refused for all if
it costs money at another.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import rfc8785

# The names that services use for max_output_tokens: one setting bounds the cost, under one neutral name.
OUTPUT_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict"})
SECRETS = frozenset(["api_key", "api-key", "apikey", "key", "token", "authorization"])
OWNED = frozenset(["model", "messages", "input", "prompt", "instructions", "response_format", "text"])
# These are the defaults: they are dropped, so that a request has the same key with and without them.
HARMLESS: dict[str, Any] = {"n": 1, "best_of": 1, "num_return_sequences": 1, "stream": False}

# https://platform.openai.com/docs/api-reference/chat/create
RANGES = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}

# One closed list: why a parameter is refused, what to do, and the names that services use for it.
_REFUSED: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "makes the service search or use tools of its own, which it bills in addition to the tokens",
        "leave it out",
        {
            "OpenAI": "web_search_options container",
            "OpenRouter, Baidu": "web_search",
            "xAI": "search_parameters search",
            "Alibaba": "enable_search search_options enable_code_interpreter enable_text_image_mixed",
            "Google": "google google_search google_search_retrieval googleSearch grounding url_context",
            "Groq": "search_settings compound_custom include_domains exclude_domains",
            # billed above the fee in its price
            "Perplexity": "search_type search_mode search_context_size search_domain_filter search_recency_filter "
            "search_after_date_filter search_before_date_filter num_search_results return_images media_response",
            "Tencent": "enable_enhancement force_search_enhancement enable_deep_search",
            "Baichuan": "with_search_enhance",
            "Moonshot": "use_search",
            "Anthropic": "mcp_servers",
            "Cohere": "connectors",
            "Together": "safety_model",
        },
    ),
    (
        "makes the service read more input than was counted",
        "put the text into the prompt",
        {
            "OpenAI": "conversation previous_response_id context_management file_ids",
            "Azure": "data_sources dataSources",
            "Cohere, Groq, vLLM": "documents citation_options prompt_embeds",
            "Google": "cached_content cachedContent",
            "LiteLLM": "vector_store_ids",
            "Mistral": "agent_id",
        },
    ),
    (
        "lets another model or seller answer, at another price",
        "name the model itself in `model`",
        {
            "OpenRouter": "models route provider transforms plugins preset",
            "LiteLLM": "fallbacks context_window_fallbacks context_window_fallback_dict content_policy_fallbacks "
            "model_list custom_llm_provider api_base base_url",
            "other gateways": "fallback fallback_models fallback_model providerOptions provider_options",
        },
    ),
    (
        "buys another tier or region, at another price",
        "leave it out: requests are priced at the standard tier",
        {"OpenAI, Groq, Google": "service_tier", "Anthropic": "speed inference_geo", "several": "priority"},
    ),
    (
        "adds members to the request that are not checked here",
        "set the parameter itself, with nothing around it",
        {"clients of OpenAI, Google and LiteLLM": "extra_body extra_query extra_headers extra_params model_kwargs"},
    ),
    (
        "makes more than one answer, or one longer than max_output_tokens",
        "leave it out; to sample, use `for_each` with `dedupe: false`",
        {"OpenAI": "n best_of prediction echo", "Hugging Face": "num_return_sequences", "vLLM": "use_beam_search"},
    ),
    (
        "changes the protocol of the reply",
        "leave it out",
        {
            "OpenAI": "stream stream_options include functions function_call audio modalities background store",
            "xAI": "deferred",
            "Hugging Face": "batch_size",
        },
    ),
)
REFUSED = {
    name: (reason, remedy)
    for reason, remedy, services in _REFUSED
    for names in services.values()
    for name in names.split()
}
# A cache that lasts longer than usual is written at a higher price than the reserved one (Anthropic and its resellers,
# Moonshot: 1h at twice the input price; OpenAI: 12h).
_CACHES = ("cache_control", "prompt_cache_options")
_USUAL_TTLS = frozenset({"5m", "30m"})


# Names that services accept. A name that is nearly one of them, but not one itself, is a misspelling without effect.
KNOWN = frozenset(
    "temperature top_p top_k top_a min_p typical typical_p tfs_z repetition_penalty_range presence_penalty "
    "frequency_penalty repetition_penalty repeat_penalty repeat_last_n length_penalty no_repeat_ngram_size stop "
    "stop_token_ids include_stop_str_in_output ignore_eos min_tokens seed random_seed logit_bias logprobs "
    "top_logprobs prompt_logprobs reasoning reasoning_effort reasoning_format include_reasoning thinking "
    "thinking_budget enable_thinking think verbosity user metadata tools tool_choice parallel_tool_calls "
    "safety_identifier prompt_cache_key prompt_cache_retention prompt_cache_options cache_control "
    "chat_template_kwargs chat_template add_generation_prompt skip_special_tokens spaces_between_special_tokens "
    "guided_json guided_regex guided_choice guided_grammar structured_outputs grammar json_schema safe_prompt "
    "safety_settings prompt_mode mirostat mirostat_tau mirostat_eta dry_multiplier xtc_threshold dynatemp_range "
    "samplers num_ctx keep_alive truncation truncate_prompt_tokens top_n_sigma use_cache".split()
)
_SIGNS = re.compile("[-_]")
LIKENESS = 0.85  # from this similarity of two names on, one is taken for a misspelling of the other


def own_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters to send. Raises ValueError for the first one that a user may not set."""
    kept = {
        name: value
        for name, value in parameters.items()
        if name not in HARMLESS or type(value) is not type(HARMLESS[name]) or value != HARMLESS[name]
    }
    _refuse(kept)
    return kept


def _refuse(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if name in OUTPUT_LIMITS:
            raise ValueError(f"{name!r} is set by `max_output_tokens`, which bounds the cost")
        if name in REFUSED:
            reason, remedy = REFUSED[name]
            raise ValueError(f"{name!r} is refused: it {reason}; {remedy}")
        # promise: S2 a secret among the model parameters is refused
        if name.casefold() in SECRETS:
            raise ValueError("a secret is never a setting: name its variable in `endpoint.api_key_env`")
        if name in OWNED:
            raise ValueError(f"{name!r} is a setting of the job itself, not a parameter")
        if name == "tools" and not (isinstance(value, list) and all(_is_function(tool) for tool in value)):
            raise ValueError("'tools' may hold functions only: hosted tools are billed in addition to the tokens")
        # promise: M1 a cache lifetime that no reservation covers is refused
        if name in _CACHES and isinstance(value, Mapping) and value.get("ttl", "5m") not in _USUAL_TTLS:
            raise ValueError(
                f"{name!r} keeps a cache for longer, at a higher price than the reserved one; leave out its `ttl`"
            )
        # promise: input: a misspelled parameter name is refused with a suggestion
        if near := near_miss(name):
            raise ValueError(f"{name!r} is unknown; did you mean {near!r}?")
        _refuse_range(name, value)


def _refuse_range(name: str, value: Any) -> None:
    low, high = RANGES.get(name, (None, None))
    if low is None or high is None or value is None:
        return
    # promise: input: a numeric parameter outside its range is refused
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} is not a number from {low} to {high}")


@lru_cache(maxsize=1024)  # rows may have parameters of their own
def near_miss(name: str) -> str | None:
    """Return the known parameter that a name misspells; None if the name is known, or similar to none."""
    if name in KNOWN or name in REFUSED or len(name) < 4:
        return None
    bare = _SIGNS.sub("", name).lower()
    same = next((known for known in KNOWN if _SIGNS.sub("", known) == bare), None)
    near = difflib.get_close_matches(name.lower(), KNOWN, 1, LIKENESS)
    return same or (near[0] if near else None)


def refuse_unwritable(value: Any) -> None:
    """Raise ValueError for a value that RFC 8785 cannot write, since request keys are computed from that form."""
    try:
        rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError, TypeError, ValueError, AttributeError):
        raise ValueError("holds a value that JSON cannot hold exactly (NaN, a date, a number over 2**53)") from None


def _is_function(tool: Any) -> bool:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return False
    function = tool.get("function", tool)  # the chat API nests it, the responses API does not
    return isinstance(function, dict) and isinstance(function.get("name"), str)
