"""Lists in the terminal: requests, rows that are not ok, checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import orjson

from parquill.flows.console import say

if TYPE_CHECKING:
    from parquill.flows.doctor import Check


def show_preview(rows: list[dict[str, Any]]) -> None:
    """Each request: where its row is, its tokens, its body."""
    for row in rows:
        say(f"--- {row['source_file']}, row {row['row_number']}: {row['prompt_tokens'] or 0:,} prompt tokens")
        if row["error"]:
            say(row["error"])
        if row["body"] is not None:
            say(f"POST {row['url']}")
            for line in orjson.dumps(row["body"], option=orjson.OPT_INDENT_2).decode().split("\n"):
                say(line)


def show_comparison(found: dict[str, Any]) -> None:
    """Each model's estimate, the cheapest first."""
    say(f"{found['rows']:,} rows")
    for entry in found["models"]:
        estimate = entry["estimate"]
        batch = " (batch)" if entry["processing"] == "batch" else ""
        notes = f" ({entry['prompt_tokens_note']})" if entry["prompt_tokens_note"] else ""
        notes += "" if entry["fits_window"] else f", {entry['rows_too_long']:,} rows too long for its window"
        notes += "" if entry["fits_budget"] else ", exceeds the budget"
        say(
            f"{entry['model'] + batch:32} expected ${estimate['cost_usd_expected']}, p90 ${estimate['cost_usd_p90']}, "
            f"worst ${estimate['cost_usd_worst']}, {estimate['prompt_tokens']:,} prompt tokens{notes}"
        )


def show_failed(rows: Iterable[dict[str, Any]]) -> None:
    """Each row that is not ok."""
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - counted for the last line
        say(
            f"{row['source_file']}, row {row['row_number']}: {row['status']}, {row['error_code']}: "
            f"{row['error_message']}"
        )
    say(f"{count:,} rows are not ok")


def show_checks(checks: Iterable[Check]) -> None:
    """Each check: ok, what to look at, or what to do."""
    for check in checks:
        word = "FAIL" if not check.ok else "warn" if check.warns else "ok  "
        say(f"{word} {check.name}: {check.told}")
