"""What a token costs: compiled once a model from genai-prices and the dated overrides of `data/prices.toml`.

Money is exact: prices are whole femto-dollars (1e-15 $) a token, since $1 for a million tokens is 1e9 of them and no
price has more than nine decimals; sums are integers, and a row's cost is rounded once, to nano-dollars (1e-9 $).
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import Any

from parquill.data import FOLDER
from parquill.tasks.errors import BadJob
from parquill.tasks.job import Job

FEMTO_PER_NANO = 1_000_000
NANO_PER_USD = 1_000_000_000
_FEMTO_PER_USD_PER_MTOK = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Band:
    """Prices in femto-dollars a token for requests whose prompt has more than `above` tokens (a provider's tier)."""

    above: int
    input: int
    cached: int
    output: int


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one model on one day; `window` is its context in tokens, where known."""

    model: str
    bands: tuple[Band, ...]
    window: int | None
    source: str
    version: str

    def femto(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
        """Exact cost in femto-dollars; `completion_tokens` includes reasoning."""
        band = self._band(prompt_tokens)
        return (
            (prompt_tokens - cached_tokens) * band.input + cached_tokens * band.cached + completion_tokens * band.output
        )

    def _band(self, prompt_tokens: float) -> Band:
        band = self.bands[0]
        for other in self.bands[1:]:
            if prompt_tokens > other.above:
                band = other
        return band

    def expected_femto(self, prompt_tokens: float, cached_tokens: float, completion_tokens: float) -> int:
        """Cost in femto-dollars of a request whose tokens are expectations, no whole numbers."""
        band = self._band(prompt_tokens)
        prompt, cached, output = (round(tokens * 1000) for tokens in (prompt_tokens, cached_tokens, completion_tokens))
        return ((prompt - cached) * band.input + cached * band.cached + output * band.output) // 1000

    def worst_nano(self, prompt_tokens: int, max_output_tokens: int) -> int:
        """The most that a request can cost, in nano-dollars, rounded up: nothing cached, all output used."""
        # a few services bill cached input higher than other input
        dearest = max(self.femto(prompt_tokens, cached, max_output_tokens) for cached in (0, prompt_tokens))
        return -(-dearest // FEMTO_PER_NANO)


def to_nano(femto: int) -> int:
    """Round femto-dollars once to nano-dollars, halves to even (as Decimal does)."""
    whole, rest = divmod(femto, FEMTO_PER_NANO)
    half = FEMTO_PER_NANO // 2
    return whole + (rest > half or (rest == half and whole % 2 == 1))


def usd(nano: int) -> Decimal:
    """Nano-dollars as dollars with nine decimals."""
    return Decimal(nano).scaleb(-9)


def nano_of(amount: Decimal) -> int:
    """Dollars as nano-dollars."""
    return int(amount.scaleb(9).to_integral_value())


def dollars(nano: int) -> str:
    """Dollars for people: cents, or as many digits as it takes to see something; never rounded to nothing."""
    amount = usd(nano)
    if nano == 0 or abs(nano) >= 10_000_000_000:
        return f"${amount:,.2f}"
    text = f"{amount:,.9f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals:0<2}" if len(decimals) <= 6 or abs(nano) < 1_000 else f"${amount:,.6f}"


def price_of(job: Job, day: date, *, batch: bool = False) -> Price:
    """The price of a job's model: the job's own, else the public one. Raises BadJob with the nearest names.

    With `batch` that of the service's batch processing; where none is known, the same as without.
    """
    if job.price is not None:
        own = job.price
        cached = own.usd_per_mtok_input if own.usd_per_mtok_cached is None else own.usd_per_mtok_cached
        band = _band(0, own.usd_per_mtok_input, cached, own.usd_per_mtok_output)
        return Price(job.model, (band,), None, "the job's `price`", day.isoformat())
    return find_price(job.model, job.endpoint.base_url, day, batch=batch)


@cache
def find_price(model: str, base_url: str | None, day: date, *, batch: bool = False) -> Price:
    """The public price of a model at an address on a day.

    An address that no provider owns (a proxy, a gateway) is priced as OpenAI, as the only provider that has the model,
    or as the model's maker. Raises BadJob for a model without a price, since nothing may be sent that has none.
    """
    own = _override(model, day)
    if own is not None:
        return own
    found = _public(model, base_url)
    if found is None:
        sellers = _sellers(model)
        if sellers:
            raise BadJob(
                f"the model {model!r} has several prices, of {', '.join(sellers[:5])}: set endpoint.base_url to one of "
                "them, or `price`"
            )
        near = difflib.get_close_matches(model, _names(), 3, 0.6)
        hint = f"; the nearest known are {', '.join(near)}" if near else ""
        raise BadJob(
            f"no price is known for the model {model!r}{hint}. For another model set `price: "
            "{usd_per_mtok_input: ..., usd_per_mtok_output: ...}` (0 if it costs nothing)"
        )
    provider, info = found
    prices = info.get_prices(datetime.combine(day, time(12), UTC), {"processing": "batch"} if batch else None)
    if getattr(prices, "input_mtok", None) is None or getattr(prices, "output_mtok", None) is None:
        raise BadJob(f"the model {model!r} has no price by tokens; set `price`")
    if getattr(prices, "requests_kcount", None):
        raise BadJob(f"the model {model!r} is also billed by the request, which no budget here would hold; set `price`")
    return Price(
        info.id,
        _bands(prices),
        info.context_window,
        f"genai-prices, {provider.id}",
        f"{version('genai-prices')} on {day}",
    )


def _public(model: str, base_url: str | None) -> tuple[Any, Any] | None:
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    if base_url is not None:
        try:
            provider, info = snapshot.find_provider_model(model, None, None, base_url)
        except LookupError:
            pass
        else:
            return provider, info
    owners = [(provider, provider.find_model(model)) for provider in snapshot.providers]
    owners = [(provider, info) for provider, info in owners if info is not None]
    first = [owner for owner in owners if owner[0].id == "openai"]
    if first or len(owners) == 1:
        return (first or owners)[0]
    try:  # several sell it: the price of its maker, if that is one of them
        provider, info = snapshot.find_provider_model(model, None, None, None)
    except LookupError:
        return None
    return provider, info


def _sellers(model: str) -> list[str]:
    from genai_prices.data_snapshot import get_snapshot

    return [provider.id for provider in get_snapshot().providers if provider.find_model(model) is not None]


def _names() -> list[str]:
    from genai_prices.data_snapshot import get_snapshot

    return sorted({info.id for provider in get_snapshot().providers for info in provider.models})


def _bands(prices: Any) -> tuple[Band, ...]:
    """Read the flat or tiered prices of genai-prices; a tier counts for all tokens of a request above its start."""
    tiered = {name: getattr(prices, f"{name}_mtok", None) for name in ("input", "output", "cache_read")}
    starts = sorted({0, *(tier.start for price in tiered.values() for tier in getattr(price, "tiers", ()))})

    def at(name: str, start: int) -> Decimal | None:
        price = tiered[name]
        if price is None or isinstance(price, Decimal):
            return price
        chosen: Decimal = price.base
        for tier in price.tiers:
            if start >= tier.start:
                chosen = tier.price
        return chosen

    bands = []
    for start in starts:
        full, output, cached = at("input", start), at("output", start), at("cache_read", start)
        if full is None or output is None:
            continue
        bands.append(_band(start, full, full if cached is None else cached, output))
    return tuple(bands)


def _band(above: int, full: Decimal, cached: Decimal, output: Decimal) -> Band:
    def femto(price: Decimal) -> int:
        return int((price * _FEMTO_PER_USD_PER_MTOK).to_integral_exact())

    return Band(above, femto(full), femto(cached), femto(output))


def _override(model: str, day: date) -> Price | None:
    document = _overrides()
    for entry in document["price"]:
        if entry["model"] == model and entry["from"] <= day and ("until" not in entry or day < entry["until"]):
            full, output = Decimal(entry["usd_per_mtok_input"]), Decimal(entry["usd_per_mtok_output"])
            band = _band(0, full, Decimal(entry.get("usd_per_mtok_cached", full)), output)
            return Price(
                model,
                (band,),
                entry.get("context_window"),
                f"data/prices.toml, {entry['source']}",
                f"{document['version']} on {day}",
            )
    return None


@cache
def _overrides() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "prices.toml").read_text(encoding="utf-8"), parse_float=Decimal)
