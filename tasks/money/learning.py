"""What the ledger keeps of earlier runs to predict the next one.

Per job and prompt it keeps the lengths of the answers, and how good the last estimate was. Per model, endpoint and
encoding it keeps counted and reported prompt tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import orjson
import sqlalchemy as sa

from parquill.tasks.job.settings import Job
from parquill.tasks.money.calibration import Calibration, RegressionSums
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_tables import COUNTS, LENGTHS, RUNS
from parquill.tasks.money.ledger_uses import BilledUse, keep_uses
from parquill.tasks.money.length_model import LengthModel
from parquill.tasks.money.length_stats import History, LengthStats
from parquill.tasks.money.tokens import encoding_of


@dataclass(frozen=True, slots=True)
class Past:
    """`lengths` is None without history; `last` is (expected, settled) nano-dollars of the latest finished run."""

    lengths: LengthModel | None = None
    last: tuple[int, int] | None = None


def prompt_digest(job: Job) -> str:
    """The digest of what answer lengths depend on besides the input's length: job, model, prompt, output settings."""
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
    """Read the past of a job, from runs with the same prompt and output settings. Raises LedgerFailed.

    The run `run_id` is left out of `last`.
    """
    with Ledger() as ledger:
        history, runs = read_history(ledger, prompt_digest(job))
        last = ledger.last_run(set(runs) - {run_id})
    return Past(LengthModel(history, job.max_output_tokens) if history.count else None, last)


def keep_past(
    job: Job, run_id: str, history: History, finished_at: datetime | None, uses: Iterable[BilledUse] | None = None
) -> None:
    """Keep the lengths of a run's answers, and what it bought if that is known.

    `finished_at` is None for a run that was stopped. Raises LedgerFailed.
    """
    with Ledger() as ledger:
        keep_history(ledger, run_id, prompt_digest(job), history)
        if uses is not None:
            keep_uses(ledger, run_id, uses)
        if finished_at is not None:
            ledger.finish(run_id, finished_at)


_SUMS = ("count", "total", "squares", "cut", "counted", "prompt", "cached", "cache_write", "timed")
_FLOATS = ("logs", "log_squares", "seconds")
RUNS_KEPT = 10  # the number of latest runs that a prediction uses


def keep_history(ledger: Ledger, run_id: str, digest: str, history: History) -> None:
    """Keep the lengths of a run's answers; they replace what was kept of the run before. Raises LedgerFailed."""
    with ledger.transaction() as connection:
        connection.execute(LENGTHS.delete().where(LENGTHS.c.run_id == run_id))
        rows = [
            {"run_id": run_id, "digest": digest, "class": number}
            | {name: getattr(seen, name) for name in (*_SUMS, *_FLOATS)}
            for number, seen in history.classes.items()
        ]
        if rows:
            connection.execute(LENGTHS.insert(), rows)


def read_history(ledger: Ledger, digest: str) -> tuple[History, list[str]]:
    """Return the answer lengths of the latest runs with this digest, and the ids of these runs. Raises LedgerFailed."""
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
        seen = LengthStats(**sums)
        for name in _FLOATS:
            setattr(seen, name, float(row[name]))
        whole.classes.setdefault(int(row["class"]), LengthStats()).merge(seen)
    return whole, names


RUNS_BACK = 30  # so that a reply with wrong usage is forgotten after a while


def read_calibration(job: Job) -> Calibration | None:
    """Return what the latest runs at a job's endpoint teach; None if the count is exact or nothing is known.

    Raises BadJob for an unknown tokenizer, LedgerFailed.
    """
    encoding, exact = encoding_of(job.model, job.tokenizer)
    if exact:
        return None
    about = [getattr(COUNTS.c, name) == value for name, value in _about(job, encoding).items()]
    latest = sa.select(COUNTS.c.run_id).where(*about).distinct().order_by(COUNTS.c.run_id.desc()).limit(RUNS_BACK)
    with Ledger() as ledger, ledger.transaction() as connection:
        names = [name for (name,) in connection.execute(latest)]
        rows = connection.execute(sa.select(COUNTS).where(COUNTS.c.run_id.in_(names))).mappings().all()
    classes: dict[int, RegressionSums] = {}
    for row in rows:
        found = RegressionSums(*(row[name] for name in RegressionSums.__slots__))
        classes.setdefault(row["class"], RegressionSums()).merge(found)
    return Calibration.learn(classes)


def keep_counts(job: Job, run_id: str, classes: dict[int, RegressionSums]) -> None:
    """Keep what a run's answers teach; it replaces what was kept of the run before. Raises LedgerFailed."""
    encoding, exact = encoding_of(job.model, job.tokenizer)
    if exact:
        return
    about = {"run_id": run_id, **_about(job, encoding)}
    rows = [
        {**about, "class": number, **{name: getattr(tally, name) for name in RegressionSums.__slots__}}
        for number, tally in classes.items()
    ]
    with Ledger() as ledger, ledger.transaction() as connection:
        connection.execute(COUNTS.delete().where(COUNTS.c.run_id == run_id))
        if rows:
            connection.execute(COUNTS.insert(), rows)


def _about(job: Job, encoding: str) -> dict[str, str]:
    """Return what a service's token count depends on; each API wraps a prompt differently."""
    endpoint = job.endpoint.identity
    return {"model": job.model, "endpoint": endpoint, "api": job.endpoint.api, "encoding": encoding}
