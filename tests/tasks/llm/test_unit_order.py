"""The order in which a lane takes units, and when breakers may give their verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.unit import Unit
from parquill.tasks.llm.unit_order import Evidence, in_turn


class _Breaker:
    """A breaker that counts what may bring evidence; the test says when it probes."""

    def __init__(self) -> None:
        self.waiting = 0
        self.is_probing = False

    def arrive(self) -> None:
        self.waiting += 1

    def depart(self) -> None:
        self.waiting -= 1


def _breakers(count: int) -> tuple[list[_Breaker], list[Breaker]]:
    made = [_Breaker() for _ in range(count)]
    return made, cast("list[Breaker]", made)


async def _units(breakers: list[_Breaker], count: int) -> AsyncIterator[Unit]:
    for number in range(count):
        assert [breaker.waiting for breaker in breakers] == [1] * len(breakers)  # while a unit is read
        is_over = number % 10 == 9
        yield cast("Unit", SimpleNamespace(number=number, size=1, next_step=lambda over=is_over: None if over else 1))


def _taken(breakers: list[_Breaker], given: list[Breaker], probes: range, count: int = 60) -> list[int]:
    """Return the numbers of the units as they are taken; a breaker probes while so many have been taken."""

    async def take() -> list[int]:
        taken: list[int] = []
        async for unit in in_turn(_units(breakers, count), given):
            found: Any = unit
            taken.append(found.number)
            breakers[-1].is_probing = len(taken) in probes
            assert [breaker.waiting for breaker in breakers] == [0] * len(breakers)  # while nothing is read
        return taken

    return asyncio.run(take())


@pytest.mark.parametrize("count", [1, 2])
def test_probes_come_from_farther_on(count: int) -> None:
    """While any service is probed, units from ever farther on are taken; those that were passed over come right after.

    Units that are over are left out, and each other unit is taken once.
    """
    breakers, given = _breakers(count)
    open_units = [number for number in range(60) if number % 10 != 9]
    assert _taken(breakers, given, range(0)) == open_units
    taken = _taken(breakers, given, range(3, 6))
    assert sorted(taken) == open_units
    assert taken[:6] == [0, 1, 2, 4, 7, 13]
    assert taken[6:] == [3, 5, 6, 8, 10, 11, 12, *(number for number in open_units if number > 13)]


def test_no_verdict_while_a_unit_waits() -> None:
    """A unit that waits for its turn at one service holds back the verdicts about all, also if its wait fails."""
    breakers, given = _breakers(3)
    evidence = Evidence(given)
    with evidence, evidence:
        assert [breaker.waiting for breaker in breakers] == [2, 2, 2]
    with pytest.raises(ValueError, match="lost"), evidence:
        raise ValueError("lost")
    assert [breaker.waiting for breaker in breakers] == [0, 0, 0]
