"""What the ledger knows of a job's past: the lengths of its answers, and how good its last estimate was."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import orjson
import sqlalchemy as sa

from parquill.tasks.job.settings import Job
from parquill.tasks.money.history import History, LengthStats
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_tables import LENGTHS, RUNS
from parquill.tasks.money.lengths import LengthModel


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
    """Read the past of a job: of runs with the same prompt and output settings. Raises LedgerFailed.

    The run `run_id` is left out of `last`.
    """
    ledger = Ledger()
    try:
        history, runs = read_history(ledger, prompt_digest(job))
        last = ledger.last_run(set(runs) - {run_id})
    finally:
        ledger.close()
    return Past(LengthModel(history, job.max_output_tokens) if history.count else None, last)


def keep_past(job: Job, run_id: str, history: History, finished_at: datetime | None) -> None:
    """Keep the lengths of a run's answers; `finished_at` is None for a run that was stopped. Raises LedgerFailed."""
    ledger = Ledger()
    try:
        keep_history(ledger, run_id, prompt_digest(job), history)
        if finished_at is not None:
            ledger.finish(run_id, finished_at)
    finally:
        ledger.close()


_SUMS = ("count", "total", "squares", "cut", "counted", "prompt", "cached", "cache_write")
RUNS_KEPT = 10  # the latest runs that a prediction looks at


def keep_history(ledger: Ledger, run_id: str, digest: str, history: History) -> None:
    """Keep the lengths of a run's answers in the place of what was kept of it before. Raises LedgerFailed."""
    with ledger.transaction() as connection:
        connection.execute(LENGTHS.delete().where(LENGTHS.c.run_id == run_id))
        rows = [
            {"run_id": run_id, "digest": digest, "class": number}
            | {name: getattr(seen, name) for name in (*_SUMS, "logs", "log_squares")}
            for number, seen in history.classes.items()
        ]
        if rows:
            connection.execute(LENGTHS.insert(), rows)


def read_history(ledger: Ledger, digest: str) -> tuple[History, list[str]]:
    """The lengths of the answers of the latest runs with this digest, and these runs' ids. Raises LedgerFailed."""
    with ledger.transaction() as connection:
        latest = (
            sa.select(LENGTHS.c.run_id)
            .where(LENGTHS.c.digest == digest)
            .group_by(LENGTHS.c.run_id)
            .order_by(LENGTHS.c.run_id.desc())
            .limit(RUNS_KEPT)
        )
        names = [name for (name,) in connection.execute(latest)]
        found = connection.execute(sa.select(LENGTHS).where(LENGTHS.c.run_id.in_(names))).mappings().all()
        done = sa.select(sa.func.count()).where(RUNS.c.run_id.in_(names), RUNS.c.finished_at.is_not(None))
        whole = History(runs=int(connection.execute(done).scalar_one()))
    for row in found:
        sums = {name: int(row[name]) for name in _SUMS}
        seen = LengthStats(**sums, logs=float(row["logs"]), log_squares=float(row["log_squares"]))
        whole.classes.setdefault(int(row["class"]), LengthStats()).merge(seen)
    return whole, names
