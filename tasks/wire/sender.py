"""Sends the rows of shards: reservation, limits, intent, request, outcome, in this order, for each row.

One sender a run and process, on the event loop of a thread of its own, fed by overlapping shards so that the tail of
one is covered by the head of the next. A row keeps its place among `max_at_once` until its outcome lasts on disk, so at
a kill no more than `max_at_once` requests can be paid twice.

Rows that wait to be tried again give their place to others, but only so many rows are open at once: a service that
fails at everything meets a bounded number of rows, and memory does not grow with the input. A stop wakes them.

Money is reserved before a place is waited for: whoever holds a place is under way, so nobody can wait in a circle.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from parquill.tasks.disk.journal import Journal
from parquill.tasks.disk.replay import ShardState
from parquill.tasks.errors import DiskFailed
from parquill.tasks.job import Job
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.prices import Price
from parquill.tasks.wire.answer import AnswerFormat
from parquill.tasks.wire.booking import Booking, SendRow
from parquill.tasks.wire.client import Client, Result
from parquill.tasks.wire.limits import Limits, Slot, Stopped
from parquill.tasks.wire.open_bytes import OpenBytes
from parquill.tasks.wire.outcomes import TABLE, Money, Retry, Rule
from parquill.tasks.wire.progress import Progress
from parquill.tasks.wire.retry import Again, backoff_s, wait_for

# Rows that have begun and have no outcome yet, those that wait to be tried again included.
FEWEST_OPEN_ROWS = 1_024
OPEN_ROWS_A_PLACE = 4


class OverBudget(Exception):
    """This row's worst case does not fit any more."""


