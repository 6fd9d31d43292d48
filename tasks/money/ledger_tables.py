"""The ledger's tables. Amounts are whole nano-dollars (Numeric would be binary in SQLite), days and months UTC."""

from __future__ import annotations

import sqlalchemy as sa

VERSION = 6
METADATA = sa.MetaData()

RUNS = sa.Table(
    "parquill_runs",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("job", sa.String(200), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),  # the addresses of all endpoints
    sa.Column("labels", sa.Text, nullable=False),  # JSON
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("host", sa.String(200), nullable=False),
    sa.Column("expected_nano", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.String(40), nullable=False),
    sa.Column("finished_at", sa.String(40)),
)
DAYS = sa.Table(
    "parquill_days",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True, index=True),
    sa.Column("settled_nano", sa.BigInteger, nullable=False),
    sa.Column("in_doubt_nano", sa.BigInteger, nullable=False),
    # reserved for requests that wait at the service, by the day of the reservation; it has no holder and never expires
    sa.Column("submitted_nano", sa.BigInteger, nullable=False),
)
USES = sa.Table(  # see money.ledger_uses: what the requests of a run came to
    "parquill_uses",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("day", sa.String(10), nullable=False, index=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("lane", sa.String(10), nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("key", sa.String(200), nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("settled_nano", sa.BigInteger, nullable=False),
    sa.Column("in_doubt_nano", sa.BigInteger, nullable=False),
)
HOLDERS = sa.Table(  # a row per process that spends for a run, until the run is opened again
    "parquill_holders",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(100), primary_key=True),
    # what it reported in total, so that a repeated report is booked once; see `ledger_accounts.Spending`
    sa.Column("settled_nano", sa.BigInteger, nullable=False),
    sa.Column("in_doubt_nano", sa.BigInteger, nullable=False),
    sa.Column("submitted_nano", sa.BigInteger, nullable=False),
    sa.Column("collected_settled_nano", sa.BigInteger, nullable=False),
    sa.Column("collected_in_doubt_nano", sa.BigInteger, nullable=False),
    sa.Column("collected_released_nano", sa.BigInteger, nullable=False),
    sa.Column("renewed_at", sa.String(40), nullable=False),
)
LEASES = sa.Table(  # what a holder may still spend, by month: what was leased in a month is booked in it
    "parquill_leases",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(100), primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True, index=True),
    sa.Column("day", sa.String(10), nullable=False),  # of the latest slice
    sa.Column("amount_nano", sa.BigInteger, nullable=False),  # never negative
)
RESOLUTIONS = sa.Table(  # see money.ledger_resolutions: what a person has resolved of a run, in order of the answers
    "parquill_resolutions",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String(8), nullable=False),
    sa.Column("amount_nano", sa.BigInteger, nullable=False),
)
LENGTHS = sa.Table(  # see money.length_stats: statistics of a run's answers, to predict those of the next run
    "parquill_lengths",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("class", sa.Integer, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("squares", sa.Numeric(30, 0), nullable=False),
    sa.Column("cut", sa.BigInteger, nullable=False),
    sa.Column("logs", sa.Float, nullable=False),
    sa.Column("log_squares", sa.Float, nullable=False),
    sa.Column("counted", sa.BigInteger, nullable=False),
    sa.Column("prompt", sa.BigInteger, nullable=False),
    sa.Column("cached", sa.BigInteger, nullable=False),
    sa.Column("cache_write", sa.BigInteger, nullable=False),
    sa.Column("timed", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)
COUNTS = sa.Table(  # see money.calibration: counted and reported prompt tokens of a run's answers
    "parquill_counts",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("class", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(200), nullable=False, index=True),
    sa.Column("endpoint", sa.String(500), nullable=False),
    sa.Column("api", sa.String(20), nullable=False),
    sa.Column("encoding", sa.String(40), nullable=False),
    sa.Column("answers", sa.BigInteger, nullable=False),
    sa.Column("counted", sa.BigInteger, nullable=False),
    sa.Column("reported", sa.BigInteger, nullable=False),
    sa.Column("squares", sa.Float, nullable=False),
    sa.Column("products", sa.Float, nullable=False),
    sa.Column("excess", sa.BigInteger, nullable=False),
)
RATES = sa.Table(  # see limits.rate_ledger: how evenly a shared limit was used; times are seconds of the ledger's clock
    "parquill_rates",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("dimension", sa.String(10), primary_key=True),
    sa.Column("level", sa.Float, nullable=False),
    sa.Column("began_s", sa.Float, nullable=False),
    sa.Column("updated_s", sa.Float, nullable=False),
)
RATE_HOLDERS = sa.Table(  # a row per process that shares a limit
    "parquill_rate_holders",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("dimension", sa.String(10), primary_key=True),
    sa.Column("holder", sa.String(100), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("job", sa.String(200), nullable=False),
    sa.Column("host", sa.String(200), nullable=False),
    sa.Column("per_minute", sa.BigInteger),  # the limit as its job sets it
    sa.Column("largest", sa.BigInteger, nullable=False),  # units of its largest request
    sa.Column("seen_s", sa.Float, nullable=False),
    sa.Column("wanted", sa.BigInteger, nullable=False),  # units that it waits for, 0 for none
    sa.Column("waits_since_s", sa.Float, nullable=False),
    sa.Column("claim_until_s", sa.Float, nullable=False),  # when it loses its turn unless it asks again
)
RATE_LEASES = sa.Table(  # units that were leased in the last minute and not given back
    "parquill_rate_leases",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("dimension", sa.String(10), primary_key=True),
    sa.Column("holder", sa.String(100), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),  # the holder's own count
    sa.Column("leased_s", sa.Float, nullable=False),
    sa.Column("units", sa.BigInteger, nullable=False),
)
META = sa.Table(
    "parquill_meta", METADATA, sa.Column("name", sa.String(40), primary_key=True), sa.Column("value", sa.String(200))
)
