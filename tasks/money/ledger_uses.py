"""What each run bought, by day, model, lane and key: the ledger's side of a comparison with the service's own figures.

The books of a run have its money, by the days on which it was leased. These have its requests and tokens too, by the
UTC days on which the requests ended, as services sum them. They are written when a run ends or is given up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from parquill.tasks.money.calendar_months import month_before
from parquill.tasks.money.ledger_accounts import Balance, balance_of, in_month, total_of
from parquill.tasks.money.ledger_database import LedgerDatabase
from parquill.tasks.money.ledger_tables import DAYS, RUNS, USES

IDS_AT_ONCE = 1_000  # databases bound the number of parameters


@dataclass(frozen=True, slots=True)
class BilledUse:
    """What requests of a run came to: money in nano-dollars, tokens as billed.

    `service` is the address of the endpoint, `key` the name of what holds its key, empty without one. `requests` were
    billed.
    """

    day: str
    model: str
    lane: str
    service: str
    key: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    settled_nano: int
    in_doubt_nano: int


class BookedRun(NamedTuple):
    """A run that began or booked money in a month or in the month before it; money in nano-dollars, over all days.

    `month` is what is booked in the month itself.
    """

    run_id: str
    job: str
    services: tuple[str, ...]  # the addresses of its endpoints
    output: str
    state: str
    started_at: str
    is_finished: bool
    settled_nano: int
    in_doubt_nano: int
    submitted_nano: int
    month: Balance


def keep_uses(ledger: LedgerDatabase, run_id: str, uses: Iterable[BilledUse]) -> None:
    """Keep what a run bought; it replaces what was kept of the run before. Raises LedgerFailed."""
    rows = [{"run_id": run_id, "number": number, **asdict(use)} for number, use in enumerate(uses)]
    with ledger.transaction() as connection:
        connection.execute(USES.delete().where(USES.c.run_id == run_id))
        if rows:
            connection.execute(USES.insert(), rows)


def read_uses(ledger: LedgerDatabase, run_ids: Sequence[str]) -> dict[str, list[BilledUse]]:
    """Return what was kept of each of these runs. Raises LedgerFailed."""
    rows: list[Any] = []
    with ledger.transaction() as connection:
        for at in range(0, len(run_ids), IDS_AT_ONCE):
            query = (
                sa.select(USES)
                .where(USES.c.run_id.in_(run_ids[at : at + IDS_AT_ONCE]))
                .order_by(USES.c.run_id, USES.c.number)
            )
            rows += connection.execute(query).mappings().all()
    found: dict[str, list[BilledUse]] = {}
    for row in rows:
        use = BilledUse(**{name: row[name] for name in BilledUse.__slots__})
        found.setdefault(row["run_id"], []).append(use)
    return found


def booked_runs(ledger: LedgerDatabase, month: str, now: datetime) -> list[BookedRun]:
    """Return the runs with requests in a month such as 2026-11, or whose requests may have ended in it.

    Money is booked on the day of its lease, so a request of the first of a month may be booked in the month before.
    Raises LedgerFailed.
    """
    columns = (RUNS.c.run_id, RUNS.c.job, RUNS.c.endpoint, RUNS.c.output, RUNS.c.state, RUNS.c.started_at)
    kinds = (DAYS.c.settled_nano, DAYS.c.in_doubt_nano, DAYS.c.submitted_nano)
    first, end = f"{month_before(month)}-01", f"{month}-32"  # both sort as the days and times of these months do
    near = sa.select(DAYS.c.run_id).where(DAYS.c.day.between(first, end))
    kept = sa.select(USES.c.run_id).where(USES.c.day.between(f"{month}-01", end))
    of_month = [total_of(sa.case((in_month(month), kind), else_=0)) for kind in kinds]
    query = (
        sa.select(*columns, RUNS.c.finished_at, *(total_of(kind).label(kind.name) for kind in kinds), *of_month)
        .join(DAYS, DAYS.c.run_id == RUNS.c.run_id, isouter=True)
        # promise: reconcile: a run that was killed before it reported is compared too
        .where(RUNS.c.started_at.between(first, end) | RUNS.c.run_id.in_(near) | RUNS.c.run_id.in_(kept))
        .group_by(*columns, RUNS.c.finished_at)
        .order_by(RUNS.c.run_id)
    )
    with ledger.transaction() as connection:
        rows = connection.execute(query).all()
        # a finished run has nothing leased
        months = {
            row.run_id: Balance(int(row[-3]), int(row[-2]), int(row[-1]), 0)
            if row.finished_at is not None
            else balance_of(connection, now, run_id=row.run_id, month=month)
            for row in rows
        }
    return [
        BookedRun(
            run_id=row.run_id,
            job=row.job,
            services=tuple(row.endpoint.split()),
            output=row.output,
            state=row.state,
            started_at=row.started_at,
            is_finished=row.finished_at is not None,
            settled_nano=int(row.settled_nano),
            in_doubt_nano=int(row.in_doubt_nano),
            submitted_nano=int(row.submitted_nano),
            month=months[row.run_id],
        )
        for row in rows
    ]
