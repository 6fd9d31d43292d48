"""Which price list applies: that of the seller to whom the address belongs, never another seller's.

genai-prices knows the addresses of the sellers whose prices it has. An address of such a seller is priced only by that
seller's list (Azure and a few others sell a maker's models at the maker's prices; genai-prices says so). An address of
a seller without a list has no price. Any other address is a proxy, a gateway or a private server: there a model has
OpenAI's price, that of the only seller who has it, or that of its maker.

A name with a tag (`deepseek-r1:8b`, as in Ollama) is a separate build, and `ft:...` is a fine-tuned model: both are
priced only by an entry for exactly that name.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from parquill.tasks.errors import BadJob

# Hosts of sellers without a list in genai-prices, from each provider's documentation of its OpenAI-compatible address.
_UNLISTED = re.compile(
    r"""(?:.+\.)?(?:
      (?:dashscope|dashscope-intl|dashscope-us|cn-hongkong\.dashscope)\.aliyuncs\.com  # Alibaba Model Studio (Qwen)
    | maas\.aliyuncs\.com             # Alibaba Model Studio, workspaces
    | volces\.com | bytepluses\.com   # Volcano Engine, BytePlus (Doubao)
    | tencentcloudapi\.com | hunyuan\.cloud\.tencent\.com
    | qianfan\.baidubce\.com          # Baidu (Ernie)
    | siliconflow\.(?:cn|com)
    | deepinfra\.com
    | hyperbolic\.xyz
    | sambanova\.ai
    | (?:studio|tokenfactory)\.nebius\.(?:ai|com)
    | integrate\.api\.nvidia\.com
    | models\.github\.ai | models\.inference\.ai\.azure\.com
    | router\.huggingface\.co         # without a provider in the path it chooses one itself
    | friendli\.ai
    | scaleway\.(?:ai|com)
    | (?:us|ca)-api\.together\.ai     # a quarter above the list price
    | (?:mantle|bedrock-mantle)\..+\.api\.aws
    | inference\.ai\.azure\.com
    | ollama\.com
    | 302\.ai | aimlapi\.com | poe\.com
    )""",
    re.VERBOSE | re.IGNORECASE,
)
# Addresses that genai-prices does not have, of sellers whose list it has.
_ALIASES = {"api.together.ai": "together"}
# https://developers.openai.com/api/docs/guides/data-residency: regional addresses cost 10 % more for models released
# from 2026-03-05 on. _NO_UPLIFT matches the earlier ones.
_OPENAI_REGION = re.compile(r"[a-z]{2}\.api\.openai\.com", re.IGNORECASE)
_AZURE = re.compile(r"[\w-]+\.(?:openai|cognitiveservices|services\.ai)\.azure\.(?:com|us|cn)", re.IGNORECASE)
_NO_UPLIFT = re.compile(r"(?:ft:)?(?:gpt-3|gpt-4|chatgpt|davinci|babbage|o\d|gpt-5(?:\.[0-3])?(?:-|$))")
_REGIONAL_PERCENT = 10
_VERSION_TAG = re.compile(r"-v\d+:\d+")  # amazon's: anthropic.claude-...-v1:0


class ProvidedModel(NamedTuple):
    """A seller and a model of genai-prices, and the percentage that the address adds to the price."""

    provider: Any
    info: Any
    plus_percent: int = 0


def is_openai(base_url: str | None) -> bool:
    """Whether an address is OpenAI's own, regional ones included."""
    host = _host(base_url)
    return host == "api.openai.com" or _OPENAI_REGION.fullmatch(host) is not None


def is_azure(base_url: str | None) -> bool:
    """Whether an address is one of OpenAI's models on Azure."""
    path = urlsplit(base_url).path if base_url else ""
    return _AZURE.fullmatch(_host(base_url)) is not None and path.startswith("/openai")


