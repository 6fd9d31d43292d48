"""Limits a minute that runs share under a name, kept in the ledger: SQLite for one machine, PostgreSQL for several.

A holder is one process of one run. It leases units (requests or tokens) in one transaction, and sends them within
LEASE_S. What arrives at the service in a minute was therefore leased within `WINDOW_S + LEASE_S + GUARD_S`. In any such
time the ledger leases no more than the limit, for any number of holders, the first minute included. It leases evenly,
by the meter that paces a process without shared limits (`RateMeter`). A holder gives back what it did not use in time.

The holder that waits longest is served first, so small requests never starve a large one. A holder that does not ask
again in time loses its turn. What a dead holder leased counts for a minute, like every lease.

The limit of a name is the smallest that a run under way sets. A process needs its own clock only to know when a lease
ends. The ledger's clock is that of the database; with SQLite it is the machine's, which cannot be set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from parquill.tasks.limits.meters import GUARD_S, WINDOW_S, RateMeter
from parquill.tasks.money.ledger_database import LedgerDatabase
from parquill.tasks.money.ledger_tables import RATE_HOLDERS, RATE_LEASES, RATES
from parquill.tasks.storage.boot_clock import seconds_since_boot

LEASE_S: Final = 1.5  # 60 of 61.75 seconds: 97 % of a limit can be used
HOLDER_EXPIRY_S: Final = 60.0  # a holder that is silent for so long sets no limit any more
CLAIM_S: Final = 0.3  # how late a holder may come back without losing its turn
MIN_WAIT_S: Final = 0.02
MAX_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class RateHolder:
    """A process of a run that shares one limit, `per_minute` as its job sets it, and its largest request in units."""

    name: str
    dimension: str  # requests, tokens
    holder: str
    run_id: str
    job: str
    host: str
    per_minute: int | None
    largest: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a name: the limit a minute, None if no run sets one; and the largest request of any run."""

    per_minute: int | None
    largest: int


@dataclass(frozen=True, slots=True)
class RateLease:
    """The answer to a holder: the units leased, 0 for none, and then the seconds after which to ask again."""

    terms: Terms
    units: int
    wait_s: float = 0.0


