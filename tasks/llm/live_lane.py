"""The live lane: sends each request by itself and waits for its reply, many at once.

Each process has one lane per run, on the event loop of its own thread. Shards overlap, so that the head of one fills
the places that the tail of another leaves free. A step keeps its place among `max_at_once` until its outcome is safe on
disk, so after a kill at most `max_at_once` requests can be paid twice.

Units that wait for another try free their place for others, but the number of open units is bounded: an outage affects
a bounded number of rows, and memory does not grow with the input. A stop wakes waiting units.

A step reserves its money before it waits for a place. So each step with a place is under way, and no deadlock can
arise.

A channel sends the requests (`channel`), and with `lane: auto` there are two. The route chooses one for each request,
and again for each step that waits: for its turn, for capacity, or for another try.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from parquill.tasks.errors import DiskFailed
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.limits.limiter import Permit, Rerouted, Stopped
from parquill.tasks.limits.open_bytes import OpenBytes
from parquill.tasks.llm.attempts import Attempts
from parquill.tasks.llm.channel import Channel
from parquill.tasks.llm.outcomes import TABLE, Retry, Rule
from parquill.tasks.llm.route import Route, Way
from parquill.tasks.llm.shard_report import ShardReport, StopReason
from parquill.tasks.llm.unit import Step, Unit, Units
from parquill.tasks.llm.unit_order import Evidence, in_turn

# Units that have begun and are not over, including those that wait for another try.
MIN_OPEN_UNITS = 1_024
OPEN_UNITS_A_PLACE = 4

_log = logging.getLogger("parquill.service")


class OverBudget(Exception):
    """The step's worst case does not fit into the budget any more."""


class Turn(NamedTuple):
    """The permit of a request, and the channel that sends it."""

    channel: Channel
    permit: Permit


