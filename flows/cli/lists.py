"""Lists in the terminal: requests, rows that are not ok, checks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from parquill.flows.cli.console import print_result
from parquill.tasks.money.amounts import format_column, usd_to_nano
from parquill.tasks.records import WORST_CASE

if TYPE_CHECKING:
    from parquill.flows.cli.checks import Check

MAX_NAME = 40  # characters of a model's name in a table


def show_preview(rows: list[dict[str, Any]]) -> None:
    """Show each request: where its row is, its tokens, its body."""
    for row in rows:
        print_result(f"--- {row['source_file']}, row {row['row_number']}: {row['prompt_tokens'] or 0:,} prompt tokens")
        if row["error"]:
            print_result(row["error"])
        if row["body"] is not None:
            print_result(f"POST {row['url']}")
            for name, variable in row["headers"].items():
                print_result(f"{name}: (from {variable})")
            for other in row.get("or_to", ()):
                sources = "".join(f", {name} from {variable}" for name, variable in other["headers"].items())
                print_result(f"or to {other['url']}{sources}, as the model {other['model']}")
            for line in orjson.dumps(row["body"], option=orjson.OPT_INDENT_2).decode().split("\n"):
                print_result(line)


def show_comparison(found: dict[str, Any]) -> None:
    """Show each model's estimate in a table, the cheapest first, with notes about the models below it."""
    for line in comparison_lines(found):
        print_result(line)


def comparison_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a comparison: a header, a line for each model with aligned columns, and notes.

    Without earlier answers nothing is expected: the models are compared by the most that they can cost.
    """
    entries = found["models"]
    yield f"{found['rows']:,} rows, the cheapest first; nothing was sent"
    if all(entry["estimate"]["basis"] == WORST_CASE for entry in entries):
        costs = {"at most": "worst"}
    else:
        costs = {"expected": "expected", "p90": "p90", "at most": "worst"}
    usd = [entry["estimate"][f"cost_usd_{name}"] for entry in entries for name in costs.values()]
    shown, width = format_column([usd_to_nano(Decimal(each)) for each in usd]), len(costs)
    lines = [("model", "lane", *costs, "prompt tokens")]
    for number, entry in enumerate(entries):
        tokens = f"{entry['estimate']['prompt_tokens']:,}"
        own = shown[number * width : (number + 1) * width]
        lines.append((shorten(entry["model"]), entry["lane"], *own, tokens))
    yield from align(lines, left={0, 1})
    if len(costs) == 1:
        yield "no earlier answers to learn from; for expected costs run `parquill estimate JOB --pilot 100` first"
    # a note of a model is the same in each lane
    yield from dict.fromkeys(f"{entry['model']}: {note}" for entry in entries for note in _notes(entry))


def align(lines: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Return the lines of a table; the columns in `left` are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def shorten(name: str) -> str:
    """Cut a long name in its middle: vendors and versions stand at its ends."""
    if len(name) <= MAX_NAME:
        return name
    head = (MAX_NAME - 1) // 2
    return f"{name[:head]}…{name[head + 1 - MAX_NAME :]}"


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


def show_failed(rows: Iterable[dict[str, Any]]) -> None:
    """Show each row that is not ok."""
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - counted for the last line
        print_result(
            f"{row['source_file']}, row {row['row_number']}: {row['status']}, {row['error_code']}: "
            f"{row['error_message']}"
        )
    print_result(f"{count:,} rows are not ok")


def show_checks(checks: Iterable[Check]) -> None:
    """Show each check: ok, a warning, or what to do."""
    for check in checks:
        word = "FAIL" if not check.ok else "warn" if check.warns else "ok  "
        print_result(f"{word} {check.name}: {check.message}")
