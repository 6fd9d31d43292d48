"""Opens the lane of a run: the live lane, which also serves flex, or the batch lane."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

import httpx

from parquill.tasks.job.api_key import Key
from parquill.tasks.limits.limiter import RateLimiter
from parquill.tasks.limits.open_files import cap_by_open_files
from parquill.tasks.limits.shared import SharedLimits
from parquill.tasks.llm.answer_format import AnswerFormat
from parquill.tasks.llm.batch_lane import BatchLane
from parquill.tasks.llm.batch_service import BatchService
from parquill.tasks.llm.breaker import Breaker
from parquill.tasks.llm.client import Client
from parquill.tasks.llm.live_lane import LiveLane
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.prompt_cuts import PromptCuts
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.reply_reader import ReplyReader
from parquill.tasks.llm.settlement import Settlement
from parquill.tasks.llm.tier_check import TierCheck
from parquill.tasks.money.budget import Budget
from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.disk import Disk


def open_live_lane(
    run: Run,
    key: Key | None,
    wire: httpx.AsyncBaseTransport,
    budget: Budget,
    shared: SharedLimits,
    may_send: Callable[[], bool],
) -> LiveLane:
    """Return the lane that sends each request by itself. Call this on its event loop.

    A run whose lane is batch sends its pilot in this way, at the standard price.
    """
    job = run.job
    if job.lane == "batch":
        job = job.model_copy(update={"lane": "live"})
    # promise: limits: concurrent requests are capped by the limit of open files
    at_once = cap_by_open_files(job.limits.max_at_once)
    if at_once < job.limits.max_at_once:
        shared.log(
            logging.WARNING,
            f"this process may not open enough files (`ulimit -n`) for limits.max_at_once = "
            f"{job.limits.max_at_once:,}; it sends at most {at_once:,} requests at once",
        )
    breaker = Breaker(at_once, patience_s=job.retry.patience_s, clock=time.monotonic)
    limits = RateLimiter(
        at_once,
        requests_per_minute=shared.per_minute["requests"],
        tokens_per_minute=shared.per_minute["tokens"],
        actual_output=job.limits.count_output == "actual",
        # promise: shared limits: the lane sends each request against a shared lease
        leased=shared.meters,
        brake=breaker,
        clock=time.monotonic,
        sleep=asyncio.sleep,
    )
    settlement = _settlement(run, budget, are_submitted=False)
    return LiveLane(job, Client(job, key, wire), limits, breaker, settlement, may_send=may_send)


def open_batch_lane(
    run: Run,
    key: Key | None,
    wire: httpx.AsyncBaseTransport,
    budget: Budget,
    executor: Executor,
    disk: Disk,
    sleep: Callable[[float], Awaitable[None]],
    now: Callable[[], float],
    *,
    is_abandoned: bool,
    leads: bool,
) -> BatchLane:
    """Return the lane that sends requests in batches. Call this on its event loop. Raises DiskFailed.

    The process that leads the run removes files of requests and replies that a killed process left.
    """
    if leads:
        for pattern in ("*.jsonl", "*.results"):
            for path in (run.folder.path / "batches").glob(pattern):
                # promise: S3 files of a batch that a killed process left are removed
                path.unlink(missing_ok=True)
    api = APIS[run.job.endpoint.api](run.job)
    service = BatchService(run.job.endpoint, key, wire)
    settlement = _settlement(run, budget, are_submitted=True)
    reader = ReplyReader(run.job, api, key)
    return BatchLane(
        run, api, reader, service, settlement, executor, disk=disk, sleep=sleep, now=now, is_abandoned=is_abandoned
    )


def _settlement(run: Run, budget: Budget, *, are_submitted: bool) -> Settlement:
    job, schema = run.job, run.job.response_format
    done = sum(shard.to_send for shard in run.shards if run.is_done(shard))
    is_single = job.lane == "batch" and not are_submitted
    return Settlement(
        run.price,
        budget,
        Progress(total=run.estimate.to_send, done=done, done_before=done),
        AnswerFormat(schema) if schema is not None else None,
        PromptCuts(job.max_output_tokens),
        # promise: M1 a request of a batch job that is sent by itself reserves the standard price
        TierCheck(run.price, job.max_output_tokens, sent_at="" if is_single else None),
        are_submitted=are_submitted,
    )
