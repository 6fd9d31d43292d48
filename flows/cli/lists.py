"""Lists in the terminal: requests, rows that are not ok, checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from parquill.flows.cli.console import print_line

if TYPE_CHECKING:
    from parquill.flows.cli.doctor import Check


def show_preview(rows: list[dict[str, Any]]) -> None:
    """Show each request: where its row is, its tokens, its body."""
    for row in rows:
        print_line(f"--- {row['source_file']}, row {row['row_number']}: {row['prompt_tokens'] or 0:,} prompt tokens")
        if row["error"]:
            print_line(row["error"])
        if row["body"] is not None:
            print_line(f"POST {row['url']}")
            for name, variable in row["headers"].items():
                print_line(f"{name}: (from {variable})")
            for line in orjson.dumps(row["body"], option=orjson.OPT_INDENT_2).decode().split("\n"):
                print_line(line)


def show_comparison(found: dict[str, Any]) -> None:
    """Show each model's estimate in a table, the cheapest first, with notes about the models below it."""
    for line in comparison_lines(found):
        print_line(line)


def comparison_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a comparison: a header, a line for each model with aligned columns, and notes."""
    yield f"{found['rows']:,} rows, the cheapest model first; nothing was sent"
    head = ("model", "lane", "expected", "p90", "worst case", "prompt tokens")
    lines = [head, *(_compared(entry) for entry in found["models"])]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    for line in lines:
        sized = list(zip(line, widths, strict=True))
        words = [cell.ljust(width) for cell, width in sized[:2]]
        yield "  ".join([*words, *(cell.rjust(width) for cell, width in sized[2:])])
    for entry in found["models"]:
        yield from (f"{entry['model']}: {note}" for note in _notes(entry))


def _compared(entry: dict[str, Any]) -> tuple[str, ...]:
    estimate = entry["estimate"]
    costs = (rounded(estimate[f"cost_usd_{name}"]) for name in ("expected", "p90", "worst"))
    return (entry["model"], entry["lane"], *costs, f"{estimate['prompt_tokens']:,}")


def _notes(entry: dict[str, Any]) -> Iterator[str]:
    if not entry["fits_budget"]:
        yield "exceeds the budget"
    if not entry["fits_window"]:
        yield f"{entry['rows_too_long']:,} rows are too long for its window"
    if entry["prompt_tokens_note"]:
        yield f"prompt tokens are {entry['prompt_tokens_note']}"
    for name in ("thinking_note", "shutdown_note"):
        if entry[name]:
            yield entry[name]


def rounded(usd: str) -> str:
    """Return dollars for comparison: rounded to cents, or below a dollar to two significant digits."""
    amount = Decimal(usd)
    places = 2 if amount >= 1 or not amount else max(2, 1 - amount.adjusted())
    return f"${amount:,.{places}f}"


def show_failed(rows: Iterable[dict[str, Any]]) -> None:
    """Show each row that is not ok."""
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - counted for the last line
        print_line(
            f"{row['source_file']}, row {row['row_number']}: {row['status']}, {row['error_code']}: "
            f"{row['error_message']}"
        )
    print_line(f"{count:,} rows are not ok")


def show_checks(checks: Iterable[Check]) -> None:
    """Show each check: ok, a warning, or what to do."""
    for check in checks:
        word = "FAIL" if not check.ok else "warn" if check.warns else "ok  "
        print_line(f"{word} {check.name}: {check.told}")
