"""What a person has said of a run's money in doubt, and what the ledger knows of it that no journal tells.

A journal never says less than it said: a request whose fate is unknown stays in doubt there for good. So the ledger
keeps each answer of `spend --resolve`, and takes it off what the journals say whenever the run starts again.
Everything here is part of a transaction that its caller has begun.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from parquill.tasks.money.ledger_accounts import total_of
from parquill.tasks.money.ledger_tables import RESOLUTIONS

PAID, UNPAID = "paid", "unpaid"
# settled once, and in no journal: those of a backup were restored, say
LOST = "lost"


class Resolved(NamedTuple):
    """Nano-dollars of one run: of what is in doubt, what was found paid and unpaid; what was lost with a journal."""

    paid: int
    unpaid: int
    lost: int

    def apply(self, settled: int, in_doubt: int) -> tuple[int, int]:
        """(settled, in doubt) of a run whose journals say this."""
        return settled + self.paid, in_doubt + self.lost - self.paid - self.unpaid


def keep(connection: sa.Connection, run_id: str, kind: str, amount_nano: int) -> None:
    """Note an amount of a run: PAID, UNPAID or LOST."""
    latest = sa.select(sa.func.max(RESOLUTIONS.c.number)).where(RESOLUTIONS.c.run_id == run_id)
    number = (connection.execute(latest).scalar() or 0) + 1
    new = {"run_id": run_id, "number": number, "kind": kind, "amount_nano": amount_nano}
    connection.execute(RESOLUTIONS.insert().values(new))


def settled_by_hand(connection: sa.Connection, run_id: str) -> int:
    """Nano-dollars of a run that are booked as settled since a person said so."""
    mine = sa.and_(RESOLUTIONS.c.run_id == run_id, RESOLUTIONS.c.kind == PAID)
    return int(connection.execute(sa.select(total_of(RESOLUTIONS.c.amount_nano)).where(mine)).scalar_one())


def resolved(connection: sa.Connection, run_id: str, in_doubt: int, *, correct: bool = False) -> Resolved:
    """What was resolved of a run whose journals have `in_doubt` nano-dollars in doubt.

    Never more than there is: what a dead process had leased was resolved whole, and its journals know how much of it
    was in doubt. With `correct` that is what is kept from now on; a doubt that comes later is another one.
    """
    mine = RESOLUTIONS.c.run_id == run_id
    rows = connection.execute(sa.select(RESOLUTIONS).where(mine).order_by(RESOLUTIONS.c.number)).all()
    sums = {PAID: 0, UNPAID: 0, LOST: sum(row.amount_nano for row in rows if row.kind == LOST)}
    left = in_doubt + sums[LOST]
    for row in rows:
        if row.kind == LOST:
            continue
        amount = min(row.amount_nano, left)
        left -= amount
        sums[row.kind] += amount
        if correct and amount != row.amount_nano:
            this = sa.and_(mine, RESOLUTIONS.c.number == row.number)
            connection.execute(RESOLUTIONS.update().where(this).values(amount_nano=amount))
    return Resolved(sums[PAID], sums[UNPAID], sums[LOST])
