"""Sends the rows of shards: reservation, limits, intent, request, outcome, in this order, for each row.

Each process has one sender per run, on the event loop of its own thread. Shards overlap, so that the head of one fills
the places that the tail of another leaves free. A row keeps its place among `max_at_once` until its outcome is safe on
disk, so after a kill at most `max_at_once` requests can be paid twice.

Rows that wait for another try free their place for others, but the number of open rows is bounded: an outage affects a
bounded number of rows, and memory does not grow with the input. A stop wakes waiting rows.

A row reserves its money before it waits for a place. So each row with a place is under way, and no deadlock can arise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from parquill.tasks.errors import DiskFailed
from parquill.tasks.job.settings import Job
from parquill.tasks.limits.limiter import Permit, RateLimiter, Stopped
from parquill.tasks.limits.open_bytes import OpenBytes
from parquill.tasks.llm.answer_format import AnswerFormat
from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.client import Client, Result
from parquill.tasks.llm.outcomes import TABLE, Money, Retry, Rule
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.prompt_cuts import PromptCuts
from parquill.tasks.llm.retry import backoff_s
from parquill.tasks.llm.settlement import SendRow, Settlement
from parquill.tasks.llm.shard_report import StopReason
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.prices import ModelPrice

# Rows that have begun and have no outcome yet, including those that wait for another try.
MIN_OPEN_ROWS = 1_024
OPEN_ROWS_A_PLACE = 4
# Each unreadable reply may be billed.
MAX_UNREADABLE_OF_A_ROW = 2
# Rows that are passed over during probes of refusals.
MAX_PASSED_ROWS = 1_000
MAX_PASSED_CHARACTERS = 32 << 20

_log = logging.getLogger("parquill.service")


class OverBudget(Exception):
    """The row's worst case does not fit into the budget any more."""