class RateLedger(LedgerDatabase):
    """The shared limits in the ledger. Every method raises LedgerFailed, nothing of it done or (rarely) all."""

    def __init__(self, url: sa.URL | str | None = None, *, clock: Callable[[], float] = seconds_since_boot) -> None:
        """`clock` is that of an SQLite ledger; PostgreSQL has its own."""
        # after a power cut no process is left that could use what was leased
        super().__init__(url, is_durable=False)
        self._clock = clock

    def lease(self, holder: RateHolder, units: int, number: int, unused: Sequence[tuple[int, int]] = ()) -> RateLease:
        """Let a holder have `units` under its own count `number`, or say when to ask.

        They may be used until LEASE_S after the call began. With 0 units a holder enters, and learns what holds.
        `unused` are (number, units) of its leases that ended. A call whose answer was lost costs what it leased.
        """
        with self.transaction() as connection:
            now = self._read_clock(connection)
            state = self._state(connection, holder, now)
            level = state.level + self._give_back(connection, holder, unused)
            me, others = self._enter(connection, holder, now)
            terms = _terms([me, *others])
            if terms.per_minute is None or units == 0:
                return RateLease(terms, units)
            meter = self._meter(connection, holder, terms.per_minute, state, level, now)
            wait_s = _wait_s(meter, now, units, _ahead_of(me, others, now))
            if wait_s > 0:
                claim = {"wanted": units, "waits_since_s": me.since_s(now), "claim_until_s": now + wait_s + CLAIM_S}
                connection.execute(RATE_HOLDERS.update().where(_is(RATE_HOLDERS, holder)).values(**claim))
                self._save(connection, holder, meter, now)
                return RateLease(terms, 0, wait_s)
            meter.take(now, units)
            self._save(connection, holder, meter, now)
            lease = {"number": number, "leased_s": now, "units": units}
            connection.execute(RATE_LEASES.insert().values(**_key(holder), holder=holder.holder, **lease))
            if me.wanted:
                connection.execute(RATE_HOLDERS.update().where(_is(RATE_HOLDERS, holder)).values(wanted=0))
            return RateLease(terms, units)

    def leave(self, holder: RateHolder, unused: Sequence[tuple[int, int]]) -> None:
        """Give back what was not used, and share no more."""
        with self.transaction() as connection:
            self._give_back(connection, holder, unused)
            connection.execute(RATE_HOLDERS.delete().where(_is(RATE_HOLDERS, holder)))

    def holders(self) -> list[dict[str, Any]]:
        """Who shares what: rows of {name, dimension, run_id, job, host, per_minute, waits, units}.

        `units` are what it leased in the last minute, `waits` what it waits for now.
        """
        leased = sa.func.coalesce(sa.func.sum(RATE_LEASES.c.units), 0)
        columns = [RATE_HOLDERS.c[name] for name in ("name", "dimension", "run_id", "job", "host", "per_minute")]
        same = [RATE_LEASES.c[name] == RATE_HOLDERS.c[name] for name in ("name", "dimension", "holder")]
        with self.transaction() as connection:
            now = self._read_clock(connection)
            recent = RATE_LEASES.c.leased_s.between(now - WINDOW_S, now)
            query = (
                sa.select(*columns, sa.func.max(RATE_HOLDERS.c.wanted).label("waits"), leased.label("units"))
                .select_from(RATE_HOLDERS.outerjoin(RATE_LEASES, sa.and_(*same, recent)))
                .where(RATE_HOLDERS.c.seen_s.between(now - HOLDER_EXPIRY_S, now))
                .group_by(*columns, RATE_HOLDERS.c.holder)
                .order_by(*columns)
            )
            return [dict(row) for row in connection.execute(query).mappings()]

    def _read_clock(self, connection: sa.Connection) -> float:
        if self.is_sqlite:
            return self._clock()
        return float(connection.execute(sa.text("SELECT EXTRACT(EPOCH FROM clock_timestamp())")).scalar_one())

    def _state(self, connection: sa.Connection, holder: RateHolder, now: float) -> Any:
        """The row of the limit, which is made if it is missing."""
        this = sa.select(RATES).where(_of_name(RATES, holder))
        row = connection.execute(this).first()
        if row is None:
            connection.execute(RATES.insert().values(**_key(holder), level=0.0, began_s=now, updated_s=now))
        # promise: shared limits: a clock that restarts delays requests by one minute at most
        elif row.updated_s > now:
            # The clock begins again when the machine does. What lies in its future happened now: so it counts longest.
            for table, times in _TIMES.items():
                connection.execute(table.update().where(_of_name(table, holder)).values(dict.fromkeys(times, now)))
        else:
            return row
        return connection.execute(this).one()

    @staticmethod
    def _give_back(connection: sa.Connection, holder: RateHolder, unused: Sequence[tuple[int, int]]) -> int:
        for number, units in unused:
            this = sa.and_(_is(RATE_LEASES, holder), RATE_LEASES.c.number == number)
            connection.execute(RATE_LEASES.update().where(this).values(units=RATE_LEASES.c.units - units))
        return sum(units for _, units in unused)

    @staticmethod
    def _enter(connection: sa.Connection, holder: RateHolder, now: float) -> tuple[_Row, list[_Row]]:
        """Note that a holder is there; gives its row, and those of the others that are. The silent ones are removed."""
        rows = connection.execute(sa.select(RATE_HOLDERS).where(_of_name(RATE_HOLDERS, holder))).all()
        values = {"per_minute": holder.per_minute, "largest": holder.largest, "seen_s": now}
        me, others = None, []
        for row in rows:
            found = _Row(row.holder, row.per_minute, row.largest, row.wanted, row.waits_since_s, row.claim_until_s)
            if row.holder == holder.holder:
                me = found
                connection.execute(RATE_HOLDERS.update().where(_is(RATE_HOLDERS, holder)).values(**values))
            # promise: shared limits: the limit of a dead holder no longer applies
            elif row.seen_s >= now - HOLDER_EXPIRY_S:
                others.append(found)
            else:
                gone = sa.and_(_of_name(RATE_HOLDERS, holder), RATE_HOLDERS.c.holder == row.holder)
                connection.execute(RATE_HOLDERS.delete().where(gone))
        if me is None:
            me = _Row(holder.holder, holder.per_minute, holder.largest, 0, now, now)
            about = {"holder": holder.holder, "run_id": holder.run_id, "job": holder.job, "host": holder.host}
            nothing = {"wanted": 0, "waits_since_s": now, "claim_until_s": now}
            connection.execute(RATE_HOLDERS.insert().values(**_key(holder), **about, **values, **nothing))
        return me, others

    @staticmethod
    def _meter(
        connection: sa.Connection, holder: RateHolder, limit: int, state: Any, level: float, now: float
    ) -> RateMeter:
        """The meter as it was; leases that do not count any more are removed."""
        columns = RATE_LEASES.c.leased_s, RATE_LEASES.c.units
        query = sa.select(*columns).where(_of_name(RATE_LEASES, holder)).order_by(RATE_LEASES.c.leased_s)
        leases = [(row.leased_s, row.units) for row in connection.execute(query)]
        # promise: shared limits: a lease is dropped only once it no longer counts
        gone = now - WINDOW_S - LEASE_S - GUARD_S
        if leases and leases[0][0] <= gone:
            old = sa.and_(_of_name(RATE_LEASES, holder), RATE_LEASES.c.leased_s <= gone)
            connection.execute(RATE_LEASES.delete().where(old))
        # a lease may be used until its end
        # promise: shared limits: a lease counts for its lifetime plus one minute
        taken = [(leased_s + LEASE_S, units) for leased_s, units in leases if leased_s > gone]
        return RateMeter.restored(limit, level=level, began=state.began_s, updated=state.updated_s, taken=taken)

    @staticmethod
    def _save(connection: sa.Connection, holder: RateHolder, meter: RateMeter, now: float) -> None:
        connection.execute(RATES.update().where(_of_name(RATES, holder)).values(level=meter.level, updated_s=now))


