"""Limits that are shared with other processes: a meter that spends leases, and a lessee that fetches them in time.

Where the buckets are kept is the lender's business; this module knows no Prefect. While the lender does not answer for
longer than PATIENCE_S, each process goes on alone with its part of what was granted to all in the time before: no more
than `capacity + per_second * t`, so the parts of all are no more than the whole. The time is long enough for a few
leases of each (REMEMBERED), and the same for all that know the bucket. With such a part of the limit a process keeps to
that of any minute; and to that of what flows into the bucket by its pace, beginning with nothing saved up. So in all
they send no more after the last lease than the bucket would have granted, and a minute that holds some of both is
within (1) of `shares` as well. The first that comes back counts the bucket as full, since it filled up meanwhile.
One that was granted nothing goes on with a hundredth of the limit, and one whose request is larger than its part sends
a single one in a minute, rather than none. One that begins while the lender is away does not know who sends what: it
takes a hundredth of its own limit for UNMET windows, a server's usual absence, and then that limit, since a run that
crawls all night for a server that does not come back is of no use to anybody. Its own limits hold beside the leases at
all times.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from parquill.tasks.errors import BadJob
from parquill.tasks.limits.leased_meter import LeasedMeter, Pace
from parquill.tasks.limits.lending import Lender, LenderAwayError, NoBucketError
from parquill.tasks.limits.meters import WINDOW_S
from parquill.tasks.limits.reshaping import WORTH, narrow, take_all
from parquill.tasks.limits.shares import REQUEST_SLOTS, TOKEN_SLOTS, Bucket, BucketShape

PATIENCE_S = 5.0
ANSWER_S = 3.0  # for one answer of the lender
UNMET = 3.0  # windows for which a run that has met no lender waits for one
KNOCK_S = 2.0  # between two tries while it is away
AGAIN_S = 0.25  # between two tries while it may be only busy
LOOK_S = 10.0  # between two looks at a bucket that nobody had to wait for
IDLE_S = 0.05
MAX_WAIT_S = 0.3
LEAD = 1 / 80  # of a window: what was used in so long is held in advance
LOOK_BACK = 4  # lives of a lease, in which it shows whether leases are used up
REMEMBERED = 1 / 6  # of a window: the time whose grants tell the part of a process that is alone; but at least
REMEMBERED_LEASES = 4  # in which so many leases flow in
MIN_SHARE = 0.01  # of the limit
WORTH_TELLING = 0.9  # of the limit: what can be used is told if it is less
_T = TypeVar("_T")
LogFn = Callable[[int, str], None]  # the level of `logging`, and a sentence


@dataclass(frozen=True, slots=True)
class LimitDimension:
    """What one job brings along: its own limit and its largest request, in units."""

    name: str
    limit: int
    largest: int

    @property
    def slots(self) -> int:
        """Slots of one unit."""
        return _slots(self.name)

    def share(self, window_s: float) -> BucketShape:
        """Shape a bucket for this job. Raises BadJob if one request is nearly the limit."""
        try:
            return BucketShape.of(self.limit, self.largest, slots=self.slots, window_s=window_s)
        except ValueError as error:
            raise BadJob(f"limits.shared cannot hold {self.name} a minute with one request so large: {error}") from None


async def find_limit(name: str, lender: Lender) -> int | None:
    """Give the limit in units a minute that others share already; None if there is none to lease from."""
    try:
        bucket = await asyncio.wait_for(lender.read(name), ANSWER_S)
        return BucketShape.read(bucket, slots=_slots(name)).limit if bucket is not None and bucket.active else None
    except (LenderAwayError, TimeoutError, ValueError):
        return None


class Lessee:
    """Keeps the leases of one kind coming, on the sender's loop."""

    def __init__(
        self,
        kind: LimitDimension,
        lender: Lender,
        *,
        say: LogFn,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        window_s: float = WINDOW_S,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.meter = LeasedMeter(by_tokens=kind.name == "tokens")
        self._kind, self._lender, self._say = kind, lender, say
        self._clock, self._sleep, self._draw, self._window_s = clock, sleep, draw, window_s
        self._share: BucketShape | None = None
        self._told: str | None = None
        self._granted: deque[tuple[float, int]] = deque()
        self._answered = clock()
        self._looked = 0.0
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Meet the lender, for about PATIENCE_S at most, and go on fetching leases. Raises BadJob."""
        self._kind.share(self._window_s)
        self._answered = self._clock()
        until = self._answered + PATIENCE_S
        while self._share is None:
            try:
                await self._look()
                break
            except LenderAwayError as away:
                if self._clock() >= until:
                    self._go_alone(str(away))
                    break
                await self._sleep(AGAIN_S)
        self._task = asyncio.get_running_loop().create_task(self._keep_on())

    async def end(self) -> None:
        """Fetch nothing more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_on(self) -> None:
        while True:
            try:
                pause = await self._step()
            except LenderAwayError as away:
                pause = KNOCK_S if self._is_alone() else AGAIN_S
                if self._clock() - self._answered > PATIENCE_S:
                    self._go_alone(str(away))
            except BadJob as error:
                # the bucket was made smaller than a request on the way: nothing to lease, nobody is let through
                self._tell(str(error))
                pause = KNOCK_S
            except Exception as error:  # noqa: BLE001 - a fault here must not leave the run waiting for leases for ever
                self._go_alone(type(error).__name__)
                pause = LOOK_S
            await self._sleep(pause)

    async def _step(self) -> float:
        """Look or lease once; gives the seconds until the next step."""
        now, share = self._clock(), self._share
        if share is None or self._is_alone() or now - self._looked >= LOOK_S:
            await self._look()
            return 0.0 if not self.meter.free else KNOCK_S
        units = self._units(share, now)
        if not units:
            return IDLE_S
        try:
            granted = await self._ask(self._lender.take(self._kind.name, units * share.slots, share.bucket.capacity))
        except NoBucketError:
            self._share = None
            return 0.0
        if granted:
            self._lend(share, now, units)
            return 0.0
        bucket = await self._look()
        wait = share.seconds_until_room(bucket, units) if bucket is not None else 0.0
        # whoever waits for the same room comes a little sooner or later, not always first
        return min(MAX_WAIT_S, wait + (0.01 + 0.04 * self._draw()))

    def _units(self, share: BucketShape, now: float) -> int:
        """Choose how much to lease, 0 for nothing now: a quantum, ahead of need.

        A process that did not use what it leased of late leases only for a request that waits, and hardly more than it
        uses: what it leaves unused nobody else can have.
        """
        waiting, lives = math.ceil(self.meter.waiting(now)), LOOK_BACK * share.life_s
        used, lost = self.meter.fate(now, lives)
        if lost * 4 > used:
            return max(waiting, min(share.quantum, math.ceil(used * 1.25 / LOOK_BACK))) if waiting else 0
        soon, _ = self.meter.fate(now, self._window_s * LEAD)
        return max(waiting, share.quantum) if waiting or self.meter.held(now) < soon else 0

    async def _look(self) -> Bucket | None:
        """See what the bucket is now, None if it is of no use; make it if it is missing, reshape it if that is due."""
        kind, began = self._kind, self._clock()
        bucket = await self._ask(self._lender.read(kind.name))
        if bucket is None:
            await self._ask(self._lender.create(kind.name, kind.share(self._window_s).bucket))
            bucket = await self._ask(self._lender.read(kind.name))
            if bucket is None:
                raise LenderAwayError("the limit that was made is not there")
        self._looked = self._clock()
        try:
            share = BucketShape.read(bucket, slots=kind.slots, window_s=self._window_s)
        except ValueError as error:
            self._do_without(f"nothing can be leased from it: {error}")
            return None
        if not bucket.active:
            self._do_without("it is switched off")
            return None
        if share.quantum < kind.largest:
            share = await self._widen(share)
        elif self.meter.pace is not None:
            # it filled up while everybody went on alone, and would grant at once what was sent without it
            await self._ask(self._lender.reshape(kind.name, share.bucket))
        elif self._task is None:  # later its own leases are among those that count
            share = await self._narrow(share, began)
        self._share, self.meter.free, self.meter.pace = share, False, None
        self._tell_terms(share)
        return bucket

    async def _widen(self, share: BucketShape) -> BucketShape:
        try:
            wide = share.reshaped(self._kind.largest, window_s=self._window_s)
        except ValueError as error:
            raise BadJob(f"the shared limit of {self._kind.name} is too small for this job: {error}") from None
        await self._ask(self._lender.reshape(self._kind.name, wide.bucket))
        return wide

    async def _narrow(self, share: BucketShape, began: float) -> BucketShape:
        """Give a bucket that is wider than this run needs, and that nobody uses, a shape of its own."""
        kind, lender = self._kind, self._lender
        try:
            narrower = share.reshaped(kind.largest, window_s=self._window_s)
        except ValueError:  # a bucket that a person made
            return share
        if narrower.bucket.per_second < WORTH * share.bucket.per_second:
            return share
        asked = self._clock()
        if not await take_all(kind.name, share, lender, self._ask):
            return share
        if await narrow(
            kind.name, share, narrower, lender, self._ask, clock=self._clock, began=began, window_s=self._window_s
        ):
            return narrower
        self._lend(share, asked, share.bucket.capacity // share.slots)
        return share

    def _lend(self, share: BucketShape, asked: float, units: int) -> None:
        # it was granted at some time after it was asked for
        self.meter.lend(asked + share.life_s, units)
        self._granted.append((asked, units))
        while self._granted[0][0] < asked - self._remembered(share) - PATIENCE_S - ANSWER_S:
            self._granted.popleft()

    async def _ask(self, question: Coroutine[Any, Any, _T]) -> _T:
        try:
            answer = await asyncio.wait_for(question, ANSWER_S)
        except TimeoutError:
            raise LenderAwayError("no answer in time") from None
        self._answered = self._clock()
        return answer

    def _is_alone(self) -> bool:
        return self._share is None or self.meter.pace is not None

    def _do_without(self, why: str) -> None:
        self._share, self.meter.free, self.meter.pace = None, True, None
        self._tell(f"{why}; this run keeps to its own {self._kind.limit:,} a minute")

    def _go_alone(self, why: str) -> None:
        """Go on without the lender, at what this process was granted last."""
        share, now = self._share, self._clock()
        if share is None:
            self._go_unmet(why, now)
            return
        if self.meter.pace is not None:
            return
        seconds = self._remembered(share)
        granted = sum(units for time, units in self._granted if time > self._answered - seconds)
        most = (share.bucket.capacity + share.bucket.per_second * (seconds + 1.0)) / share.slots
        part = min(1.0, max(MIN_SHARE, granted / most))
        allowed = share.limit * part * share.usable(self._window_s)
        self.meter.pace = Pace(allowed, share.limit * part, now, self._window_s)
        self._tell(f"the Prefect server does not answer ({why}); this run goes on alone at {_rate(allowed)} a minute")

    def _go_unmet(self, why: str, now: float) -> None:
        """Go on without a lender that told this process nothing: with little at first, then with its own limit."""
        own, meter = self._kind.limit, self.meter
        if self._task is not None and meter.free:  # it keeps to its own limit already
            return
        if now - self._answered > UNMET * self._window_s:
            meter.free, meter.pace = True, None
            self._tell(f"no Prefect server answers ({why}); this run keeps to its own limit of {own:,} a minute")
        elif meter.pace is None:
            little, minutes = own * MIN_SHARE, UNMET * self._window_s / 60
            meter.free, meter.pace = False, Pace(little, little, now, self._window_s)
            self._tell(
                f"no Prefect server answers ({why}); others may have the rest of the limit, so this run takes "
                f"{_rate(little)} a minute until one does; after {minutes:.2g} minutes it takes its own {own:,}"
            )

    def _remembered(self, share: BucketShape) -> float:
        """Seconds whose grants tell the part of a process that is alone: the same for all that know the bucket."""
        leases = REMEMBERED_LEASES * share.quantum * share.slots / share.bucket.per_second
        return max(self._window_s * REMEMBERED, leases)

    def _tell_terms(self, share: BucketShape) -> None:
        own, usable = self._kind.limit, share.usable(self._window_s)
        part = ""
        if usable < WORTH_TELLING:
            beside = f" beside requests of up to {share.quantum:,} tokens" if self.meter.by_tokens else ""
            part = f", of which about {usable:.0%} can be used{beside}".replace("%", " %")
        if abs(share.limit - own) <= max(1, own // 100):
            self._tell(f"{own:,} a minute are shared by all runs that name it{part}", logging.INFO)
        else:
            self._tell(
                f"it was made for {share.limit:,} a minute{part}, which holds for all runs together, and not for the "
                f"job's {own:,}, to which this run by itself keeps; delete it in Prefect to have it made anew"
            )

    def _tell(self, text: str, level: int = logging.WARNING) -> None:
        if text != self._told:
            self._told = text
            self._say(level, f"limits.shared, {self._kind.name}: {text}")


def _slots(name: str) -> int:
    return REQUEST_SLOTS if name == "requests" else TOKEN_SLOTS


def _rate(units: float) -> str:
    return f"{units:,.0f}" if units >= 100 else f"{units:.2g}"
