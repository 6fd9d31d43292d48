"""Opens the lane of a run: single requests in one lane or two, batches, or batches and single requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import httpx

from parquill.tasks.job.key import Key
from parquill.tasks.job.lanes import TIERS, LaneName
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.job.settings import MAX_PATIENCE_S
from parquill.tasks.limits.limiter import Places, RateLimiter
from parquill.tasks.limits.open_files import cap_by_open_files
from parquill.tasks.limits.shared import SharedLimits
from parquill.tasks.llm.answer_format import AnswerFormat
from parquill.tasks.llm.auto_lane import CANCELLATION_S, AutoLane
from parquill.tasks.llm.batch_lane import BatchLane
from parquill.tasks.llm.batch_service import BatchService
from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.by_weight import ByWeight
from parquill.tasks.llm.channel import Channel
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.deadline import Deadline
from parquill.tasks.llm.lane import Lane
from parquill.tasks.llm.live_lane import LiveLane
from parquill.tasks.llm.pace import Pace
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.prompt_cuts import PromptCuts
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.reply_reader import ReplyReader
from parquill.tasks.llm.route import InTime, OneChannel, Route
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.spare_money import SpareMoney
from parquill.tasks.llm.tier_check import TierCheck
from parquill.tasks.money.budget import Budget
from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.disk import Disk


@dataclass(frozen=True, slots=True)
class LaneOpener:
    """Opens lanes of one run, on the event loop that they live on.

    `keys` and `shared` are those of each endpoint of the job. `may_send` is asked before each single request. `leads`
    is whether this process leads the run. Of an abandoned run only the batches are collected.
    """

    run: Run
    keys: Sequence[Key | None]
    wire: httpx.AsyncBaseTransport
    budget: Budget
    shared: Sequence[SharedLimits]
    executor: Executor
    disk: Disk
    pace: Pace
    may_send: Callable[[], bool]
    leads: bool
    is_abandoned: bool = False

    def open(self, lane: LaneName | None = None) -> Lane:
        """Open a lane, by default as the job's `lane` says. Raises DiskFailed."""
        is_auto = lane is None and self.run.finish_at is not None and not self.is_abandoned
        name = lane or self.run.lane
        settlement = self._settlement(name)
        if name != "batch":
            return self._single(name, settlement, is_auto=is_auto)
        batches = self._batches(settlement)
        return self._in_time(batches, settlement) if is_auto else batches

    def _single(self, name: LaneName, settlement: Settlement, *, is_auto: bool) -> LiveLane:
        """Return the lane that sends each request by itself; if `is_auto`, late ones at the standard price."""
        if self.run.job.endpoints is not None:
            return self._live_lane(self._by_weight(name, settlement))
        if not is_auto:
            breaker, limits = self._limits(name)
            return self._live_lane(OneChannel(self._channel(name, limits, breaker, settlement)))
        breaker, limits = self._limits("live")
        live = self._channel("live", limits, breaker, settlement.at(self._tiers("live")))
        own = self._breaker(name, cap_by_open_files(self.run.job.limits.max_at_once))
        cheap = self._channel(name, limits.beside(own), own, settlement, patience_s=MAX_PATIENCE_S)
        timeout_s = self.run.job.in_lane(name).retry.timeout_s
        deadline = self._deadline(limits, lambda: settlement.progress.left, cheap_timeout_s=timeout_s)
        spare = SpareMoney(self.budget, settlement.progress, self.run.estimate)
        return self._live_lane(InTime(cheap, live, deadline, spare, self.pace.clock))

    def _by_weight(self, name: LaneName, settlement: Settlement) -> ByWeight:
        """Return the route to several endpoints: each has its own key, limits, breaker and price."""
        job, channels = self.run.job, []
        at_once = self._at_once(job.limits.max_at_once)
        places = Places(at_once)
        for index, (each, label) in enumerate(zip(job.each_endpoint, job.labels_of_endpoints, strict=True)):
            price = self.run.price.at_endpoint(index)
            tiers = TierCheck(price, job.max_output_tokens, is_planned=False)
            own = settlement.at_endpoint(label, price, tiers, PromptCuts(job.max_output_tokens))
            breaker, limits = self._limits(name, index, each, places, f"the endpoint {label}")
            # promise: S1 each of several endpoints gets its own key
            client = Client(each.in_lane(name), self.keys[index], self.wire)
            channels.append(Channel(each.in_lane(name), client, limits, breaker, own, clock=self.pace.clock))
        return ByWeight(channels, [each.weight for each in job.endpoints or ()], at_once, self.pace.clock)

    def _in_time(self, batches: BatchLane, settlement: Settlement) -> AutoLane:
        breaker, limits = self._limits("live")
        channel = self._channel("live", limits, breaker, settlement.at(self._tiers("live")))
        deadline = self._deadline(
            limits, lambda: settlement.progress.left - batches.open.rows_done, cheap_tail_s=CANCELLATION_S
        )
        return AutoLane(batches, self._live_lane, channel, deadline, self.pace.now)

    def _live_lane(self, route: Route) -> LiveLane:
        pace = self.pace
        return LiveLane(self.run.job, route, may_send=self.may_send, clock=pace.clock, sleep=pace.nap)

    def _at_once(self, wanted: int) -> int:
        """Return how many requests this process may send at once; says so if these are fewer than wanted."""
        # promise: limits: concurrent requests are capped by the limit of open files
        at_once = cap_by_open_files(wanted)
        if at_once < wanted:
            self.shared[0].log(
                logging.WARNING,
                f"this process may not open enough files (`ulimit -n`) for limits.max_at_once = {wanted:,}; it sends "
                f"at most {at_once:,} requests at once",
            )
        return at_once

    def _limits(
        self,
        name: LaneName,
        index: int = 0,
        job: ResolvedJob | None = None,
        places: Places | None = None,
        service: str = "the service",
    ) -> tuple[Breaker, RateLimiter]:
        """Return breaker and limits of the job, or of one of its endpoints, which share the places."""
        limits, shared = (job or self.run.job).limits, self.shared[index]
        at_once = limits.max_at_once if places is not None else self._at_once(limits.max_at_once)
        breaker = self._breaker(name, at_once, service)
        return breaker, RateLimiter(
            at_once,
            requests_per_minute=shared.per_minute["requests"],
            tokens_per_minute=shared.per_minute["tokens"],
            actual_output=limits.count_output == "actual",
            # promise: shared limits: the lane sends each request against a shared lease
            leased=shared.meters,
            brake=breaker,
            clock=self.pace.clock,
            sleep=self.pace.nap,
            places=places,
        )

    def _breaker(self, name: LaneName, at_once: int, service: str = "the service") -> Breaker:
        patience_s = self.run.job.in_lane(name).retry.patience_s
        return Breaker(at_once, patience_s=patience_s, clock=self.pace.clock, service=service)

    def _channel(
        self,
        name: LaneName,
        limits: RateLimiter,
        breaker: Breaker,
        settlement: Settlement,
        *,
        patience_s: float | None = None,
    ) -> Channel:
        job = self.run.job.in_lane(name)
        if patience_s is not None:
            # promise: lanes: with finish_by, rows wait for capacity until it is time for the live lane
            job = job.model_copy(update={"retry": job.retry.model_copy(update={"patience_s": patience_s})})
        client = Client(job, self.keys[0], self.wire)
        return Channel(job, client, limits, breaker, settlement, clock=self.pace.clock)

    def _deadline(self, limits: RateLimiter, left: Callable[[], int], **tail: float) -> Deadline:
        assert self.run.finish_at is not None  # noqa: S101 - `open` has looked
        return Deadline(
            self.run.finish_at.timestamp(),
            self.run.job.in_lane("live"),
            self.run.estimate,
            left,
            lambda: limits.announced,
            self.pace.now,
            **tail,
        )

    def _batches(self, settlement: Settlement) -> BatchLane:
        """Return the lane that sends requests in batches.

        The process that leads the run removes files of requests and replies that a killed process left.
        """
        if self.leads:
            for pattern in ("*.jsonl", "*.results"):
                for path in (self.run.folder.path / "batches").glob(pattern):
                    # promise: S3 files of a batch that a killed process left are removed
                    path.unlink(missing_ok=True)
        job = self.run.job.in_lane("batch")
        api = APIS[job.endpoint.api](job)
        return BatchLane(
            self.run,
            api,
            ReplyReader(job, api, self.keys[0]),
            BatchService(job.endpoint, self.keys[0], self.wire),
            settlement,
            self.executor,
            disk=self.disk,
            sleep=self.pace.sleep,
            now=self.pace.now,
            is_abandoned=self.is_abandoned,
        )

    def _settlement(self, name: LaneName) -> Settlement:
        run, schema = self.run, self.run.job.response_format
        done = sum(shard.to_send for shard in run.shards if run.is_done(shard))
        return Settlement(
            run.price,
            self.budget,
            Progress(total=run.estimate.to_send, done=done, done_before=done),
            AnswerFormat(schema) if schema is not None else None,
            PromptCuts(run.job.max_output_tokens),
            self._tiers(name),
            endpoint=run.job.endpoint.label,
            are_submitted=name == "batch",
        )

    def _tiers(self, name: LaneName) -> TierCheck:
        # promise: M1 a request of a batch job that is sent by itself reserves the standard price
        sent_at = TIERS[name]
        price = self.run.price
        return TierCheck(price, self.run.job.max_output_tokens, sent_at=None if sent_at == price.asked else sent_at)
