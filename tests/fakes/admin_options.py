"""The options of the organization's endpoints: bills, usage and limits as an admin key sees them.

Both figures are sums of the same bills that `/_control/bills` shows. Prices are in USD per million tokens:
`{"gpt-6-luna": {"input": 0.1, "cached": 0.01, "cache_write": 0.125, "output": 0.5}}`. Batch and flex cost half,
priority twice; `batch_cached` is another price for cached tokens in batches. The model `*` stands for all others.

`foreign` adds what others used with the same organization, as a list of objects: `at` and `model` are required;
`input_tokens`, `input_cached_tokens`, `input_cache_write_tokens`, `output_tokens`, `num_model_requests`, `batch`,
`service_tier`, `api_key_id`, `project_id` and `user_id` have defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .option_kinds import BadOptionError, number, option, or_none, text, whole

_KINDS = ("input", "cached", "cache_write", "output")
_FOREIGN: dict[str, Callable[[Any], Any]] = {
    "at": number,
    "model": text,
    "input_tokens": whole,
    "input_cached_tokens": whole,
    "input_cache_write_tokens": whole,
    "output_tokens": whole,
    "num_model_requests": whole,
    "batch": bool,
    "service_tier": text,
    "api_key_id": text,
    "project_id": text,
    "user_id": text,
}
DEFAULT_PRICES: dict[str, dict[str, float]] = {
    "gpt-6-luna": {"input": 0.1, "cached": 0.01, "cache_write": 0.125, "output": 0.5},
    "gpt-4o-mini": {"input": 0.15, "cached": 0.075, "cache_write": 0.15, "output": 0.6, "batch_cached": 0.075},
    "gpt-4o": {"input": 2.5, "cached": 1.25, "cache_write": 2.5, "output": 10.0, "batch_cached": 1.25},
    "gpt-4.1-mini": {"input": 0.4, "cached": 0.1, "cache_write": 0.4, "output": 1.6, "batch_cached": 0.1},
    "*": {"input": 1.0, "cached": 0.5, "cache_write": 1.0, "output": 2.0},
}


def _prices(value: Any) -> dict[str, dict[str, float]]:
    """Read prices; models that are not given keep the default."""
    if not isinstance(value, dict):
        raise BadOptionError(f"an object of prices by model is wanted, not {value!r}")
    read = dict(DEFAULT_PRICES)
    for model, prices in value.items():
        if not isinstance(prices, dict) or not set(_KINDS) <= set(prices) <= {*_KINDS, "batch_cached"}:
            raise BadOptionError(f"{model}: the prices {_KINDS} are wanted, not {prices!r}")
        read[model] = {kind: number(price) for kind, price in prices.items()}
    return read


def _foreign(value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list | tuple):
        raise BadOptionError(f"a list of usage is wanted, not {value!r}")
    read = []
    for each in value:
        if not isinstance(each, dict) or not {"at", "model"} <= set(each) <= set(_FOREIGN):
            raise BadOptionError(f"usage has at and model, and may have {sorted(_FOREIGN)}; not {each!r}")
        read.append({name: _FOREIGN[name](given) for name, given in each.items()})
    return tuple(read)


@dataclass(frozen=True, kw_only=True)
class AdminOptions:
    """What the organization's endpoints say."""

    key: str = option("sk-admin-fake", text, "the only key that these endpoints accept")
    project_id: str = option("proj_fake", text, "the project of all keys")
    prices: dict[str, dict[str, float]] = field(
        default_factory=lambda: dict(DEFAULT_PRICES), metadata={"read": _prices, "about": "see the module"}
    )
    spend_limit_cents: int | None = option(
        None, or_none(whole), "hard limit of the organization in a month; null: none"
    )
    project_spend_limit_cents: int | None = option(None, or_none(whole), "that of the project; null: none")
    foreign: tuple[dict[str, Any], ...] = option((), _foreign, "usage by others, see the module")
    late_s: float = option(0.0, number, "usage and costs show only what is older than this")
    cost_decimals: int | None = option(None, or_none(whole), "decimals to which each amount is rounded; null: all")
    page_buckets: int | None = option(None, or_none(whole), "buckets on a page, fewer than the client's limit")
