"""The worst case uses the most expensive input price, since cached input can cost more than plain input (M1)."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from genai_prices.data_snapshot import get_snapshot

from parquill.tasks.job.load import make_job
from parquill.tasks.money.amounts import femto_to_nano
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.money.prices import _bands, price_of
from parquill.tasks.records import Usage


@pytest.mark.parametrize("kind", ["cached", "cache_write"])
def test_a_jobs_own_price(kind: str) -> None:
    """A prompt never costs more than was reserved, whatever part of it was read from or written to a cache."""
    price = {"usd_per_mtok_input": 1, f"usd_per_mtok_{kind}": 5, "usd_per_mtok_output": 1}
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "m", "max_output_tokens": 5}
    found = price_of(make_job({**least, "price": price}), date(2026, 11, 23))
    assert femto_to_nano(found.femto(Usage(prompt=1000, **{kind: 1000}))) == found.worst_nano(1000, 0) == 5_000_000


def test_every_public_price() -> None:
    """With every public price, a prompt never costs more than was reserved.

    For example, OpenRouter's ~deepseek/deepseek-pro-latest costs 0.225 for input and 0.23 for cached input.
    """
    seen = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            bands = _bands([model.get_prices(datetime(2026, 11, 23, 12, tzinfo=UTC))])
            if not bands:
                continue
            found, seen = ModelPrice(model.id, bands, None, "", ""), seen + 1
            for prompt in (1_000, 1_000_000):
                worst = found.worst_nano(prompt, 0)
                for cached, written in ((prompt, 0), (0, prompt), (prompt // 3, prompt // 2)):
                    assert femto_to_nano(found.femto(Usage(prompt, cached, written))) <= worst, model.id
    assert seen > 1_800
