"""Each soft limit causes one warning, when it is passed."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.job.settings import BudgetSettings
from parquill.tasks.money.soft_limit import SoftLimits

USD = 1_000_000_000


def _limits(before: int = 0, others: int = 0, **budget: Any) -> SoftLimits:
    return SoftLimits(BudgetSettings.model_validate(budget), before_nano=before, others_nano=others)


def test_it_is_told_once_when_it_is_passed() -> None:
    """Spending exactly the soft limit causes no warning; a nano-dollar more causes one, which is never repeated."""
    limits = _limits(run_usd=10, soft_fraction=0.8)
    limits.check(8 * USD)
    assert limits.messages == []
    limits.check(8 * USD + 1)
    assert limits.messages == ["more than 80% of the budget is spent: $8.00 of $10.00"]
    limits.check(9 * USD)
    assert len(limits.messages) == 1


def test_the_month_counts_all_runs() -> None:
    """The month's soft limit is passed by what this run and other runs have spent together."""
    limits = _limits(monthly_usd=100, others=75 * USD)
    limits.check(5 * USD)
    assert limits.messages == []
    limits.check(6 * USD)
    assert limits.messages == ["more than 80% of the month is spent: $81.00 of $100.00"]


def test_submitted_money_is_named() -> None:
    """M8: A warning says if it counts money that is reserved in batches and may still come back."""
    limits = _limits(run_usd=10, soft_fraction=0.8)
    limits.check(9 * USD, 4 * USD)
    assert limits.messages == ["more than 80% of the budget is spent or reserved in batches: $9.00 of $10.00"]


def test_both_limits_are_told() -> None:
    """The run and the month each have their own warning."""
    limits = _limits(run_usd=1, monthly_usd=2)
    limits.check(USD)
    assert len(limits.messages) == 1
    limits.check(2 * USD)
    assert len(limits.messages) == 2


@pytest.mark.parametrize("budget", [{}, {"run_usd": 1}, {"monthly_usd": 10}])
def test_what_was_passed_before_is_not_told_again(budget: dict[str, Any]) -> None:
    """A resumed run does not repeat a warning that it, or the month, caused before."""
    limits = _limits(before=USD, others=9 * USD, **budget)
    limits.check(2 * USD)
    assert limits.messages == []
