"""Which price a job pays: its own, or the public one from genai-prices and the dated overrides in `data/prices.toml`.

A service whose prices depend on the hour is priced at the highest of the day, since the hour of an answer is not known
beforehand.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import Any

from parquill.data import FOLDER
from parquill.tasks.errors import BadJob
from parquill.tasks.job.lanes import CHEAP_LANES, LANES_OF_API, TIERS, LaneName
from parquill.tasks.job.providers import find_model, is_openai, provider_of
from parquill.tasks.job.settings import Job
from parquill.tasks.money.model_price import STANDARD_TIERS, ModelPrice, PriceBand, ServiceTier, mix_prices
from parquill.tasks.money.unpriced import refuse_model

_FEMTO_PER_USD_PER_MTOK = 1_000_000_000
_FEMTO_PER_USD_PER_1000_REQUESTS = 1_000_000_000_000

_BATCH = {"processing": "batch"}  # how genai-prices names the price of batches
# Sellers whose batches have the form of OpenAI's; others sell batches by an API of their own.
_SELL_BATCHES = frozenset({"openai", "azure", "groq", "together", "novita", "perplexity", "deepinfra"})


def price_of(job: Job, day: date) -> ModelPrice:
    """Return the price of a job's model in its lane: the job's own, else the public one.

    The job's own price is what it pays in its lane. With several endpoints, the price is that of all of them (see
    `mix_prices`). Raises BadJob with the nearest names, or for a lane without a price.
    """
    if job.endpoints is None:
        return _price_at_one_endpoint(job, day)
    # promise: M2 each of several endpoints needs a price
    prices = [_price_at_one_endpoint(each, day) for each in job.each_endpoint]
    return mix_prices(job.model, prices, [each.weight for each in job.endpoints])


def _price_at_one_endpoint(job: Job, day: date) -> ModelPrice:
    if job.price is None:
        found = find_price(job.model, job.endpoint.base_url, day)
        return found.at_tier(TIERS[_cheapest_lane(job, found) if job.lane == "auto" else job.lane])
    assert job.lane != "auto"  # noqa: S101 - a job with a price names its lane
    # promise: M1 a search model is refused even if the job sets a price
    refuse_model(job.model)
    own, full = job.price, job.price.usd_per_mtok_input
    cached, written = own.usd_per_mtok_cached, own.usd_per_mtok_cache_write
    band = _band(
        0, full, full if cached is None else cached, full if written is None else written, own.usd_per_mtok_output
    )
    return ModelPrice(job.model, (band,), None, "the job's `price`", day.isoformat(), asked=TIERS[job.lane])


def _cheapest_lane(job: Job, price: ModelPrice) -> LaneName:
    """Return the lane that `lane: auto` buys in as long as there is time. Raises BadJob if only live is sold."""
    sold = {tier.name for tier in price.tiers}
    for lane in CHEAP_LANES:
        if lane in LANES_OF_API[job.endpoint.api] and TIERS[lane] in sold:
            return lane
    raise BadJob(f"{price.model} has neither a flex nor a batch price ({price.source}): use `lane: live`")


@cache
def find_price(model: str, base_url: str | None, day: date) -> ModelPrice:
    """Return the public price of a model at an address on a day, see `providers`.

    Raises BadJob for a model without a price, since nothing may be sent without one, and for a model that is billed for
    more than its tokens.
    """
    refuse_model(model, has_fee=True)
    seller = provider_of(base_url)
    if (seller is None or is_openai(base_url)) and (own := _override(model, day)) is not None:
        return own
    provider, info, plus_percent = find_model(model, base_url)
    found = _prices_of_the_day(info, day, None)
    bands = _bands(found, plus_percent)
    if not bands:
        raise BadJob(f"the model {model!r} has no price per token; set `price`")
    fees = [fee for prices in found if (fee := getattr(prices, "requests_kcount", None)) is not None]
    if not all(isinstance(fee, Decimal) for fee in fees):
        raise BadJob(f"the model {model!r} has a fee per request that depends on its tokens; set `price`")
    # promise: M1 a model with an unknown fee is refused
    refuse_model(model, has_fee=bool(fees))
    notes = ["the highest prices of the day"] if len(found) > 1 else []
    notes += [f"{plus_percent} % more for a region's address"] if plus_percent else []
    return ModelPrice(
        info.id,
        bands,
        info.context_window,
        f"genai-prices, {provider.id}",
        ", ".join([f"{version('genai-prices')} on {day}", *notes]),
        request=max((int(fee * _FEMTO_PER_USD_PER_1000_REQUESTS) for fee in fees), default=0),
        tiers=_tiers(provider, info, day, plus_percent),
    )


def _prices_of_the_day(info: Any, day: date, context: Mapping[str, str] | None) -> list[Any]:
    """Return the different prices of a model during a day: some models have cheaper and more expensive hours."""
    constraints = [entry.constraint for entry in info.prices] if isinstance(info.prices, list) else []
    constraints += [variant.constraint for variant in info.price_variants or ()]
    # a constraint by the day has no hours; noon is unambiguously on that day
    hours = {
        edge.replace(tzinfo=None)
        for constraint in constraints
        for edge in (getattr(constraint, "start_time", None), getattr(constraint, "end_time", None))
        if edge is not None
    }
    found: list[Any] = []
    # promise: M1 a reservation uses the highest price of the day
    for hour in (time(12), *sorted(hours)):
        prices = info.get_prices(datetime.combine(day, hour, UTC), context)
        if prices not in found:
            found.append(prices)
    return found


def _tiers(provider: Any, info: Any, day: date, plus_percent: int) -> tuple[ServiceTier, ...]:
    """Return the prices of the service tiers that a model has at its seller; batches are a tier, too."""
    if all(info is not model for model in provider.models):
        return ()  # another seller's model: the tiers are that seller's
    noon = datetime.combine(day, time(12), UTC)
    contexts = [
        variant.when
        for variant in info.price_variants or ()
        # promise: M2 batches are refused where no batch of this form is sold
        if variant.when.keys() == {"service_tier"} or (variant.when == _BATCH and provider.id in _SELL_BATCHES)
        if variant.constraint is None or variant.constraint.active(noon)
    ]
    by_name = {next(iter(when.values())): when for when in contexts}
    return tuple(
        ServiceTier(name, _bands(_prices_of_the_day(info, day, by_name[name]), plus_percent))
        for name in sorted(by_name.keys() - STANDARD_TIERS)
    )


_KINDS = ("input", "output", "cache_read", "cache_write")


def _bands(of_the_day: Sequence[Any], plus_percent: int = 0) -> tuple[PriceBand, ...]:
    """Read flat or tiered prices of genai-prices, the highest of several; empty if there is no price per token.

    A tier applies to all tokens of a request that is above its start.
    """
    tables = [{kind: getattr(prices, f"{kind}_mtok", None) for kind in _KINDS} for prices in of_the_day]
    if any(table["input"] is None or table["output"] is None for table in tables):
        return ()
    starts = sorted(
        {0, *(tier.start for table in tables for price in table.values() for tier in getattr(price, "tiers", ()))}
    )
    bands = []
    for start in starts:
        each = [_band_at(table, start, plus_percent) for table in tables]
        highest = (max(getattr(band, kind) for band in each) for kind in ("input", "cached", "cache_write", "output"))
        bands.append(PriceBand(start, *highest))
    return tuple(bands)


def _band_at(table: Mapping[str, Any], start: int, plus_percent: int) -> PriceBand:
    def at(kind: str) -> Decimal | None:
        price = table[kind]
        if price is None or isinstance(price, Decimal):
            return price
        chosen: Decimal = price.base
        for tier in price.tiers:
            if start >= tier.start:
                chosen = tier.price
        return chosen

    full, output, cached, written = (at(kind) for kind in _KINDS)
    assert full is not None  # noqa: S101 - the caller has looked
    assert output is not None  # noqa: S101
    # cached tokens and those written to the cache are billed as input if they have no price of their own
    prices = (full, full if cached is None else cached, full if written is None else written, output)
    return _band(start, *(price * (100 + plus_percent) / 100 for price in prices))


def _band(above: int, full: Decimal, cached: Decimal, cache_write: Decimal, output: Decimal) -> PriceBand:
    return PriceBand(above, *(_femto(price) for price in (full, cached, cache_write, output)))


def _femto(price: Decimal) -> int:
    return int((price * _FEMTO_PER_USD_PER_MTOK).to_integral_exact())


def _override(model: str, day: date) -> ModelPrice | None:
    document = _overrides()
    for entry in document["price"]:
        if entry["model"] == model and entry["from"] <= day and ("until" not in entry or day < entry["until"]):
            full, output = Decimal(entry["usd_per_mtok_input"]), Decimal(entry["usd_per_mtok_output"])
            cached = Decimal(entry.get("usd_per_mtok_cached", full))
            written = Decimal(entry.get("usd_per_mtok_cache_write", full))
            return ModelPrice(
                model,
                (_band(0, full, cached, written, output),),
                entry.get("context_window"),
                f"data/prices.toml, {entry['source']}",
                f"{document['version']} on {day}",
            )
    return None


@cache
def _overrides() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "prices.toml").read_text(encoding="utf-8"), parse_float=Decimal)
