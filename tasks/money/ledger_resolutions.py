"""What a person has resolved of a run's money in doubt, and what was lost with a journal.

A journal is never changed: a request whose fate is unknown stays in doubt there forever. So the ledger keeps each
answer of `spend --resolve`, and applies it to the journals' figures whenever the run starts again. Every function runs
in a transaction that its caller has begun.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from parquill.tasks.money.ledger_accounts import total_of
from parquill.tasks.money.ledger_tables import RESOLUTIONS

PAID, UNPAID = "paid", "unpaid"
# settled once, but in no journal, for example after the journals were restored from a backup
LOST = "lost"


class Resolved(NamedTuple):
    """Nano-dollars of one run: what was in doubt and resolved as paid or unpaid, and what was lost with a journal."""

    paid_nano: int
    unpaid_nano: int
    lost_nano: int

    def apply(self, settled_nano: int, in_doubt_nano: int) -> tuple[int, int]:
        """Return (settled, in doubt) of a run, given the figures of its journals."""
        return settled_nano + self.paid_nano, in_doubt_nano + self.lost_nano - self.paid_nano - self.unpaid_nano


def keep(connection: sa.Connection, run_id: str, kind: str, amount_nano: int) -> None:
    """Record an amount of a run as PAID, UNPAID or LOST."""
    latest = sa.select(sa.func.max(RESOLUTIONS.c.number)).where(RESOLUTIONS.c.run_id == run_id)
    number = (connection.execute(latest).scalar() or 0) + 1
    new = {"run_id": run_id, "number": number, "kind": kind, "amount_nano": amount_nano}
    connection.execute(RESOLUTIONS.insert().values(new))


def settled_by_hand(connection: sa.Connection, run_id: str) -> int:
    """Nano-dollars of a run that are booked as settled because a person resolved them as paid."""
    mine = sa.and_(RESOLUTIONS.c.run_id == run_id, RESOLUTIONS.c.kind == PAID)
    return int(connection.execute(sa.select(total_of(RESOLUTIONS.c.amount_nano)).where(mine)).scalar_one())


def resolved(connection: sa.Connection, run_id: str, in_doubt_nano: int, *, correct: bool = False) -> Resolved:
    """Return what was resolved of a run whose journals have `in_doubt_nano` nano-dollars in doubt.

    Never more than is in doubt: the whole lease of a dead process was resolved, but only the journals know how much of
    it was in doubt. With `correct` the ledger keeps the smaller amount, so that it does not cover later doubts.
    """
    mine = RESOLUTIONS.c.run_id == run_id
    rows = connection.execute(sa.select(RESOLUTIONS).where(mine).order_by(RESOLUTIONS.c.number)).all()
    sums = {PAID: 0, UNPAID: 0, LOST: sum(row.amount_nano for row in rows if row.kind == LOST)}
    left = in_doubt_nano + sums[LOST]
    for row in rows:
        if row.kind == LOST:
            continue
        amount = min(row.amount_nano, left)
        left -= amount
        sums[row.kind] += amount
        # promise: M5 a resolved lease does not cover money that is in doubt later
        if correct and amount != row.amount_nano:
            this = sa.and_(mine, RESOLUTIONS.c.number == row.number)
            connection.execute(RESOLUTIONS.update().where(this).values(amount_nano=amount))
    return Resolved(sums[PAID], sums[UNPAID], sums[LOST])
