"""worst_nano takes nothing as cached, but cached input can cost more than input: a reservation is then too small (M1)."""

from __future__ import annotations

from datetime import UTC, date, datetime

from genai_prices.data_snapshot import get_snapshot

from parquill.tasks.errors import BadJob
from parquill.tasks.job_file import make_job
from parquill.tasks.money.prices import Price, _bands, price_of, to_nano


def test_a_jobs_own_price() -> None:
    """Whatever part of a prompt was cached, it costs no more than was reserved (or such a price is refused)."""
    price = {"usd_per_mtok_input": 1, "usd_per_mtok_cached": 5, "usd_per_mtok_output": 1}
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "m", "max_output_tokens": 5}
    try:
        found = price_of(make_job({**least, "price": price}), date(2026, 11, 23))
    except BadJob:
        return
    assert to_nano(found.femto(1000, 1000, 0)) <= found.worst_nano(1000, 0)


def test_every_public_price() -> None:
    """The same for every public price (openrouter's ~deepseek/deepseek-pro-latest: input 0.225, cached 0.23)."""
    for provider in get_snapshot().providers:
        for model in provider.models:
            prices = model.get_prices(datetime(2026, 11, 23, 12, tzinfo=UTC))
            if prices.input_mtok is None or prices.output_mtok is None:
                continue
            found = Price(model.id, _bands(prices), None, "", "")
            assert to_nano(found.femto(1_000_000, 1_000_000, 0)) <= found.worst_nano(1_000_000, 0), model.id
