"""The batch lane: hands requests to the service in batches, and collects their replies within a day.

A shard passes through the lane several times: once to submit its rows, and again each time that one of its batches has
ended (`batch_pass`). Between two passes nothing of it is in memory: its journal has every step, so another process,
hours later, continues in the same way.

Only one shard passes at a time. So one input file and the places of one shard's replies are held, however large the
run is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Final

from parquill.tasks.errors import DiskFailed
from parquill.tasks.limits.limiter import Stopped
from parquill.tasks.llm.attempts import Attempts
from parquill.tasks.llm.batch_calls import BatchCalls
from parquill.tasks.llm.batch_collector import BatchCollector
from parquill.tasks.llm.batch_pass import BatchPass
from parquill.tasks.llm.batch_records import BatchTools
from parquill.tasks.llm.batch_service import BatchRefused, BatchService
from parquill.tasks.llm.open_batches import OpenBatches
from parquill.tasks.llm.outcomes import Rule
from parquill.tasks.llm.protocol import Api
from parquill.tasks.llm.reply_reader import ReplyReader
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.shard_report import ShardReport, StopReason, Waiting
from parquill.tasks.llm.token_quota import TokenQuota
from parquill.tasks.llm.unit import Unit, Units
from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.disk import DISK, Disk, private_folder, read_json

FIRST_LOOK_S: Final = 1.0
MAX_LOOK_S: Final = 900.0
LOOKS_GROW_BY: Final = 1.3
LIMIT_NAME: Final = "limit_name.json"
_log = logging.getLogger("parquill.service")


class BatchLane:
    """Completes units of one run by batches. Every method runs on its event loop."""

    def __init__(
        self,
        run: Run,
        api: Api,
        reader: ReplyReader,
        service: BatchService,
        settlement: Settlement,
        executor: Executor,
        *,
        disk: Disk = DISK,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        is_abandoned: bool = False,
    ) -> None:
        """`now` is in seconds since 1970. Of an abandoned run only the batches are collected. Raises DiskFailed."""
        job, folder = run.job, private_folder(run.folder.path / "batches", disk)
        self.budget, self.progress = settlement.budget, settlement.progress
        self.warnings: list[str] = []
        self.stopping = False
        self._folder, self._sleep, self._is_abandoned = folder, sleep, is_abandoned
        self._run, self._executor, self._passed = run, executor, set[int]()
        self._refusal: StopReason | None = None
        self._turn, self._over = asyncio.Lock(), asyncio.Event()
        # with `lane: auto`: whether open rows take another lane, and what happens between two looks
        self.moves: Callable[[], bool] = lambda: False
        self.between_looks: Callable[[float], Awaitable[float]] = _as_long
        self._api, self._disk = api, disk
        attempts = Attempts(job, settlement)
        self.open = OpenBatches(service, now, folder / "cancelled.json", disk)
        self._tools = BatchTools(
            run_id=run.run_id,
            folder=folder,
            api=api,
            reader=reader,
            request_path=service.request_path(api.path),
            room=job.max_output_tokens,
            budget=self.budget,
            attempts=attempts,
            collector=BatchCollector(api, settlement, attempts, self._refuse, self._rename),
            calls=BatchCalls(service, job.retry.patience_s, self.rest, now),
            quota=TokenQuota(job.limits.batch_tokens, folder / "quota.json", disk),
            open=self.open,
            executor=executor,
            now=now,
            warn=self.warn,
            refuse=self._refuse,
            may_submit=self._may_submit,
        )
        settlement.tiers.warn = self.warn
        api.limit = (read_json(folder / LIMIT_NAME) or {}).get("limit", api.limit)  # as an earlier start learned it

    def _may_submit(self) -> bool:
        is_possible = not self.stopping and self._refusal is None and not self._is_abandoned
        return is_possible and not self.moves()

    def warn(self, text: str) -> None:
        """Tell people something about the service."""
        self.warnings.append(text)
        _log.warning(text)

    async def complete(self, units: Units) -> None:
        """Collect the batches of a shard that have ended, and submit the rows that are open.

        What the shard then waits for is in its `waiting`. Raises DiskFailed, LedgerFailed; after that nothing more is
        sent for any shard.
        """
        try:
            async with self._turn:
                await self._pass(units())
        except Stopped:
            pass
        except BatchRefused as refused:  # of a look or a download: without them nothing can be collected
            self.stop(refused.rule, refused.sentence)
        except OSError as error:
            self.stop()
            raise DiskFailed(f"cannot write into {self._folder}: {error.strerror}") from None
        except BaseException:
            self.stop()
            raise

    async def _pass(self, units: AsyncIterator[Unit]) -> None:
        first = await anext(units, None)
        if first is None:
            return
        shard = first.steps[0].shard
        visit = BatchPass(self._tools, shard)
        self._passed.add(visit.number)
        try:
            await visit.complete(first, units)
        finally:
            shard.waiting = [
                Waiting(batch.batch_id) for batch in shard.state.batches.values() if batch.batch_id is not None
            ]
            if visit.needs_room:
                shard.waiting.append(Waiting())

    async def wait(self, reports: Sequence[ShardReport], stay_s: float | None = None) -> set[int] | None:
        """Wait until shards can continue, and return their numbers; none if no batch is left, or the run stops.

        Returns None if nothing has changed after `stay_s` seconds.
        """
        pause_s, waited_s = FIRST_LOOK_S, 0.0
        while not self.stopping:
            for_room = {r.number for r in reports if any(each.batch_id is None for each in r.waiting)}
            batches = {each.batch_id: r.number for r in reports for each in r.waiting if each.batch_id is not None}
            moves = self.moves()
            for_room = for_room if moves or self._may_submit() else set()
            if not batches or (moves and for_room):
                return for_room
            try:
                ended = {number for batch_id, number in batches.items() if await self.open.has_ended(batch_id)}
                if ended:
                    return ended | for_room
                if stay_s is not None and waited_s >= stay_s:
                    return None
                rest_s = await self.between_looks(pause_s)
                await self.rest(rest_s)
            except Stopped:
                break
            except BatchRefused as refused:
                self.stop(refused.rule, refused.sentence)
                break
            waited_s += rest_s
            pause_s = min(MAX_LOOK_S, pause_s * LOOKS_GROW_BY)
        return set()

    async def look(self) -> None:
        """Ask the service how the batches are; stop if it answers no look any more. Raises Stopped."""
        try:
            await self.open.look()
        except BatchRefused as refused:
            self.stop(refused.rule, refused.sentence)
            raise Stopped from None

    @property
    def is_refused(self) -> bool:
        """Whether the service makes no more batches, although the run does not stop."""
        return self._refusal is not None and not self.stopping

    @property
    def announced(self) -> Mapping[str, tuple[int | None, int | None]]:
        """See Lane: these headers say nothing of batches."""
        return {}

    @property
    def due_at(self) -> None:
        """See Lane: a look at any later time will do."""

    async def cancel(self) -> None:
        """Cancel the batches that are at the service. Raises DiskFailed."""
        await self.open.cancel_open()

    async def rest(self, seconds: float) -> None:
        """Sleep. Raises Stopped at once if the run stops in the meantime."""
        if not self.stopping:
            sleeping, over = asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._over.wait())
            try:
                await asyncio.wait([sleeping, over], return_when=asyncio.FIRST_COMPLETED)
                if sleeping.done():
                    sleeping.result()
            finally:
                sleeping.cancel()
                over.cancel()
        if self.stopping:
            raise Stopped

    def _rename(self, limit_name: str) -> None:
        """Use the name under which the service wants max_output_tokens, also in later starts of the run."""
        if self._api.limit != limit_name:
            self._api.limit = limit_name
            self._disk.write_own(self._folder / LIMIT_NAME, {"limit": limit_name})
            self.warn(f"the service expects max_output_tokens as {limit_name}; set endpoint.limit_name to save a batch")

    def _refuse(self, rule: Rule, message: str) -> None:
        """Submit nothing more, because of the service; what is at the service is still collected."""
        if self._refusal is None:
            self._refusal = StopReason(rule.code, message)
            self.warn(f"no more batches are submitted: {message}")

    @property
    def waiting_for(self) -> str | None:
        """What the run waits for, for people."""
        return self.open.sentence

    @property
    def stop_reason(self) -> StopReason | None:
        """Why nothing more is sent; None while the lane sends."""
        return self._refusal if self._refusal is not None or not self.stopping else StopReason()

    def stop(self, rule: Rule | None = None, message: str | None = None) -> None:
        """Submit nothing more, and end all waiting. `rule` and `message` are set if the service is why."""
        self.stopping = True
        if rule is not None and self._refusal is None:
            self._refusal = StopReason(rule.code, message or rule.sentence)
        self.budget.stop()
        self._over.set()

    async def drain(self, grace_s: float, *, cancels: bool = True) -> set[int]:
        """Stop, cancel the batches, and return the shards of those that have ended within `grace_s` seconds.

        Without `cancels` the batches go on, for the next start to collect.
        """
        self.stop()
        if not cancels:
            return set()
        # promise: C7 a stop cancels batches of earlier starts, also before it has looked at them
        await self._note_unseen()
        return await self.open.cancel_all(grace_s, self._sleep)

    async def _note_unseen(self) -> None:
        """Note the batches of earlier starts whose shards have not passed yet: a stop cancels them too."""
        in_executor = asyncio.get_running_loop().run_in_executor
        for ref in self._run.shards:
            if ref.number in self._passed:
                continue
            for batch in await in_executor(self._executor, self._run.batches_of, ref):
                if batch.batch_id is not None:
                    self.open.note(ref.number, batch.batch_id, batch, "not seen yet")


async def _as_long(pause_s: float) -> float:
    return pause_s