def provider_of(base_url: str | None) -> Any:
    """Return the genai-prices provider to which an address belongs; None if no listed seller owns it."""
    providers = _providers()
    if is_openai(base_url):
        return providers["openai"]
    if (alias := _ALIASES.get(_host(base_url))) is not None:
        return providers[alias]
    return next((p for p in providers.values() if base_url and re.match(p.api_pattern, base_url)), None)


def find_model(model: str, base_url: str | None) -> ProvidedModel:
    """Return the entry that prices a model at an address. Raises BadJob with the nearest names."""
    # promise: M2 a seller's address is priced only from that seller's list
    provider = provider_of(base_url)
    if provider is not None:
        info = provider.find_model(model, all_providers=list(_providers().values()))
        # promise: M2 a fine-tuned model is not priced as its base model
        if info is None or not _is_of_its_own(model, info):
            raise BadJob(_unknown(model, provider))
        regional = _OPENAI_REGION.fullmatch(_host(base_url)) and not _NO_UPLIFT.match(model)
        return ProvidedModel(provider, info, _REGIONAL_PERCENT if regional else 0)
    # promise: M2 the address of a seller without a price list has no default price
    if base_url is not None and _UNLISTED.fullmatch(_host(base_url)):
        raise BadJob(
            f"no price is known for the model {model!r}: {_host(base_url)} has its own prices, which are not known "
            f"here. {_SET}"
        )
    return _at_an_unknown_address(model)


def _at_an_unknown_address(model: str) -> ProvidedModel:
    owners = [(provider, provider.find_model(model)) for provider in _providers().values()]
    # promise: M2 a model name with a tag is not priced as the name without it
    owners = [(p, i) for p, i in owners if i is not None and _is_of_its_own(model, i) and _has_its_tag(model, i)]
    if not owners:
        raise BadJob(_unknown(model, None))
    first = [owner for owner in owners if owner[0].id == "openai"]
    if first or len(owners) == 1:
        return ProvidedModel(*(first or owners)[0])
    # several sellers have it: take the price of its maker, if the maker is one of them
    made = [(p, i) for p, i in owners if p.model_match is not None and p.model_match.is_match(model.lower())]
    if made:
        return ProvidedModel(*made[0])
    sellers = [provider.id for provider, _ in owners]
    raise BadJob(
        f"the model {model!r} has several prices, those of {', '.join(sellers[:5])}: set `endpoint.base_url` to one of "
        "them, or set `price`"
    )


def _is_of_its_own(model: str, info: Any) -> bool:
    """Whether the entry fits: a fine-tuned model needs an entry for fine-tuned models, not one for its base model."""
    return not re.search(r"(?:^|[/:])ft[:-]", model.lower()) or re.search(r"(?:^|[/:])ft[:-]", info.id) is not None


def _has_its_tag(model: str, info: Any) -> bool:
    name = model.lower()
    if ":" not in name or name.startswith("ft:"):
        return True
    return name == info.id.lower() or _VERSION_TAG.search(name) is not None


_SET = "To use it anyway, set `price: {usd_per_mtok_input: ..., usd_per_mtok_output: ...}` (0 if it costs nothing)"


def _unknown(model: str, provider: Any) -> str:
    sellers = _providers().values() if provider is None else [provider]
    names = sorted({info.id for seller in sellers for info in seller.models})
    near = difflib.get_close_matches(model, names, 3, 0.6)
    hint = f"; the nearest known are {', '.join(near)}" if near else ""
    if provider is not None:
        hint += f" (at {provider.name}'s address only {provider.name}'s prices count)"
    if re.match(r"ft:", model):
        hint += ". A fine-tuned model has its own price"
    return f"no price is known for the model {model!r}{hint}. {_SET}"


def _host(base_url: str | None) -> str:
    return (urlsplit(base_url).hostname or "") if base_url else ""


def _providers() -> dict[str, Any]:
    from genai_prices.data_snapshot import get_snapshot

    return {provider.id: provider for provider in get_snapshot().providers}
