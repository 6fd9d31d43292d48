"""How a limit of so many units a minute is kept by a bucket that many processes lease from.

A bucket holds `capacity` slots, of which so many are taken; a lease of `quantum` slots is granted while they fit, and
what is taken decays by `per_second`. In any time t no more than `capacity + per_second * t` slots are granted, whoever
asks. A lease is good for `life_s` from before it was asked for, and a request reaches the service at most GUARD_S after
it left. So what arrives in a minute was granted in `window + life_s + GUARD_S`, and never exceeds the limit if

    capacity + per_second * (window + life_s + GUARD_S) = limit                                                  (1)

A bucket of a minute's size, with which such limits are usually made, lets twice the limit through in its first minute.

Nothing is given back. What was not used in time has decayed meanwhile, so that others could take it; given back as well
it would be granted twice, and a minute could hold more than the limit.

Everybody leases the same quantum, at least as large as the largest request: of unequal leases the small ones would
always come first. Only who does not use up what it leases takes less (see `leases`). The bucket's capacity is a quantum
and what flows in while nobody looks; a lease lives for as long as one process alone needs to use it up. With
f = quantum / limit the whole shape follows from f by (1), and f from `capacity / per_second`, which rises with f:
whoever finds a bucket knows what it was made for.

Large requests cost much of the limit: `usable` of it flows in, 86 % for f = 5 %, 76 % for 10 %, 43 % for 33 %. A life
shorter than the time that a quantum of small requests needs at the run's own even pace would lose what is left of it;
and leases of only what waits used more (75 instead of 65 %, simulated), but left nothing to large requests. A bucket
may become wider at any time: it counts as full then, so that after a burst of the old shape only its slower decay is
granted, and what was granted in the old, shorter life is gone sooner than (1) has it. Narrower it may become only when
nothing that was granted before can count any more (see `reshaping`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from parquill.tasks.limits.meters import WINDOW_S

GUARD_S = 0.25
MIN_QUANTUM = 1 / 80  # of the limit: three quarters of a second, so a process asks hardly more than once a second
MAX_QUANTUM = 0.9  # nothing would flow in beside a larger one
SLACK = 1 / 80  # of the limit: what may flow in until somebody asks, on a server that takes half a second
MIN_LIFE = 1 / 30  # of a window: 2 s
LIFE_A_QUANTUM = 1.6  # of the time in which one process uses it up

REQUEST_SLOTS = 1_000  # a decayed fraction of a slot is lost with each lease: slots of a request must be small
TOKEN_SLOTS = 1


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as it is kept elsewhere: `capacity` slots, decaying by `per_second`, `taken` of them now."""

    capacity: int
    per_second: float
    taken: int = 0
    active: bool = True
    changed_at: float = 0.0  # seconds on the lender's own clock: the last grant, or change of shape


@dataclass(frozen=True, slots=True)
class BucketShape:
    """What a bucket stands for: `limit` and `quantum` in units (requests or tokens); a unit is `slots` slots."""

    limit: int
    quantum: int
    life_s: float
    slots: int
    bucket: Bucket

    @classmethod
    def of(cls, limit: int, largest: int, *, slots: int, window_s: float = WINDOW_S) -> BucketShape:
        """Shape a bucket for `limit` units a window and requests of up to `largest` units.

        Raises ValueError when a request is larger than 0.9 of the limit: a bucket for it would hardly refill.
        """
        # whole requests: of a limit of 10, all slots of the 11th but one may be granted as well
        whole = (limit + 1) * slots - 1 if slots > 1 else limit
        if largest * slots > MAX_QUANTUM * whole:
            raise ValueError(f"{largest:,} is more than {MAX_QUANTUM:.0%} of {limit:,}")
        lease = max(1, largest, math.ceil(whole / slots * MIN_QUANTUM)) * slots
        capacity = lease + math.floor(whole * SLACK)
        part = lease / whole
        per_second = (whole - capacity) / (window_s + _life(part, window_s) + GUARD_S)
        return cls(limit, lease // slots, _life(part, window_s), slots, Bucket(capacity, per_second))

    @classmethod
    def read(cls, bucket: Bucket, *, slots: int, window_s: float = WINDOW_S) -> BucketShape:
        """Tell what a bucket that exists stands for. Raises ValueError if nothing can be leased from it."""
        if bucket.per_second <= 0 or bucket.capacity < slots:
            raise ValueError("it has no slot decay" if bucket.per_second <= 0 else "it holds not even one request")
        low, high = 0.0, 1 - SLACK
        for _ in range(60):
            part = (low + high) / 2
            seconds = (part + SLACK) * (window_s + _life(part, window_s) + GUARD_S) / (1 - part - SLACK)
            low, high = (part, high) if seconds < bucket.capacity / bucket.per_second else (low, part)
        part = max(low, 1e-9)
        life_s = _life(part, window_s)
        whole = bucket.capacity + bucket.per_second * (window_s + life_s + GUARD_S)
        lease = min(max(1, round((bucket.capacity - math.floor(whole * SLACK)) / slots)), bucket.capacity // slots)
        # a hair above what was rounded away, far below one unit
        limit = math.floor(whole / slots + 1e-6)
        # the rounding of the capacity may hide a token: lost at each change of shape, the limit would dwindle
        for near in (limit + 1, limit) if lease < MAX_QUANTUM * limit else ():
            made = cls.of(near, lease, slots=slots, window_s=window_s)
            if made.bucket.capacity == bucket.capacity and math.isclose(
                made.bucket.per_second, bucket.per_second, rel_tol=1e-12
            ):
                return replace(made, bucket=bucket)
        return cls(limit, lease, life_s, slots, bucket)

    def usable(self, window_s: float = WINDOW_S) -> float:
        """Tell which part of the limit flows in: what all processes can use of it, at most."""
        return min(1.0, self.bucket.per_second * window_s / (self.limit * self.slots))

    def seconds_until_room(self, bucket: Bucket, units: int) -> float:
        """Seconds until a lease of so many units fits, 0 if it fits now."""
        return max(0.0, (bucket.taken + units * self.slots - bucket.capacity) / bucket.per_second)

    def reshaped(self, largest: int, *, window_s: float = WINDOW_S) -> BucketShape:
        """Give the same limit a shape for requests of up to `largest` units. Raises ValueError."""
        return BucketShape.of(self.limit, largest, slots=self.slots, window_s=window_s)


def _life(part: float, window_s: float) -> float:
    return window_s * max(MIN_LIFE, LIFE_A_QUANTUM * part)
