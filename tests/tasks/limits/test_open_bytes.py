"""The bytes of open rows are bounded."""

from __future__ import annotations

import asyncio
import random

import pytest

from parquill.tasks.limits.open_bytes import OpenBytes


@pytest.mark.parametrize("seed", range(10))
def test_open_rows_are_bounded_by_bytes(seed: int) -> None:
    """Open rows never exceed the bound, except for one larger row alone.

    Every row gets its turn, even if others are cancelled while they wait.
    """
    draw = random.Random(seed)
    bound = OpenBytes(100)
    sizes: list[int] = []
    done = 0

    async def row(size: int) -> None:
        nonlocal done
        await bound.acquire(size)
        sizes.append(size)
        assert sum(sizes) <= 100 or len(sizes) == 1
        try:
            for _ in range(draw.randrange(5)):
                await asyncio.sleep(0)
        finally:
            sizes.remove(size)
            bound.release(size)
        done += 1

    async def run() -> None:
        tasks = [asyncio.create_task(row(draw.choice([1, 30, 60, 100, 250]))) for _ in range(60)]
        for _ in range(20):
            await asyncio.sleep(0)
            draw.choice(tasks).cancel()
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert done == sum(error is None for error in ended) > 30
        await asyncio.wait_for(bound.acquire(1_000), 1)

    asyncio.run(run())


def test_the_first_come_goes_first() -> None:
    """A small row does not pass a large one that waits, which would otherwise never get its turn."""

    async def run() -> list[str]:
        bound, order = OpenBytes(100), []

        async def row(name: str, size: int) -> None:
            await bound.acquire(size)
            order.append(name)
            bound.release(size)

        await bound.acquire(50)
        tasks = [asyncio.create_task(row(*each)) for each in (("large", 80), ("small", 10))]
        await asyncio.sleep(0)
        assert order == []
        bound.release(50)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == ["large", "small"]
