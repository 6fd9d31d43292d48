"""The reserved, submitted, settled and in-doubt money of a run never adds up to more than its budget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parquill.tasks.money.budget import Budget

LIMIT = 1_000


class BudgetMachine(RuleBasedStateMachine):
    """Reservations, settlements, doubts and releases in any order, of requests under way and of submitted ones.

    The money is the budget's own, or leased: then `ledger` has what is free, and what came back of submitted money.
    """

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(LIMIT)
        self.is_leased = False
        self.ledger = 0
        self.open: list[int] = []
        self.waiting: list[int] = []
        self.paid = self.doubt = 0

    @initialize(is_leased=st.booleans())
    def begin(self, is_leased: bool) -> None:  # noqa: FBT001 - a drawn value
        self.is_leased = is_leased
        if is_leased:
            self.budget, self.ledger = Budget(0, more=self.lease), LIMIT

    async def lease(self, amount: int) -> int:
        """Lease what is asked for, or nothing."""
        got = amount if amount <= self.ledger else 0
        self.ledger -= got
        return got

    def of(self, *, submitted: bool) -> list[int]:
        return self.waiting if submitted else self.open

    @rule(amount=st.integers(0, 400), wait=st.booleans())
    def reserve(self, amount: int, wait: bool) -> None:  # noqa: FBT001 - a drawn value
        fits = self.paid + self.doubt + sum(self.open) + sum(self.waiting) + amount <= LIMIT
        if fits or not self.open or not wait:
            assert asyncio.run(self.budget.reserve(amount, wait=wait)) == fits
            self.open += [amount] * fits

    @precondition(lambda self: self.open)
    @rule()
    def submit(self) -> None:
        amount = self.open.pop()
        self.budget.submit(amount)
        self.waiting.append(amount)

    @rule(submitted=st.booleans(), share=st.floats(0, 1))
    def settle(self, submitted: bool, share: float) -> None:  # noqa: FBT001 - a drawn value
        if amounts := self.of(submitted=submitted):
            amount = amounts.pop()
            cost = int(amount * share)
            self.budget.settle(amount, cost, submitted=submitted)
            self.paid += cost
            self.came_back(amount - cost, submitted=submitted)

    @rule(submitted=st.booleans())
    def hold(self, submitted: bool) -> None:  # noqa: FBT001 - a drawn value
        if amounts := self.of(submitted=submitted):
            amount = amounts.pop()
            self.budget.hold(amount, submitted=submitted)
            self.doubt += amount

    @rule(submitted=st.booleans())
    def release(self, submitted: bool) -> None:  # noqa: FBT001 - a drawn value
        if amounts := self.of(submitted=submitted):
            amount = amounts.pop()
            self.budget.release(amount, submitted=submitted)
            self.came_back(amount, submitted=submitted)

    def came_back(self, amount: int, *, submitted: bool) -> None:
        """What came back of submitted money is the ledger's again; money of a lease stays with the budget."""
        self.ledger += amount * (submitted and self.is_leased)

    @invariant()
    def never_passed(self) -> None:
        """At every moment all that is booked <= granted, both are right, and no money is lost or made."""
        budget = self.budget
        assert (budget.settled_nano, budget.in_doubt_nano) == (self.paid, self.doubt)
        assert (budget.reserved_nano, budget.submitted_nano) == (sum(self.open), sum(self.waiting))
        assert budget.granted_nano is not None
        assert budget.booked_nano <= budget.granted_nano
        assert budget.granted_nano + self.ledger == LIMIT


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


def _second_fits(end_first: Callable[[Budget], None]) -> bool:
    """Return whether a request that waits for another one is admitted once that one has ended in some way."""

    async def run() -> bool:
        budget = Budget(100)
        assert await budget.reserve(90)
        second = asyncio.create_task(budget.reserve(50))
        await asyncio.sleep(0)
        assert not second.done()
        end_first(budget)
        return await asyncio.wait_for(second, 60)

    return asyncio.run(run())


def test_waits_while_reserved_money_may_come_back() -> None:
    """A request that does not fit now waits for those under way, and leaves when they cost less than reserved."""
    assert _second_fits(lambda budget: budget.settle(90, 10))


def test_money_in_doubt_does_not_come_back() -> None:
    """A request that does not fit next to money in doubt is refused once nothing is under way."""
    assert not _second_fits(lambda budget: budget.hold(90))


def test_overshoot_is_booked_and_shown() -> None:
    """A bill above the reservation is booked in full, and no further request is admitted."""
    budget = Budget(100)
    assert asyncio.run(budget.reserve(60))
    budget.settle(60, 130)
    assert (budget.settled_nano, budget.is_overdrawn) == (130, True)
    assert not asyncio.run(budget.reserve(1))


def test_each_spending_is_passed_on() -> None:
    """Money that is settled, in doubt or submitted is passed on each time that it grows.
    A released reservation is not.
    """
    seen: list[tuple[int, int]] = []
    budget = Budget(100, settled_nano=5, on_spent=lambda spent, submitted: seen.append((spent, submitted)))

    async def spend() -> None:
        for _ in range(4):
            assert await budget.reserve(10)

    asyncio.run(spend())
    budget.settle(10, 7)
    budget.release(10)
    budget.hold(10)
    budget.submit(10)
    budget.release(10, submitted=True)
    assert seen == [(12, 0), (22, 0), (32, 10)]


def test_spent_before_counts() -> None:
    """Money in the journals of an interrupted run is booked from the start."""
    budget = Budget(100, settled_nano=50, in_doubt_nano=20, submitted_nano=10)
    assert not budget.fits(21)
    assert budget.fits(20)


def test_submitted_money_is_not_waited_for() -> None:
    """M8: A request that waits for another one is refused once that one waits at the service for a day."""
    assert not _second_fits(lambda budget: budget.submit(90))


def test_a_reservation_that_does_not_wait() -> None:
    """M8: Without `wait`, a reservation asks the ledger once, and is refused at once while others are under way."""
    asked: list[int] = []

    async def more(amount: int) -> int:
        asked.append(amount)
        return 90 if amount == 90 else 0

    async def patient() -> bool:
        raise AssertionError("no money of others is waited for")

    async def run() -> None:
        budget = Budget(0, more=more, patient=patient)
        assert await budget.reserve(90, wait=False)
        assert not await asyncio.wait_for(budget.reserve(50, wait=False), 60)
        budget.release(90)
        assert await budget.reserve(50, wait=False)

    asyncio.run(run())
    assert asked == [90, 50]


def test_a_collected_reply_above_its_reservation() -> None:
    """M3, M8: If a collected reply costs more than was reserved, the excess is booked, and comes from the budget."""
    budget = Budget(100, submitted_nano=60)
    budget.settle(60, 75, submitted=True)
    assert (budget.settled_nano, budget.submitted_nano, budget.booked_nano) == (75, 0, 75)
    assert (budget.collected_settled_nano, budget.collected_released_nano) == (60, 0)
    assert budget.fits(25)
    assert not budget.fits(26)
