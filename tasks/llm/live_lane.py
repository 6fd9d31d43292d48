"""The live lane: sends each request by itself and waits for its reply, many at once.

Each process has one lane per run, on the event loop of its own thread. Shards overlap, so that the head of one fills
the places that the tail of another leaves free. A step keeps its place among `max_at_once` until its outcome is safe on
disk, so after a kill at most `max_at_once` requests can be paid twice.

Units that wait for another try free their place for others, but the number of open units is bounded: an outage affects
a bounded number of rows, and memory does not grow with the input. A stop wakes waiting units.

A step reserves its money before it waits for a place. So each step with a place is under way, and no deadlock can
arise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from parquill.tasks.errors import DiskFailed
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.limits.limiter import Permit, RateLimiter, Stopped
from parquill.tasks.limits.open_bytes import OpenBytes
from parquill.tasks.llm.attempts import Attempts
from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.outcomes import TABLE, Rule
from parquill.tasks.llm.reply_reader import Result
from parquill.tasks.llm.retry_policy import RetryPolicy
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.shard_report import ShardReport, StopReason
from parquill.tasks.llm.unit import Step, Unit

# Units that have begun and are not over, including those that wait for another try.
MIN_OPEN_UNITS = 1_024
OPEN_UNITS_A_PLACE = 4
# Units that are passed over during probes of refusals.
MAX_PASSED_UNITS = 1_000
MAX_PASSED_CHARACTERS = 32 << 20

_log = logging.getLogger("parquill.service")


class OverBudget(Exception):
    """The step's worst case does not fit into the budget any more."""


