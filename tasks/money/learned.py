"""What the ledger keeps of counted and reported prompt tokens, by model, endpoint and encoding."""

from __future__ import annotations

import sqlalchemy as sa

from parquill.tasks.job.settings import Job
from parquill.tasks.money.correction import Calibration, RegressionSums
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_tables import COUNTS
from parquill.tasks.money.tokens import encoding_of

RUNS_BACK = 30  # so that a reply that was wrong once is forgotten some day


def read_calibration(job: Job) -> Calibration | None:
    """What the latest runs at a job's endpoint teach; None where the count is exact or nothing is known.

    Raises BadJob for an unknown tokenizer, LedgerFailed.
    """
    encoding, exact = encoding_of(job.model, job.tokenizer)
    if exact:
        return None
    about = [getattr(COUNTS.c, name) == value for name, value in _about(job, encoding).items()]
    latest = sa.select(COUNTS.c.run_id).where(*about).distinct().order_by(COUNTS.c.run_id.desc()).limit(RUNS_BACK)
    ledger = Ledger()
    try:
        with ledger.transaction() as connection:
            names = [name for (name,) in connection.execute(latest)]
            rows = connection.execute(sa.select(COUNTS).where(COUNTS.c.run_id.in_(names))).mappings().all()
    finally:
        ledger.close()
    classes: dict[int, RegressionSums] = {}
    for row in rows:
        found = RegressionSums(*(row[name] for name in RegressionSums.__slots__))
        classes.setdefault(row["class"], RegressionSums()).merge(found)
    return Calibration.learn(classes)


def keep_counts(job: Job, run_id: str, classes: dict[int, RegressionSums]) -> None:
    """Keep what a run's answers teach in the place of what was kept of it before. Raises LedgerFailed."""
    encoding, exact = encoding_of(job.model, job.tokenizer)
    if exact:
        return
    about = {"run_id": run_id, **_about(job, encoding)}
    rows = [
        {**about, "class": number, **{name: getattr(tally, name) for name in RegressionSums.__slots__}}
        for number, tally in classes.items()
    ]
    ledger = Ledger()
    try:
        with ledger.transaction() as connection:
            connection.execute(COUNTS.delete().where(COUNTS.c.run_id == run_id))
            if rows:
                connection.execute(COUNTS.insert(), rows)
    finally:
        ledger.close()


def _about(job: Job, encoding: str) -> dict[str, str]:
    """What a service's count depends on: each API wraps a prompt in another way."""
    endpoint = job.endpoint.identity
    return {"model": job.model, "endpoint": endpoint, "api": job.endpoint.api, "encoding": encoding}
