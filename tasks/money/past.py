"""What the ledger knows of a job's past: the lengths of its answers, and how good its last estimate was."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import orjson

from parquill.tasks.job import Job
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.lengths import History, LengthModel


@dataclass(frozen=True, slots=True)
class Past:
    """`lengths` is None without history; `last` is (expected, settled) nano-dollars of the latest finished run."""

    lengths: LengthModel | None = None
    last: tuple[int, int] | None = None


def prompt_digest(job: Job) -> str:
    """What the length of an answer depends on, beside the input's length: job, model, prompt and output settings."""
    named = job.model_dump(
        mode="json",
        include={
            "name",
            "model",
            "prompt",
            "messages_column",
            "parameters",
            "response_format",
            "max_output_tokens",
        },
    )
    return hashlib.sha256(orjson.dumps(named, option=orjson.OPT_SORT_KEYS)).hexdigest()


def read_past(job: Job, run_id: str | None = None) -> Past:
    """Read the past of a job, its run `run_id` left out of `last`. Raises LedgerFailed."""
    ledger = Ledger()
    try:
        history = ledger.history(prompt_digest(job))
        last = ledger.last_run(job.name, run_id)
    finally:
        ledger.close()
    return Past(LengthModel(history, job.max_output_tokens) if history.count else None, last)


def keep_past(job: Job, run_id: str, history: History, finished_at: datetime | None) -> None:
    """Keep the lengths of a run's answers; `finished_at` is None for a run that was stopped. Raises LedgerFailed."""
    ledger = Ledger()
    try:
        ledger.learn(run_id, prompt_digest(job), history)
        if finished_at is not None:
            ledger.finish(run_id, finished_at)
    finally:
        ledger.close()
