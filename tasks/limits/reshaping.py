"""How a bucket is given the shape that smaller requests need, so that no minute holds more than the limit.

In the narrower shape more flows in, so nothing that was granted in the wider one may still count. Who begins a run
takes *all* slots of a bucket that is wider than it needs, which is granted only if nothing else was granted lately, and
looks when the bucket had changed before that, both on the one clock of the lender. If that was UNUSED windows ago, the
wider leases and their minutes are over (both together last at most 1 + 1.6 * 0.9 windows); if not, it has leased them.

What others were granted in between, before and after all was taken, is no more than what flowed in meanwhile: it is
counted as taken from the new shape. A change of shape that the server makes late, when nobody waits for its answer any
more, would let more flow in unseen; so the old shape is closed for a window first, and only what is known to be closed
is changed. A process that still believes in the old shape, and in its longer life, is refused by the lender.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from parquill.tasks.limits.lending import Lender
from parquill.tasks.limits.shares import BucketShape

UNUSED = 3.0  # windows
WORTH = 1.02  # times as much flows in
_T = TypeVar("_T")


class Ask(Protocol):
    """Waits for an answer of the lender, not for ever. Raises LenderAwayError."""

    async def __call__(self, question: Coroutine[Any, Any, _T], /) -> _T:
        """Give the answer."""


async def take_all(name: str, found: BucketShape, lender: Lender, ask: Ask) -> bool:
    """Take all slots of a bucket, False if they are not all free."""
    return found.bucket.taken == 0 and await ask(lender.take(name, found.bucket.capacity, found.bucket.capacity))


async def narrow(
    name: str,
    found: BucketShape,
    narrower: BucketShape,
    lender: Lender,
    ask: Ask,
    *,
    clock: Callable[[], float],
    began: float,
    window_s: float,
) -> bool:
    """Give a bucket, all of whose slots were just taken, a narrower shape; False if it was used too lately.

    `began` is before it was found.
    """
    now = await ask(lender.read(name))
    if now is None or now.changed_at - found.bucket.changed_at < UNUSED * window_s:
        return False
    old = found.bucket
    await ask(lender.reshape(name, replace(old, taken=old.capacity + math.ceil(old.per_second * window_s))))
    meanwhile = math.ceil(old.per_second * (clock() - began))
    await ask(lender.reshape(name, replace(narrower.bucket, taken=narrower.bucket.capacity + meanwhile)))
    return True
