"""A refusal shows two numbers that differ, and no amount is rounded to zero."""

from __future__ import annotations

import re

import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.money.amounts import format_usd
from parquill.tasks.money.gate import check_budget
from parquill.tasks.money.model_price import ModelPrice, PriceBand
from parquill.tasks.records import Estimate


@pytest.mark.parametrize(
    ("budget", "expected"), [("40", 40_001_000_000), ("0.0000001", 400), ("9.9999999", 9_999_999_950)]
)
def test_a_refusal_shows_two_different_numbers(budget: str, expected: int) -> None:
    """The two amounts in a refusal differ, so that a reader sees which one is larger."""
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "m", "max_output_tokens": 5}
    job = make_job({**least, "budget": {"run_usd": budget}})
    estimate = Estimate(1, 1, 1, 1, expected, expected, expected, "", 1, exact=True)
    verdict = check_budget(job, estimate, ModelPrice("m", (PriceBand(0, 1, 1, 1, 1),), None, "", ""))
    assert not verdict.fits
    first, second = re.findall(r"\$[\d.,]+\d", verdict.sentence)[:2]
    assert first != second


@pytest.mark.parametrize("nano", [1, 400, 499])
def test_an_amount_is_never_rounded_to_nothing(nano: int) -> None:
    """An amount above zero is never shown as $0.000000."""
    assert re.search("[1-9]", format_usd(nano))
