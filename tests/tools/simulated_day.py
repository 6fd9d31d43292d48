"""A day of a job in simulated time: the real lanes, journals and deadline, and a market that sells completions."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx
import orjson

from parquill.tasks.job.api_key import read_keys
from parquill.tasks.job.load import make_job
from parquill.tasks.limits.shared import SharedLimits
from parquill.tasks.llm.lane import Lane
from parquill.tasks.llm.open_lane import LaneOpener
from parquill.tasks.llm.pace import Pace
from parquill.tasks.llm.shard_report import ShardReport, StopReason
from parquill.tasks.llm.shard_work import ShardWork
from parquill.tasks.money.budget import Budget
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import Outcome
from parquill.tasks.storage.answer_index import AnswerIndex
from parquill.tasks.storage.disk import DISK
from parquill.tasks.storage.folders import Folders
from tests.fakes.batching import START
from tests.fakes.in_process import InProcess
from tests.tasks.llm.simulated import simulate
from tests.tools.direct import job_of

LOOP_START = 1000.0  # of the simulated loop's clock
MODEL = "gpt-6-luna"
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
NO_CAPACITY = {"error": {"message": "Resource unavailable", "type": "server_error", "code": "resource_unavailable"}}
REFUSED = {"error": {"message": "Invalid service_tier argument", "param": "service_tier", "code": "invalid_value"}}
HOUR_S = 3_600.0


class Inline(Executor):
    """Runs each call at once, since the simulated loop does not wait for threads."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """See Executor."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:  # noqa: BLE001 - the caller gets it
            future.set_exception(error)
        return future


class SimulatedService(httpx.AsyncBaseTransport):
    """A service, or several, in the simulated time of a day."""

    passed_s = 0.0  # before this simulation
    sent: dict[str, list[float]]  # the times of the requests to each host, where a service notes them

    def most_in_a_minute(self, host: str) -> int:
        """Return the most requests to a host in any minute."""
        times = self.sent[host]
        return max(sum(begin <= time < begin + 60 for time in times) for begin in times)

    @property
    def now(self) -> float:
        """Seconds since the start of the day."""
        return self.passed_s + asyncio.get_running_loop().time() - LOOP_START

    def begin(self, started_at: float) -> None:
        """Begin the day of a run that was planned at `started_at`, in seconds since 1970."""


@dataclass
class Market(SimulatedService):
    """Sells completions: batches of a strict Batch API, flex as long as it has capacity, and live.

    `flex_s` and `live_s` return the latency of a request that comes at a second of the day; None is no capacity.
    """

    seed: int
    flex_s: Callable[[random.Random, float], float | None]
    live_s: Callable[[random.Random, float], float | None] = lambda draw, _: draw.lognormvariate(0.5, 0.4)
    batch: dict[str, Any] | None = None
    refuses_flex: bool = False

    def __post_init__(self) -> None:
        self.service = InProcess(clock_start=START, seed=self.seed, batch=self.batch or {})
        self.draw = random.Random(self.seed)
        self.sold: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self._now = 0.0

    def begin(self, started_at: float) -> None:
        """See SimulatedService."""
        self.service.advance(started_at - self.service.advance(0))  # one time for all

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        now = self.now
        self.service.advance(now - self._now)
        self._now = now
        if request.url.path != "/v1/chat/completions":
            return await self.service.handle_async_request(request)
        body = orjson.loads(await request.aread())
        tier = "flex" if body.get("service_tier") == "flex" else "default"
        self.asked[tier] += 1
        if tier == "flex" and self.refuses_flex:
            return httpx.Response(400, content=orjson.dumps(REFUSED), request=request)
        latency_s = self.flex_s(self.draw, now) if tier == "flex" else self.live_s(self.draw, now)
        if latency_s is None:
            await asyncio.sleep(0.3)
            return httpx.Response(429, content=orjson.dumps(NO_CAPACITY), request=request)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(latency_s)
        self.at_once -= 1
        self.sold[tier] += 1
        text = f"answer to {body['messages'][-1]['content']}"
        reply = {
            "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
            "usage": USAGE,
            "service_tier": tier,
        }
        return httpx.Response(200, content=orjson.dumps(reply), request=request)


S = TypeVar("S", bound=SimulatedService)


class Day(Generic[S]):
    """One run of a job with a deadline over some rows, from its start to its end."""

    def __init__(self, folder: Path, market: S, rows: int, *, budget_nano: int | None = None, **job: Any) -> None:
        self.market, self.budget = market, Budget(budget_nano)
        endpoint = {"base_url": InProcess.url, "allow_http": True, "api_key_env": None}
        own = {} if "endpoints" in job else {"endpoint": endpoint}
        given = {"model": MODEL, "lane": "auto", "max_output_tokens": 40, **own, **job}
        settings = job_of(folder, [f"text {number}" for number in range(rows)], InProcess.url, **given)
        resolved, options = resolve_job(make_job(settings), None, None, ())
        Folders.of(resolved.output, resolved.state).create(DISK)
        run = prepare_run(resolved, options)
        assert run is not None
        self.run: Run = run
        market.begin(run.started_at.timestamp())
        self.reports: dict[int, ShardReport] = {}
        self.seconds = 0.0  # since the start of the day
        self.warnings: list[str] = []
        self.stop: StopReason | None = None

    def pass_by(self, until_s: float | None = None) -> Day[S]:
        """Complete the run, or stop this start of it after so many seconds."""
        simulate(self._complete(until_s))
        return self

    async def _complete(self, until_s: float | None) -> None:
        loop, start = asyncio.get_running_loop(), self.run.started_at.timestamp() + self.seconds
        pace = Pace(asyncio.sleep, lambda: start + loop.time() - LOOP_START, asyncio.sleep, loop.time)
        executor = Inline()
        in_executor = loop.run_in_executor
        # simulated time would pass while a thread works, so every call is made at once
        loop.run_in_executor = lambda _, *call: in_executor(executor, *call)  # type: ignore[method-assign]

        async def call(function: Callable[..., Any], *arguments: Any) -> Any:
            return function(*arguments)

        shared = [SharedLimits(self.run, job.limits, call) for job in self.run.job.each_endpoint]
        keys = read_keys(self.run.job)
        opener = LaneOpener(
            self.run, keys, self.market, self.budget, shared, executor, DISK, pace, lambda: True, leads=True
        )
        lane = opener.open()
        answers = AnswerIndex(self.run.folders.state)
        answers.add_run(self.run.run_id, self.run.job.output)
        work = ShardWork(self.run, lane, answers, executor, DISK)
        ending = asyncio.create_task(self._end(lane, until_s))
        shards = [shard for shard in self.run.shards if not self.run.is_done(shard)]
        while shards:
            reports = await asyncio.gather(*(work.complete(shard) for shard in shards))
            self.reports |= {report.number: report for report in reports}
            ready = await lane.wait([report for report in self.reports.values() if report.waiting])
            shards = [shard for shard in self.run.shards if shard.number in (ready or ())]
        self.seconds += loop.time() - LOOP_START
        self.market.passed_s = self.seconds
        self.warnings += lane.warnings
        self.stop = lane.stop_reason
        ending.cancel()
        lane.stop()
        answers.close()

    @staticmethod
    async def _end(lane: Lane, until_s: float | None) -> None:
        if until_s is not None:
            await asyncio.sleep(until_s)
            lane.stop()

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of all rows."""
        return [each for shard in self.run.shards for each in self.run.state(shard.number).outcomes.values()]

    @property
    def lanes(self) -> Counter[str | None]:
        """How many rows were bought in each lane."""
        return Counter(outcome.lane for outcome in self.outcomes)
