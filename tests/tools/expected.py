"""The expected results, by the contract and the service's own counts, computed without the product's code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import rfc8785

from tests.fakes.running import FakeService
from tests.tools.jobs import Done

USD = pa.decimal128(18, 9)
STATUSES = ("ok", "truncated", "invalid", "refused", "failed", "rejected", "not_sent")
TOKENS = ("prompt", "cached", "cache_write", "completion", "reasoning")
# Dollars for a million tokens: input, cached input, output.
PRICES = {
    "gpt-4o-mini": (Decimal("0.15"), Decimal("0.075"), Decimal("0.60")),
    "gpt-4o": (Decimal("2.50"), Decimal("1.25"), Decimal("10.00")),
    "o4-mini": (Decimal("1.10"), Decimal("0.275"), Decimal("4.40")),
    "gpt-3.5-turbo-instruct": (Decimal("1.50"), Decimal("1.50"), Decimal("2.00")),
}
# The columns of the contract, in its order; with a response_format, `parsed` comes after `completion`.
COLUMNS: dict[str, pa.DataType] = {
    "completion": pa.string(),
    "status": pa.string(),
    "error_code": pa.string(),
    "error_message": pa.string(),
    "finish_reason": pa.string(),
    "model_used": pa.string(),
    "request_id": pa.string(),
    "prompt_tokens": pa.int64(),
    "cached_tokens": pa.int64(),
    "cache_write_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "reasoning_tokens": pa.int64(),
    "estimated_prompt_tokens": pa.int64(),
    "cost_usd": USD,
    "in_doubt_usd": USD,
    "lane": pa.string(),
    "endpoint": pa.string(),
    "reused": pa.bool_(),
    "run_id": pa.string(),
    "attempts": pa.int32(),
    "latency_s": pa.float64(),
    "request_key": pa.string(),
    "source_file": pa.string(),
    "row_number": pa.int64(),
    "finished_at": pa.timestamp("us", tz="UTC"),
}
SUMMARY_KEYS = {
    "rows": {"total", *STATUSES, "reused"},
    "tokens": set(TOKENS),
    "estimate": {
        "prompt_tokens",
        "completion_tokens_expected",
        "cost_usd_expected",
        "cost_usd_low",
        "cost_usd_high",
        "cost_usd_moved_expected",
        "cost_usd_moved_worst",
        "cost_usd_p90",
        "cost_usd_worst",
        "duration_s",
        "basis",
    },
    "budget": {"run_usd", "month_usd_before", "month_usd_after"},
    "requests": {"sent", "retried", "throttled", "in_doubt", "submitted"},
    "prices": {"source", "version"},
}
SUMMARY_NAMES = {
    *SUMMARY_KEYS,
    *("run_id", "state", "exit_code", "job", "model", "labels", "cost_usd", "in_doubt_usd", "saved_usd"),
    *("submitted_usd", "over_reserved_usd", "duration_s", "started_at", "finished_at", "lanes", "endpoints"),
    "cache",
}


def exact_usd(tokens: Sequence[int], prices: Sequence[Decimal]) -> Decimal:
    """Return the dollars for (prompt, cached, completion) tokens; cached ones are part of the prompt."""
    prompt, cached, completion = tokens[:3]
    full, reduced, output = prices
    return ((prompt - cached) * full + cached * reduced + completion * output) / 1_000_000


def row_usd(tokens: Sequence[int], prices: Sequence[Decimal]) -> Decimal:
    """Return the cost of one answer, rounded once to nine decimals."""
    return exact_usd(tokens, prices).quantize(Decimal("1e-9"), ROUND_HALF_EVEN)


def billed_usd(service: FakeService, model: str = "gpt-4o-mini") -> Decimal:
    """Return what the service billed so far; exact for models with whole nano-dollar prices per token."""
    tokens = service.stats()["billed_tokens"]
    return exact_usd([tokens[name] for name in ("prompt", "cached", "completion")], PRICES[model])


def reserved_usd(prompt_tokens: int, output: int = 50, model: str = "gpt-4o-mini") -> Decimal:
    """Return the worst case of a request: nothing cached, all output used."""
    return exact_usd((prompt_tokens, 0, output), PRICES[model])


def total(values: Iterable[Any]) -> Decimal:
    return sum((value for value in values if value is not None), Decimal(0))


def request_key(settings: Mapping[str, Any], messages: list[dict[str, Any]], **more: Any) -> str:
    """Return the key as DESIGN.md defines it."""
    whole = {
        "v": 1,
        "endpoint": settings["endpoint"].get("name") or settings["endpoint"]["base_url"],
        "api": settings["endpoint"].get("api", "chat"),
        "model": settings["model"],
        "max_output_tokens": settings["max_output_tokens"],
        "parameters": settings.get("parameters", {}),
        "response_format": settings.get("response_format"),
        "messages": messages,
        **more,
    }
    return hashlib.sha256(rfc8785.dumps(whole)).hexdigest()


def check_books(done: Done, prefix: str = "") -> None:
    """Compare a run's summary with its rows: counts, tokens and money, to the last digit."""
    rows = [{name.removeprefix(prefix): value for name, value in row.items()} for row in done.rows]
    summary = done.summary
    assert summary["rows"]["total"] == len(rows)
    for status in STATUSES:
        assert summary["rows"][status] == sum(row["status"] == status for row in rows), status
    assert summary["rows"]["reused"] == sum(row["reused"] for row in rows)
    mine = [row for row in rows if row["run_id"] == summary["run_id"]]
    assert Decimal(summary["cost_usd"]) == total(row["cost_usd"] for row in mine)
    assert Decimal(summary["in_doubt_usd"]) == total(row["in_doubt_usd"] for row in mine)
    for kind in TOKENS:
        assert summary["tokens"][kind] == sum(row[f"{kind}_tokens"] or 0 for row in mine), kind
    for name in ("cost_usd", "in_doubt_usd", "over_reserved_usd", "saved_usd"):
        assert re.fullmatch(r"\d+\.\d{9}", summary[name]), name
    endpoints = summary["endpoints"].values()
    assert all(summary["endpoints"])  # each has a label
    assert Decimal(summary["paid_usd"]) == total(Decimal(each["cost_usd"]) for each in endpoints)
    assert summary["requests"]["sent"] == sum(each["requests"] for each in endpoints) + summary["requests"]["submitted"]
    assert (summary["exit_code"], summary["state"]) == (done.exit_code, summary["state"])


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its bytes, without locks and without the index, which is only a view."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock" and not path.name.startswith("answers.sqlite")
    }
