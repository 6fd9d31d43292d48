"""Results and a summary that were made by no run, for tests of what is shown of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from parquill.tasks.records import STATUSES
from parquill.tasks.storage.columns import result_fields

RUN = "20261128-030000-ab12"
START = datetime(2026, 11, 28, 3, tzinfo=UTC)


def result_row(number: int, **changes: Any) -> dict[str, Any]:
    """Return one row that is ok; `changes` are by column, without prefix."""
    ended = {
        "completion": f"answer {number}",
        "status": "ok",
        "completion_tokens": number + 1,
        "cost_usd": Decimal(number + 1).scaleb(-9),
        "in_doubt_usd": Decimal(0),
        "reused": False,
        "run_id": RUN,
        "latency_s": (number + 1) / 10,
        "source_file": "in.parquet",
        "row_number": number,
        "finished_at": START + timedelta(seconds=number),
    }
    return {"id": f"r{number}", "text": f"text {number}", "language": "fr", **ended, **changes}


def failed_row(number: int, code: str = "bad_request", **changes: Any) -> dict[str, Any]:
    """Return one row without an answer."""
    ended = {"completion": None, "status": "failed", "error_code": code, "error_message": "the service refused it"}
    paid = {"completion_tokens": None, "cost_usd": Decimal(0), "latency_s": None}
    return result_row(number, **{**ended, **paid, **changes})


def table_of(rows: Iterable[Mapping[str, Any]], prefix: str = "", given: pa.Schema | None = None) -> pa.Table:
    """Return rows as a table of results; the input's columns are `id`, `text` and `language`, or `given`."""
    own = {field.name: field.with_name(prefix + field.name) for field in result_fields(None)}
    first = given if given is not None else pa.schema([(name, pa.string()) for name in ("id", "text", "language")])
    schema = pa.schema([*first, *own.values()])
    listed = [{prefix + name if name in own else name: value for name, value in row.items()} for row in rows]
    return pa.Table.from_pylist(listed, schema=schema)


def summary_of(table: pa.Table, **changes: Any) -> dict[str, Any]:
    """Return a summary that fits the rows."""
    statuses = table.column("status").to_pylist()
    codes = [code for code in table.column("error_code").to_pylist() if code is not None]
    cost = str(sum(table.column("cost_usd").to_pylist(), Decimal(0)))
    return {
        "run_id": RUN,
        "state": "finished",
        "exit_code": 5 if codes else 0,
        "message": "some rows are not ok" if codes else None,
        "job": "shop",
        "model": "gpt-4o-mini",
        "rows": {"total": len(statuses), **{name: statuses.count(name) for name in STATUSES}, "reused": 0},
        "tokens": {"prompt": 100, "cached": 0, "cache_write": 0, "completion": 50, "reasoning": 0},
        "estimate": {
            "basis": "history",
            **{f"cost_usd_{name}": cost for name in ("expected", "low", "high", "p90", "worst")},
        },
        "cost_usd": cost,
        "paid_usd": cost,
        **dict.fromkeys(("in_doubt_usd", "over_reserved_usd", "saved_usd"), "0.000000000"),
        "budget": {"run_usd": "1"},
        "requests": {"sent": len(statuses), "retried": 0, "throttled": 0, "in_doubt": 0},
        "duration_s": 12.5,
        "errors": {code: codes.count(code) for code in dict.fromkeys(codes)},
        "groups": {},
        "started_at": START.isoformat(),
        "finished_at": (START + timedelta(seconds=12)).isoformat(),
        **changes,
    }