class Sender:
    """Completes rows of one run. Every method runs on its event loop."""

    def __init__(
        self,
        job: Job,
        price: ModelPrice,
        client: Client,
        limits: RateLimiter,
        breaker: Breaker,
        budget: Budget,
        *,
        answer_format: AnswerFormat | None = None,
        may_send: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._clock = client, clock
        self.limits, self.breaker, self.budget = limits, breaker, budget
        self.progress = Progress()
        self._settlement = Settlement(price, budget, self.progress, answer_format, PromptCuts(job.max_output_tokens))
        self.stop_rule: Rule | None = None
        self.stop_message: str | None = None
        self.stopping = False
        self._sleep, self._may_send = sleep, may_send
        self.told: list[str] = []  # warnings about the service, for users who see no log
        self._attempts = job.retry.attempts
        self._patience_s = job.retry.patience_s
        self._row_patience_s = job.retry.timeout_s * job.retry.attempts  # the most that its attempts may take
        breaker.warn, breaker.stop_run = self._warn, self.stop
        self._hold = job.retry.in_doubt == "hold"
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: set[asyncio.Future[None]] = set()
        self._open_bytes = OpenBytes()
        self._open_rows = asyncio.Semaphore(max(MIN_OPEN_ROWS, OPEN_ROWS_A_PLACE * job.limits.max_at_once))

    def _warn(self, text: str) -> None:
        self.told.append(text)
        _log.warning(text)

    async def complete(self, rows: AsyncIterator[SendRow]) -> None:
        """Complete the rows that have no outcome yet, and put their outcomes into the state of their shard.

        Raises DiskFailed or LedgerFailed; after that nothing more is sent for any shard.
        """
        mine: set[asyncio.Task[None]] = set()
        errors: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            mine.discard(task)
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                # promise: C5 an error in any row is kept and ends the run
                errors.append(error)

        try:
            async for row in self._in_turn(rows):
                if self.stopping:
                    break
                task = await self._begin(row)
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
        if errors:
            raise errors[0]

    async def _in_turn(self, rows: AsyncIterator[SendRow]) -> AsyncIterator[SendRow]:
        """Yield the rows without an outcome in order; during probes of refusals, rows from farther on first.

        The rows that were passed over come as soon as the probes are over.
        """
        passed: deque[SendRow] = deque()
        passed_characters = stride = 0
        async for row in self._read(rows):
            if row.number in row.shard.state.outcomes:
                continue
            if self.breaker.is_probing and len(passed) < stride and passed_characters < MAX_PASSED_CHARACTERS:
                passed.append(row)
                passed_characters += len(row.messages)
                continue
            yield row
            if self.breaker.is_probing:
                stride = min(MAX_PASSED_ROWS, 2 * stride + 1)
                continue
            while passed and not self.breaker.is_probing:
                yield passed.popleft()
            passed_characters, stride = sum(len(row.messages) for row in passed), len(passed)
        while passed:
            yield passed.popleft()

    async def _read(self, rows: AsyncIterator[SendRow]) -> AsyncIterator[SendRow]:
        """Yield the rows as they come from the disk. The breaker gives no verdict while a row is being read."""
        while True:
            self.breaker.arrive()
            try:
                row = await anext(rows, None)
            finally:
                self.breaker.depart()
            if row is None:
                return
            yield row

    async def _begin(self, row: SendRow) -> asyncio.Task[None] | None:
        """Begin a row once there is room; None if the row is not sent. Raises Stopped, LedgerFailed."""
        row.state = row.shard.state.rows.setdefault(row.number, row.state)
        if self._hold and row.state.in_doubt_requests:
            message = "it is unknown whether an earlier request was billed; held because of retry.in_doubt: hold"
            await self._settlement.fail(row, TABLE["connection_lost"], message)
            return None
        # promise: M7 attempts of earlier starts count toward the limit
        if row.state.failures >= self._attempts:  # of starts before this one
            rule = TABLE[row.state.last_code or "connection_lost"]
            await self._settlement.fail(row, rule, f"{rule.sentence}; attempts used up")
            return None
        try:
            permit = await self._open(row)
        except OverBudget:
            row.shard.over_budget += 1
            return None
        task = asyncio.create_task(self._complete_row(row, permit))
        task.add_done_callback(lambda _: self._close(row))
        self._tasks.add(task)
        return task

    async def _open(self, row: SendRow) -> Permit:
        """Open a row once few enough are open. Raises OverBudget, Stopped."""
        # promise: service: the number of open rows is bounded
        await self._open_rows.acquire()
        try:
            # promise: input: the sender limits its open rows by their bytes
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

    async def _admit(self, row: SendRow) -> Permit:
        """Reserve the row's worst case, then wait for its turn. Raises OverBudget, Stopped."""
        while True:
            # promise: M1 a request is admitted only if its reservation fits the budget
            if not await self.budget.reserve(row.reserve_nano):
                raise Stopped if self.stopping else OverBudget
            try:
                permit = await self.limits.acquire(row.tokens)
            except BaseException:
                self.budget.release(row.reserve_nano)
                raise
            # promise: M3 a row that waited for a permit checks the budget again
            if not self.budget.is_overdrawn:
                return permit
            # while this row waited, a reply cost more than its reservation: the budget may not cover this row any more
            permit.release()
            self.budget.release(row.reserve_nano)

    async def _complete_row(self, row: SendRow, permit: Permit) -> None:
        """Send a row until it has its outcome."""
        try:
            while (wait_s := await self._attempt(row, permit)) is not None:
                if wait_s:
                    await self._rest(wait_s)
                permit = await self._admit(row)
        except OverBudget:
            row.shard.over_budget += 1
        except Stopped:
            pass
        # promise: C5 an error in one row stops all other sending at once
        except BaseException:
            self.stop()
            raise

    async def _attempt(self, row: SendRow, permit: Permit) -> float | None:
        """Send a row once. Returns the seconds until its next try, or None if it has its outcome."""
        try:
            await self._settlement.record_intent(row)
            await self._check_leader(row)
            began = self._clock()
            result = await self._client.send(row.messages, row.parameters, row.refused)
            self.limits.learn(permit.sent_at, result.headers)
            # promise: refusals: a refused name of the output limit is not charged to a row
            if result.limit_name is not None:
                await self._rename_limit(row, result)
                return 0.0
            if (reply := result.reply) is not None:
                self.limits.gate.on_success()
                self.breaker.answered(permit.sent_at)
                if reply.usage is not None:
                    permit.settle(reply.usage.prompt + reply.usage.completion)
                await self._settlement.settle(row, result.rule, reply, self._clock() - began)
                return None
            is_outage = self._tell_breaker(row, permit.sent_at, result)
            if (failure := result.failure) is not None and failure.usage is not None:
                permit.settle(failure.usage.prompt + failure.usage.completion)
            await self._settlement.record_failure(row, result.rule, failure)
        finally:
            permit.release()
        return await self._after_failure(row, permit, result, is_outage=is_outage)

    async def _rename_limit(self, row: SendRow, result: Result) -> None:
        """Note that only the name of max_output_tokens was refused: it costs no attempt, and is no evidence."""
        row.refused = result
        row.state.failures += 1
        await self._settlement.record_failure(row, result.rule)
        row.uncharge()

    def _tell_breaker(self, row: SendRow, sent_at: float, result: Result) -> bool:
        """Charge a row for its failure. Returns True if the failure is part of an outage and was uncharged again."""
        rule, breaker = result.rule, self.breaker
        row.state.failures += rule.retry is not Retry.THROTTLE
        if rule.retry is Retry.OUTAGE:
            return breaker.failed(row, rule, result.sentence, sent_at)
        if rule.retry is Retry.REFUSAL:
            breaker.refused(row, rule, result.signature, result.sentence, sent_at)
        elif rule.retry is Retry.UNREADABLE:
            row.unreadable += 1
            breaker.unreadable(rule, result.sentence, sent_at)
        return False

    async def _check_leader(self, row: SendRow) -> None:
        """Send nothing once the process that leads the run is gone. Raises Stopped."""
        # promise: C7 a worker sends nothing once its leader is gone
        if not self._may_send():
            # the intent is already on disk; with this failure recorded, no money stays in doubt
            row.state.failures += 1
            # promise: C7 a request held back because the leader is gone leaves no money in doubt
            await self._settlement.record_failure(row, TABLE["connect_error"])
            row.uncharge()
            self.stop()
            raise Stopped

    async def _after_failure(self, row: SendRow, permit: Permit, result: Result, *, is_outage: bool) -> float | None:
        """Apply a failure to its row. Returns the seconds until its next try, or None if it has its outcome."""
        rule = result.rule
        if rule.retry is Retry.THROTTLE:
            return await self._throttle(row, permit, result)
        if rule.retry is Retry.STOP:
            row.uncharge()
            self.stop(rule, result.sentence)
            raise Stopped
        # promise: refusals: a run that refusals stop gives its refused rows no outcome
        if rule.retry is Retry.REFUSAL and not await self.breaker.is_own(Retry.REFUSAL, permit.sent_at):
            row.uncharge()
            raise Stopped
        # promise: A5 a row with an unreadable reply is sent once more at most
        is_final = rule.retry in {Retry.NEVER, Retry.REFUSAL} or row.unreadable >= MAX_UNREADABLE_OF_A_ROW
        if is_final or (self._hold and result.money is Money.IN_DOUBT):
            await self._settlement.fail(row, rule, result.sentence)
            return None
        if (
            not is_outage
            and row.state.failures >= self._attempts
            and (rule.retry is not Retry.OUTAGE or await self.breaker.is_own(Retry.OUTAGE, permit.sent_at))
        ):
            await self._settlement.fail(row, rule, f"{result.sentence}; attempts used up")
            return None
        return result.retry_after if result.retry_after is not None else backoff_s(max(1, row.state.failures))

    async def _throttle(self, row: SendRow, permit: Permit, result: Result) -> float | None:
        """Slow all requests down after a 429, which costs the row no attempt."""
        now, gate = self._clock(), self.limits.gate
        self.progress.throttled += 1
        # promise: service: pauses grow with each wave of 429 replies
        pause = result.retry_after if result.retry_after is not None else backoff_s(gate.waves + 1)
        gate.on_429(now, permit.sent_at, pause)
        # promise: service: a run that meets only 429 replies stops once its patience is used up
        if gate.throttled_s(now) > self._patience_s:
            self.stop(result.rule, result.sentence)
            raise Stopped
        row.throttled_since = now if row.throttled_since is None else row.throttled_since
        # promise: service: a row that is always throttled fails once its patience is used up
        if now - row.throttled_since > self._row_patience_s:  # other rows get through, so it is this row
            await self._settlement.fail(row, result.rule, result.sentence)
            return None
        return 0.0

    async def _rest(self, seconds: float) -> None:
        """Sleep until a row may be tried again. Raises Stopped at once if the run stops in the meantime."""
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

    @property
    def stop_reason(self) -> StopReason | None:
        """Why nothing more is sent; None while the sender sends."""
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

    async def drain(self, grace_s: float) -> None:
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
