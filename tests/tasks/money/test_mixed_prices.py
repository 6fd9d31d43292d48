"""The price of a job with several endpoints: the worst case at the most expensive one, the expected cost by weight."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.money.model_price import ModelPrice, PriceBand, ServiceTier, mix_prices
from parquill.tasks.money.prices import price_of
from tests.tools.small_jobs import LEAST

DAY = date(2026, 11, 29)
_amounts = st.integers(0, 10**10)
_starts = st.lists(st.integers(1, 400_000), max_size=3, unique=True).map(lambda more: [0, *sorted(more)])


@st.composite
def _prices(draw: st.DrawFn) -> ModelPrice:
    bands = tuple(PriceBand(start, *(draw(_amounts) for _ in range(4))) for start in draw(_starts))
    window = draw(st.none() | st.integers(1, 10**6))
    return ModelPrice("m", bands, window, "a list", "today", request=draw(st.integers(0, 10**12)))


@given(st.lists(_prices(), min_size=1, max_size=4), st.integers(0, 500_000), st.integers(1, 10_000))
def test_the_worst_case_covers_every_endpoint(prices: list[ModelPrice], prompt: int, output: int) -> None:
    """M1: Whatever endpoint answers, a request costs no more than the worst case of the plan."""
    mixed = mix_prices("m", prices, [1] * len(prices))
    assert mixed.worst_nano(prompt, output) >= max(price.worst_nano(prompt, output) for price in prices)
    if len(prices) == 1:
        assert mixed.worst_nano(prompt, output) == prices[0].worst_nano(prompt, output)
    windows = [price.window for price in prices if price.window is not None]
    assert mixed.window == min(windows, default=None)


@given(st.lists(_prices(), min_size=1, max_size=4), st.data())
def test_the_expected_cost_is_the_mean_by_weight(prices: list[ModelPrice], data: st.DataObject) -> None:
    """The expected cost is that of an endpoint in proportion to its weight."""
    weights = [data.draw(st.integers(1, 50)) for _ in prices]
    mixed = mix_prices("m", prices, weights)
    each = [price.expected_femto(1_000, 100, 50, 20.5) for price in prices]
    mean = sum(weight * femto for weight, femto in zip(weights, each, strict=True)) / sum(weights)
    assert mixed.expected_femto(1_000, 100, 50, 20.5) == pytest.approx(mean, rel=1e-9, abs=1)
    assert ModelPrice.from_json(orjson.loads(orjson.dumps(asdict(mixed)))) == mixed
    assert [mixed.at_endpoint(index) for index in range(len(prices))] == prices


def test_each_endpoint_needs_a_price() -> None:
    """M2: A job is refused if one of its endpoints has no price; a price of the job's is for its own model only."""
    openai, own = {"api_key_env": "A"}, {"base_url": "http://localhost:1/v1", "model": "our-own-model"}
    with pytest.raises(BadJob, match="no price is known for the model 'our-own-model'"):
        price_of(make_job({**LEAST, "model": "gpt-6-luna", "endpoints": [openai, own]}), DAY)
    free = {"usd_per_mtok_input": 0, "usd_per_mtok_output": 0}
    endpoints = [{**openai, "weight": 1}, {**own, "price": free, "weight": 3}]
    price = price_of(make_job({**LEAST, "model": "gpt-6-luna", "endpoints": endpoints}), DAY)
    public = price_of(make_job({**LEAST, "model": "gpt-6-luna", "endpoint": {}}), DAY)
    assert price.worst_nano(1_000, 100) == public.worst_nano(1_000, 100)
    assert price.expected_femto(1_000, 0, 0, 100) == public.expected_femto(1_000, 0, 0, 100) / 4
    assert price.source == f"{public.source}; the job's `price`"


def test_the_price_of_a_tier() -> None:
    """In the flex lane, the most expensive flex price counts, not the standard price."""
    band, flex = PriceBand(0, 10, 10, 10, 10), PriceBand(0, 5, 5, 5, 5)
    with_tier = ModelPrice("m", (band,), None, "a", "v", tiers=(ServiceTier("flex", (flex,)),), asked="flex")
    own = ModelPrice("m", (PriceBand(0, 6, 6, 6, 2),), None, "b", "v", asked="flex")
    mixed = mix_prices("m", [with_tier, own], [1, 1])
    assert (mixed.asked, mixed.asked_bands) == ("flex", (PriceBand(0, 6, 6, 6, 5),))
    assert mixed.bands == (PriceBand(0, 10, 10, 10, 10),)