class Sender:
    """Completes rows of one run. Every method runs on its event loop."""

    def __init__(
        self,
        job: Job,
        price: Price,
        client: Client,
        limits: Limits,
        budget: Budget,
        *,
        answer_format: AnswerFormat | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._clock = client, clock
        self.limits, self.budget = limits, budget
        self.progress = Progress()
        self._booking = Booking(price, budget, self.progress, answer_format)
        self.stop_rule: Rule | None = None
        self.stopping = False
        self.over_budget = 0
        self._sleep = sleep
        self._patience_s = job.retry.timeout_s * job.retry.attempts
        self._hold = job.retry.in_doubt == "hold"
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: set[asyncio.Future[None]] = set()
        self._open_bytes = OpenBytes()
        self._open_rows = asyncio.Semaphore(max(FEWEST_OPEN_ROWS, OPEN_ROWS_A_PLACE * job.limits.max_at_once))
        self._retrying = AsyncRetrying(
            sleep=self._rest,
            stop=stop_after_attempt(job.retry.attempts),
            wait=wait_for,
            retry=retry_if_exception_type(Again),
            reraise=True,
        )

    async def complete(self, rows: AsyncIterator[SendRow], journal: Journal, state: ShardState) -> None:
        """Complete the rows of a shard that have no outcome yet; their outcomes are put into `state`.

        Raises DiskFailed or LedgerFailed, after which nothing more is sent by anybody.
        """
        mine: set[asyncio.Task[None]] = set()
        errors: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            mine.discard(task)
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                errors.append(error)

        try:
            async for row in rows:
                if self.stopping:
                    break
                if row.number in state.outcomes:
                    continue
                task = await self._begin(row, journal, state)
                if task is not None:
                    mine.add(task)
                    task.add_done_callback(ended)
        except Stopped:
            pass
        except BaseException:
            self.stop()  # the ledger or the disk is lost: the other shards must not send either
            raise
        finally:
            await asyncio.gather(*mine, return_exceptions=True)
            await journal.close()
        if errors:
            raise errors[0]

    async def _begin(self, row: SendRow, journal: Journal, state: ShardState) -> asyncio.Task[None] | None:
        """Begin a row once there is room for it; None for one that is not to be sent. Raises Stopped, LedgerFailed."""
        row.state = state.rows.setdefault(row.number, row.state)
        if self._hold and row.state.in_doubt_requests:
            await self._booking.fail(row, TABLE["connection_lost"], "its fate is unknown and is held", journal, state)
            return None
        try:
            slot = await self._open(row)
        except OverBudget:
            self.over_budget += 1
            return None
        task = asyncio.create_task(self._complete_row(row, slot, journal, state))
        task.add_done_callback(lambda _: self._close(row))
        self._tasks.add(task)
        return task

    async def _open(self, row: SendRow) -> Slot:
        """Begin a row once few enough are open. Raises OverBudget, Stopped."""
        await self._open_rows.acquire()
        try:
            await self._open_bytes.acquire(len(row.messages))
        except BaseException:
            self._open_rows.release()
            raise
        try:
            return await self._admit(row)
        except BaseException:
            self._close(row)
            raise

    def _close(self, row: SendRow) -> None:
        self._open_bytes.release(len(row.messages))
        self._open_rows.release()

    async def _admit(self, row: SendRow) -> Slot:
        """Reserve the row's worst case, then wait for its turn. Raises OverBudget, Stopped."""
        if not await self.budget.reserve(row.reserve_nano):
            raise Stopped if self.stopping else OverBudget
        try:
            return await self.limits.acquire(row.tokens)
        except BaseException:
            self.budget.release(row.reserve_nano)
            raise

    async def _complete_row(self, row: SendRow, slot: Slot, journal: Journal, state: ShardState) -> None:
        try:
            try:
                await self._attempt(row, slot, journal, state)
            except Again as first:
                await self._retry(row, first, journal, state)
        except Again:
            rule = TABLE[row.state.last_code or "connection_lost"]
            await self._booking.fail(row, rule, f"{rule.sentence}; attempts used up", journal, state)
        except OverBudget:
            self.over_budget += 1
        except Stopped:
            pass
        except BaseException:
            self.stop()
            raise

    async def _retry(self, row: SendRow, first: Again, journal: Journal, state: ShardState) -> None:
        """Repeat a row on tenacity's schedule, in which the attempt that failed already counts as the first.

        Rows that succeed at once never come here: tenacity costs 20 microseconds a call.
        """
        failed: Again | None = first

        async def attempt() -> None:
            nonlocal failed
            if failed is not None:
                error, failed = failed, None
                raise error
            await self._attempt(row, await self._admit(row), journal, state)

        # its bookkeeping is in the object, so each row needs its copy
        await self._retrying.copy()(attempt)

    async def _attempt(self, row: SendRow, slot: Slot, journal: Journal, state: ShardState) -> None:
        """Send a row until it is settled or must wait (raises Again); 429 is waited out here, at no cost to the row."""
        throttled_since: float | None = None
        while True:
            try:
                await self._booking.intend(row, journal)
                began = self._clock()
                result = await self._client.send(row.messages, row.parameters)
                self.limits.learn(slot.sent_at, result.headers)
                if (reply := result.reply) is not None:
                    self.limits.gate.succeeded()
                    if reply.usage is not None:
                        slot.settle(reply.usage.prompt + reply.usage.completion)
                    await self._booking.settle(row, result.rule, reply, self._clock() - began, journal, state)
                    return
                await self._booking.book_failure(row, result.rule, journal)
            finally:
                slot.release()
            if result.rule.retry is not Retry.THROTTLE:
                await self._after_failure(row, result, journal, state)
                return
            self._throttle(slot, result)
            now = self._clock()
            throttled_since = now if throttled_since is None else throttled_since
            if now - throttled_since > self._patience_s:  # others get through: it is this row
                await self._booking.fail(row, result.rule, result.sentence, journal, state)
                return
            slot = await self._admit(row)

    async def _after_failure(self, row: SendRow, result: Result, journal: Journal, state: ShardState) -> None:
        rule = result.rule
        if rule.retry is Retry.STOP:
            self.stop(rule)
            raise Stopped
        row.state.failures += 1
        if rule.retry is Retry.AGAIN and not (self._hold and rule.money is Money.IN_DOUBT):
            raise Again(result.retry_after)
        await self._booking.fail(row, rule, result.sentence, journal, state)

    def _throttle(self, slot: Slot, result: Result) -> None:
        now, gate = self._clock(), self.limits.gate
        self.progress.throttled += 1
        pause = result.retry_after if result.retry_after is not None else backoff_s(gate.waves + 1)
        gate.slow_down(now, slot.sent_at, pause)
        if gate.throttled_s(now) > self._patience_s:
            self.stop(result.rule)
            raise Stopped

    async def _rest(self, seconds: float) -> None:
        """Sleep until a row may be tried again. Raises Stopped at once when the run stops meanwhile."""
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

    def stop(self, rule: Rule | None = None) -> None:
        """Send nothing more; what is under way is waited for. `rule` says why, if the service is the reason."""
        self.stopping = True
        self.stop_rule = self.stop_rule or rule
        self.limits.stop()
        self.budget.stop()
        for resting in self._resting:
            resting.cancel()

    async def drain(self, grace_s: float) -> None:
        """Stop, and give what is under way `grace_s` seconds; what is cut off then is in doubt."""
        self.stop()
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, DiskFailed):
                await asyncio.gather(*late, return_exceptions=True)
