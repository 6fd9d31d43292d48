"""A price per request (Perplexity: $12-14 for 1,000 requests) is part of the reservation and of the cost."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from genai_prices import Usage as PublicUsage
from genai_prices import calc_price

from parquill.tasks.money.prices import find_price
from parquill.tasks.records import Usage


@pytest.mark.parametrize("model", ["sonar", "sonar-pro", "sonar-reasoning", "sonar-reasoning-pro"])
def test_a_price_by_the_request_is_reserved_and_booked(model: str) -> None:
    """The fee is part of the worst case and of every billed reply, exactly as genai-prices computes it."""
    public = calc_price(PublicUsage(input_tokens=1000, output_tokens=500), model, provider_id="perplexity").total_price
    price = find_price(model, "https://api.perplexity.ai", date(2026, 11, 23))
    assert Decimal(price.femto(Usage(prompt=1000, completion=500))).scaleb(-15) == public
    assert Decimal(price.worst_nano(1000, 500)).scaleb(-9) == public
    assert Decimal(price.expected_femto(1000, 0, 0, 500)).scaleb(-15) == public
