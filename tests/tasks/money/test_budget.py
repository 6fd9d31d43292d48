"""The reserved, settled and in-doubt money of a run never adds up to more than its budget."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parquill.tasks.money.budget import Budget

LIMIT = 1_000


class BudgetMachine(RuleBasedStateMachine):
    """Reservations, settlements, doubts and releases in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(LIMIT)
        self.open: list[int] = []
        self.paid = self.doubt = 0

    @rule(amount=st.integers(0, 400))
    def reserve(self, amount: int) -> None:
        if self.budget.fits(amount):
            assert asyncio.run(self.budget.reserve(amount))
            self.open.append(amount)
        elif not self.open:
            assert not asyncio.run(self.budget.reserve(amount))

    @precondition(lambda self: self.open)
    @rule(share=st.floats(0, 1))
    def settle(self, share: float) -> None:
        amount = self.open.pop()
        self.budget.settle(amount, int(amount * share))
        self.paid += int(amount * share)

    @precondition(lambda self: self.open)
    @rule()
    def hold(self) -> None:
        amount = self.open.pop()
        self.budget.hold(amount)
        self.doubt += amount

    @precondition(lambda self: self.open)
    @rule()
    def release(self) -> None:
        self.budget.release(self.open.pop())

    @invariant()
    def never_passed(self) -> None:
        """At every moment settled + in doubt + reserved <= limit, and each matches what really happened."""
        assert self.budget.booked_nano <= LIMIT
        assert (self.budget.settled_nano, self.budget.in_doubt_nano) == (self.paid, self.doubt)
        assert self.budget.reserved_nano == sum(self.open)


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(max_examples=60, stateful_step_count=40)


@pytest.mark.parametrize("seed", range(20))
def test_two_hundred_after_the_last_cent(seed: int) -> None:
    """200 coroutines that each pay their whole reservation use up the budget and never pay more."""
    draw = random.Random(seed)
    budget = Budget(4_000)
    paid = 0

    async def ask() -> None:
        nonlocal paid
        if not await budget.reserve(100):
            return
        for _ in range(draw.randrange(8)):  # lets others run in between, in a random order
            await asyncio.sleep(0)
        assert budget.booked_nano <= 4_000
        budget.settle(100, 100)
        paid += 100

    async def run() -> None:
        await asyncio.gather(*(ask() for _ in range(200)))

    asyncio.run(run())
    assert paid == budget.settled_nano == 4_000


def test_waits_while_reserved_money_may_come_back() -> None:
    """A request that does not fit now waits for those under way, and leaves when they cost less than reserved."""

    async def run() -> bool:
        budget = Budget(100)
        assert await budget.reserve(90)
        second = asyncio.create_task(budget.reserve(50))
        await asyncio.sleep(0)
        assert not second.done()
        budget.settle(90, 10)
        return await second

    assert asyncio.run(run())


def test_money_in_doubt_does_not_come_back() -> None:
    """A request that does not fit next to money in doubt is refused once nothing is under way."""

    async def run() -> bool:
        budget = Budget(100)
        assert await budget.reserve(90)
        second = asyncio.create_task(budget.reserve(50))
        await asyncio.sleep(0)
        budget.hold(90)
        return await second

    assert not asyncio.run(run())


def test_overshoot_is_booked_and_shown() -> None:
    """A bill above the reservation is booked in full, and no further request is admitted."""
    budget = Budget(100)
    assert asyncio.run(budget.reserve(60))
    budget.settle(60, 130)
    assert (budget.settled_nano, budget.is_overdrawn) == (130, True)
    assert not asyncio.run(budget.reserve(1))


def test_each_spending_is_passed_on() -> None:
    """Money that is settled or in doubt is passed on each time that it grows; a released reservation is not."""
    seen: list[int] = []
    budget = Budget(100, settled_nano=5, on_spent=seen.append)

    async def spend() -> None:
        for _ in range(3):
            assert await budget.reserve(10)

    asyncio.run(spend())
    budget.settle(10, 7)
    budget.release(10)
    budget.hold(10)
    assert seen == [12, 22]


def test_spent_before_counts() -> None:
    """Money in the journals of an interrupted run is booked from the start."""
    budget = Budget(100, settled_nano=50, in_doubt_nano=20)
    assert not budget.fits(31)
    assert budget.fits(30)
