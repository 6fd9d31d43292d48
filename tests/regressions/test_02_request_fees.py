"""Prices a request (Perplexity: $12-14 for 1,000 requests) are ignored, so budget and cost_usd are far too low."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price

from parquill.tasks.errors import BadJob
from parquill.tasks.money.prices import find_price


@pytest.mark.parametrize("model", ["sonar", "sonar-pro", "sonar-reasoning", "sonar-reasoning-pro"])
def test_a_price_that_is_not_by_tokens_alone_is_refused_or_counted(model: str) -> None:
    """Nothing is sent at a price that leaves out a part of the bill."""
    public = calc_price(Usage(input_tokens=1000, output_tokens=500), model, provider_id="perplexity").total_price
    try:
        price = find_price(model, "https://api.perplexity.ai", date(2026, 11, 23))
    except BadJob:
        return
    assert Decimal(price.worst_nano(1000, 500)).scaleb(-9) >= public  # 0.0015 against 0.0135 today