class LiveLane:
    """Completes units of one run by single requests. Every method runs on its event loop."""

    def __init__(
        self,
        job: ResolvedJob,
        client: Client,
        limits: RateLimiter,
        breaker: Breaker,
        settlement: Settlement,
        *,
        may_send: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`may_send` is asked before each request: False once the process that leads the run is gone."""
        self._client, self._clock, self._sleep, self._may_send = client, clock, sleep, may_send
        self.limits, self.breaker = limits, breaker
        self._settlement, self.budget, self.progress = settlement, settlement.budget, settlement.progress
        self._attempts = Attempts(job, settlement)
        self._policy = RetryPolicy(job, settlement, limits, breaker, self.stop, clock)
        self.stop_rule: Rule | None = None
        self.stop_message: str | None = None
        self.stopping = False
        self.warnings: list[str] = []  # about the service, for users who see no log
        breaker.warn, breaker.stop_run = self._warn, self.stop
        self._tiers = settlement.tiers
        self._tiers.warn = self._warn
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: set[asyncio.Future[None]] = set()
        self._open_bytes = OpenBytes()
        self._open_units = asyncio.Semaphore(max(MIN_OPEN_UNITS, OPEN_UNITS_A_PLACE * job.limits.max_at_once))

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        _log.warning(text)

    async def complete(self, units: AsyncIterator[Unit]) -> None:
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
            async for unit in self._in_turn(units):
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

    async def _in_turn(self, units: AsyncIterator[Unit]) -> AsyncIterator[Unit]:
        """Yield the units that are not over in order; during probes of refusals, units from farther on first.

        The units that were passed over come as soon as the probes are over.
        """
        passed: deque[Unit] = deque()
        passed_characters = stride = 0
        async for unit in self._read(units):
            if unit.next_step() is None:
                continue
            if self.breaker.is_probing and len(passed) < stride and passed_characters < MAX_PASSED_CHARACTERS:
                passed.append(unit)
                passed_characters += unit.size
                continue
            yield unit
            if self.breaker.is_probing:
                stride = min(MAX_PASSED_UNITS, 2 * stride + 1)
                continue
            while passed and not self.breaker.is_probing:
                yield passed.popleft()
            passed_characters, stride = sum(unit.size for unit in passed), len(passed)
        while passed:
            yield passed.popleft()

    async def _read(self, units: AsyncIterator[Unit]) -> AsyncIterator[Unit]:
        """Yield the units as they come from the disk. The breaker gives no verdict while one is being read."""
        while True:
            self.breaker.arrive()
            try:
                unit = await anext(units, None)
            finally:
                self.breaker.depart()
            if unit is None:
                return
            yield unit

    async def _begin(self, unit: Unit) -> asyncio.Task[None] | None:
        """Begin a unit once there is room; None if it is not sent. Raises Stopped, LedgerFailed."""
        step = await self._next_step(unit)
        if step is None:
            return None
        size = unit.size
        try:
            permit = await self._open(step, size)
        except OverBudget:
            step.shard.over_budget += unit.open_steps
            return None
        task = asyncio.create_task(self._complete_unit(unit, step, permit))
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

    async def _open(self, step: Step, size: int) -> Permit:
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

    async def _admit(self, step: Step) -> Permit:
        """Reserve the step's worst case, then wait for its turn. Raises OverBudget, Stopped."""
        while True:
            step.reserve_nano = self._tiers.reserve_nano(step)
            # promise: M1 a request is admitted only if its reservation fits the budget
            if not await self.budget.reserve(step.reserve_nano):
                raise Stopped if self.stopping else OverBudget
            try:
                permit = await self.limits.acquire(step.tokens)
            except BaseException:
                self.budget.release(step.reserve_nano)
                raise
            # promise: M3 a row that waited for a permit checks the budget again
            # promise: M1 a row that waited for a permit checks its reservation again
            if not self.budget.is_overdrawn and step.reserve_nano == self._tiers.reserve_nano(step):
                return permit
            # while this step waited, a reply cost more than its reservation: the budget may not cover it any more, or
            # the reservation may be too small
            permit.release()
            self.budget.release(step.reserve_nano)

    async def _complete_unit(self, unit: Unit, first: Step, permit: Permit) -> None:
        """Complete the steps of a unit one after another; `first` has its permit."""
        step: Step | None = first
        admitted: Permit | None = permit
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

    async def _complete_step(self, step: Step, permit: Permit) -> None:
        """Send a step until it has its outcome. Raises OverBudget, Stopped."""
        while True:
            try:
                await self._settlement.record_intent(step)
                await self._check_leader(step)
                began = self._clock()
                result = await self._client.send(step.messages, step.parameters, step.refused)
                self._observe(permit, result)
                if result.reply is not None:
                    await self._settlement.settle(step, result.rule, result.reply, self._clock() - began)
                    return
                is_outage = await self._policy.record(step, permit.sent_at, result)
            finally:
                permit.release()
            wait_s = await self._policy.next_wait_s(step, permit.sent_at, result, is_outage=is_outage)
            if wait_s is None:
                return
            if wait_s:
                await self._rest(wait_s)
            permit = await self._admit(step)

    def _observe(self, permit: Permit, result: Result) -> None:
        """Tell limits and breaker how a request ended, and what it used."""
        self.limits.learn(permit.sent_at, result.headers)
        if result.reply is not None:
            self.limits.gate.on_success()
            self.breaker.answered(permit.sent_at)
        answer = result.reply or result.failure
        if answer is not None and answer.usage is not None:
            permit.settle(answer.usage.prompt + answer.usage.completion)

    async def _check_leader(self, step: Step) -> None:
        """Send nothing once the process that leads the run is gone. Raises Stopped."""
        # promise: C7 a worker sends nothing once its leader is gone
        if not self._may_send():
            # the intent is already on disk; with this failure recorded, no money stays in doubt
            step.state.failures += 1
            # promise: C7 a request held back because the leader is gone leaves no money in doubt
            await self._settlement.record_failure(step, TABLE["connect_error"])
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
    def waiting_for(self) -> str | None:
        """What the run waits for, for people; None if it sends."""
        return "the service, which fails at every request" if self.breaker.is_open else None

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
        # promise: C7 a row that waits for a permit sends nothing after a stop
        self.limits.stop()
        self.breaker.stop()
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