_TIMES: Final = {
    RATES: ("began_s", "updated_s"),
    RATE_HOLDERS: ("seen_s", "waits_since_s", "claim_until_s"),
    RATE_LEASES: ("leased_s",),
}


@dataclass(frozen=True, slots=True)
class _Row:
    """A holder as the ledger has it."""

    holder: str
    per_minute: int | None
    largest: int
    wanted: int
    waits_since_s: float
    claim_until_s: float

    def waits(self, now: float) -> bool:
        """Whether it wants something, and comes for it."""
        return self.wanted > 0 and self.claim_until_s >= now

    def since_s(self, now: float) -> float:
        """When its turn began."""
        return self.waits_since_s if self.waits(now) else now


def _key(holder: RateHolder) -> dict[str, str]:
    return {"name": holder.name, "dimension": holder.dimension}


def _of_name(table: sa.Table, holder: RateHolder) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.name == holder.name, table.c.dimension == holder.dimension)


def _is(table: sa.Table, holder: RateHolder) -> sa.ColumnElement[bool]:
    return sa.and_(_of_name(table, holder), table.c.holder == holder.holder)


def _terms(rows: Sequence[_Row]) -> Terms:
    limits = [row.per_minute for row in rows if row.per_minute is not None]
    # promise: shared limits: the smallest limit under one name applies to all jobs
    return Terms(min(limits, default=None), max(row.largest for row in rows))


def _ahead_of(me: _Row, others: Sequence[_Row], now: float) -> int:
    """Units that others want who have waited longer."""
    mine = me.since_s(now), me.holder
    # promise: shared limits: the holder that has waited longest comes first
    return sum(row.wanted for row in others if row.waits(now) and (row.waits_since_s, row.holder) < mine)


def _wait_s(meter: RateMeter, now: float, units: int, ahead: int) -> float:
    """Seconds after which a holder is to ask again for `units`, 0 if it may have them now."""
    wait_s = meter.wait_s(now, units)
    if ahead and (wait_s > 0 or not meter.has_room_beside(now, ahead, units)):
        wait_s = meter.wait_s(now, ahead + units)
        return min(MAX_WAIT_S, max(MIN_WAIT_S, wait_s))
    return min(MAX_WAIT_S, wait_s)


def describe(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of `RateLedger.holders` for people, a line each."""
    lines = []
    for row in rows:
        limit = "no limit of its own" if row["per_minute"] is None else f"{row['per_minute']:,} a minute"
        waits = f", waits for {row['waits']:,}" if row["waits"] else ""
        lines.append(
            f"{row['name']} {row['dimension']}: run {row['run_id']} of {row['job']} on {row['host']}, {limit}, "
            f"{row['units']:,} leased in the last minute{waits}"
        )
    return lines