class LiveLane:
    """Completes units of one run by single requests. Every method runs on its event loop."""

    def __init__(
        self,
        job: ResolvedJob,
        route: Route,
        *,
        may_send: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`may_send` is asked before each request: False once the process that leads the run is gone."""
        self._route, self._clock, self._sleep, self._may_send = route, clock, sleep, may_send
        settlement = route.channels[0].settlement
        self.budget, self.progress = settlement.budget, settlement.progress
        self._attempts, self._breakers = Attempts(job, settlement), [channel.breaker for channel in route.channels]
        self._evidence = Evidence(self._breakers)
        self.stop_rule: Rule | None = None
        self.stop_message: str | None = None
        self.stopping = False
        self.warnings: list[str] = []  # about the service, for users who see no log
        route.warn = self._warn
        for channel in route.channels:
            channel.open(self._warn, self._end_channel)
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: set[asyncio.Future[None]] = set()
        self._open_bytes = OpenBytes()
        self._open_units = asyncio.Semaphore(max(MIN_OPEN_UNITS, OPEN_UNITS_A_PLACE * job.limits.max_at_once))

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        _log.warning(text)

    def _end_channel(self, channel: Channel, rule: Rule, message: str) -> None:
        """The service takes nothing more in a channel: continue with another one, or stop the run."""
        if self.stopping or not self._route.give_up(channel, rule, message):
            self.stop(rule, message)

    async def complete(self, units: Units) -> None:
        """Complete the steps that have no outcome yet, and put their outcomes into the state of their shard.

        Raises DiskFailed or LedgerFailed; after that nothing more is sent for any shard.
        """
        tasks: set[asyncio.Task[None]] = set()
        errors: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                # promise: C5 an error in any row is kept and ends the run
                errors.append(error)

        try:
            async for unit in in_turn(units(), self._breakers):
                if self.stopping:
                    break
                task = await self._begin(unit)
                if task is not None:
                    tasks.add(task)
                    task.add_done_callback(ended)
        except Stopped:
            pass
        except BaseException:
            self.stop()  # the ledger or the disk is lost: the other shards must not send either
            raise
        finally:
            await asyncio.gather(*tasks, return_exceptions=True)
        if errors:
            raise errors[0]

    async def _begin(self, unit: Unit) -> asyncio.Task[None] | None:
        """Begin a unit once there is room; None if it is not sent. Raises Stopped, LedgerFailed."""
        step = await self._next_step(unit)
        if step is None:
            return None
        size = unit.size
        try:
            turn = await self._open(step, size)
        except OverBudget:
            step.shard.over_budget += unit.open_steps
            return None
        task = asyncio.create_task(self._complete_unit(unit, step, turn))
        task.add_done_callback(lambda _: self._close(size))
        self._tasks.add(task)
        return task

    async def _next_step(self, unit: Unit) -> Step | None:
        """Return the next step that may be sent; None if there is none. Those that must not be sent fail."""
        while (step := unit.next_step()) is not None:
            step.state = step.shard.state.rows.setdefault(step.number, step.state)
            # promise: M2 a request that waits at the service is not sent again by another lane
            if step.state.submitted:
                return None
            if not await self._attempts.fail_unsent(step):
                return step
        return None

    async def _open(self, step: Step, size: int) -> Turn:
        """Open a unit of `size` characters once few enough are open, and admit `step`. Raises OverBudget, Stopped."""
        # promise: service: the number of open rows is bounded
        await self._open_units.acquire()
        try:
            # promise: input: the lane limits its open units by their bytes
            await self._open_bytes.acquire(size)
        except BaseException:
            self._open_units.release()
            raise
        try:
            return await self._admit(step)
        except BaseException:
            self._close(size)
            raise

    def _close(self, size: int) -> None:
        self._open_bytes.release(size)
        self._open_units.release()

    async def _admit(
        self,
        step: Step,
        *,
        failed: Channel | None = None,
        refused: Collection[Channel] = (),
        again: Channel | None = None,
    ) -> Turn:
        """Reserve the step's worst case, then wait for its turn. Raises OverBudget, Stopped.

        `failed` is the channel in which it has just failed, `refused` are those that have refused it, and `again` is
        the one that is to send it once more.
        """
        choose = functools.partial(self._route.choose, step.tokens, failed, refused)
        way = choose() if again is None else Way(again)
        while True:
            channel, is_rerouted = way
            tiers = channel.tiers
            step.reserve_nano = tiers.reserve_nano(step)
            affords = self._route.affords(channel, step.reserve_nano)
            # promise: M1 a request is admitted only if its reservation fits the budget
            if not affords or not await self.budget.reserve(step.reserve_nano):
                if self.stopping:
                    raise Stopped
                if not self._route.cannot_pay(channel):
                    raise OverBudget
                way = choose()
                continue
            try:
                with self._evidence:
                    permit = await channel.limits.acquire(step.tokens, is_rerouted)
            except BaseException as error:
                self.budget.release(step.reserve_nano)
                if self.stopping or not isinstance(error, Rerouted | Stopped):
                    raise
                # a route whose reasons to leave and to choose disagree must not hold up everything else
                await asyncio.sleep(0)
                way = choose()
                continue
            # promise: M3 a row that waited for a permit checks the budget again
            # promise: M1 a row that waited for a permit checks its reservation again
            if not self.budget.is_overdrawn and step.reserve_nano == tiers.reserve_nano(step):
                return Turn(channel, permit)
            # while this step waited, a reply cost more than its reservation: the budget may not cover it any more, or
            # the reservation may be too small
            permit.release()
            self.budget.release(step.reserve_nano)
            way = choose()

    async def _complete_unit(self, unit: Unit, first: Step, turn: Turn) -> None:
        """Complete the steps of a unit one after another; `first` has its turn."""
        step: Step | None = first
        admitted: Turn | None = turn
        try:
            while step is not None:
                await self._complete_step(step, admitted or await self._admit(step))
                step, admitted = await self._next_step(unit), None
        except OverBudget:
            first.shard.over_budget += unit.open_steps
        except Stopped:
            pass
        # promise: C5 an error in one row stops all other sending at once
        except BaseException:
            self.stop()
            raise

    async def _complete_step(self, step: Step, turn: Turn) -> None:
        """Send a step until it has its outcome. Raises OverBudget, Stopped."""
        refused: list[Channel] = []
        while True:
            channel, permit = turn
            try:
                await channel.settlement.record_intent(step)
                await self._check_leader(channel, step)
                began = self._clock()
                result = await channel.client.send(step.messages, step.parameters, step.refused)
                channel.observe(permit, result)
                if result.reply is not None:
                    latency_s = self._clock() - began
                    self._route.answered(channel, latency_s)
                    await channel.settlement.settle(step, result.rule, result.reply, latency_s)
                    return
                is_outage = await channel.policy.record(step, permit.sent_at, result)
            finally:
                permit.release()
            if result.rule.retry is Retry.REFUSAL and result.limit_name is None:
                refused.append(channel)
                # promise: endpoints: a request that one endpoint refused is sent to another one
                if self._route.has_another(refused):
                    step.uncharge()
                    turn = await self._admit(step, failed=channel, refused=refused)
                    continue
            try:
                wait_s = await channel.policy.next_wait_s(step, permit.sent_at, result, is_outage=is_outage)
            except Stopped:
                if self.stopping:
                    raise
                wait_s = 0.0  # only the channel is closed
            if wait_s is None:
                return
            if wait_s:
                await self._rest(wait_s)
            # a refused name of max_output_tokens says nothing against the channel, and the other name is for it alone
            again = channel if result.limit_name is not None else None
            turn = await self._admit(step, failed=channel, refused=refused, again=again)
            if turn.channel is not channel:
                # promise: lanes: a row that waited for capacity in one lane starts afresh in another
                step.throttled_since = step.refused = None

    async def _check_leader(self, channel: Channel, step: Step) -> None:
        """Send nothing once the process that leads the run is gone. Raises Stopped."""
        # promise: C7 a worker sends nothing once its leader is gone
        if not self._may_send():
            # the intent is already on disk; with this failure recorded, no money stays in doubt
            step.state.failures += 1
            # promise: C7 a request held back because the leader is gone leaves no money in doubt
            await channel.settlement.record_failure(step, TABLE["connect_error"])
            step.uncharge()
            self.stop()
            raise Stopped

    async def _rest(self, seconds: float) -> None:
        """Sleep until a step may be tried again. Raises Stopped at once if the run stops in the meantime."""
        if self.stopping:
            raise Stopped
        resting = asyncio.ensure_future(self._sleep(seconds))
        self._resting.add(resting)
        try:
            await asyncio.wait([resting])
        finally:
            self._resting.discard(resting)
            resting.cancel()
        if self.stopping:
            raise Stopped

    async def cancel(self) -> None:
        """Do nothing: nothing waits at the service."""

    async def wait(self, reports: Sequence[ShardReport], stay_s: float | None = None) -> set[int] | None:  # noqa: ARG002 - nothing waits at the service
        """Return no shard: each is complete after one call."""
        return set()

    @property
    def announced(self) -> Mapping[str, tuple[int | None, int | None]]:
        """See Lane."""
        return {channel.label: channel.limits.announced for channel in self._route.channels}

    @property
    def due_at(self) -> None:
        """See Lane: nothing waits."""

    @property
    def waiting_for(self) -> str | None:
        """What the run waits for, for people; None if it sends."""
        return "the service, which fails at every request" if self._route.is_down else None

    @property
    def stop_reason(self) -> StopReason | None:
        """Why nothing more is sent; None while the lane sends."""
        if not self.stopping:
            return None
        rule = self.stop_rule
        return StopReason() if rule is None else StopReason(rule.code, self.stop_message or rule.sentence)

    def stop(self, rule: Rule | None = None, message: str | None = None) -> None:
        """Send nothing more, but let requests under way end. `rule` and `message` are set if the service is why."""
        self.stopping = True
        if self.stop_rule is None:
            self.stop_rule, self.stop_message = rule, message
        for channel in self._route.channels:
            channel.close()
        self.budget.stop()
        for resting in self._resting:
            # promise: service: a stop wakes rows that wait for their next attempt
            resting.cancel()

    async def drain(self, grace_s: float, *, cancels: bool = True) -> set[int]:  # noqa: ARG002 - nothing is elsewhere
        """Stop, and give requests under way `grace_s` seconds; those cut off then are in doubt."""
        self.stop()
        tasks = set(self._tasks)
        if tasks:
            # promise: C7 replies that arrive within the grace period are kept
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                # promise: C7 requests that outlast the grace period are cut off
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, DiskFailed):
                await asyncio.gather(*late, return_exceptions=True)
        return set()
