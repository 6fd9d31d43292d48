"""The order in which a lane takes units: as they come from the disk, but during probes of refusals from farther on."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence

from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.unit import Unit

# Units that are passed over during probes of refusals.
MAX_PASSED_UNITS = 1_000
MAX_PASSED_CHARACTERS = 32 << 20


async def in_turn(units: AsyncIterator[Unit], breakers: Sequence[Breaker]) -> AsyncIterator[Unit]:
    """Yield the units that are not over in order; during probes of refusals, units from farther on first.

    The units that were passed over come as soon as the probes are over.
    """
    passed: deque[Unit] = deque()
    passed_characters = stride = 0

    def is_probing() -> bool:
        return any(breaker.is_probing for breaker in breakers)

    async for unit in _read(units, breakers):
        if unit.next_step() is None:
            continue
        if is_probing() and len(passed) < stride and passed_characters < MAX_PASSED_CHARACTERS:
            passed.append(unit)
            passed_characters += unit.size
            continue
        yield unit
        if is_probing():
            stride = min(MAX_PASSED_UNITS, 2 * stride + 1)
            continue
        while passed and not is_probing():
            yield passed.popleft()
        passed_characters, stride = sum(unit.size for unit in passed), len(passed)
    while passed:
        yield passed.popleft()


async def _read(units: AsyncIterator[Unit], breakers: Sequence[Breaker]) -> AsyncIterator[Unit]:
    while True:
        with Evidence(breakers):
            unit = await anext(units, None)
        if unit is None:
            return
        yield unit


class Evidence:
    """Holds back the verdicts of breakers while a unit is read, or waits for its turn: any service may get it."""

    def __init__(self, breakers: Sequence[Breaker]) -> None:
        self._breakers = breakers

    def __enter__(self) -> None:
        # promise: endpoints: a row that waits for one endpoint may bring evidence about another one
        for breaker in self._breakers:
            breaker.arrive()

    def __exit__(self, *_: object) -> None:
        for breaker in self._breakers:
            breaker.depart()
