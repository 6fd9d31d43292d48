"""Rows of results in the terminal: what went in, what came out, what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import orjson

from parquill.flows.cli.console import print_result
from parquill.tasks.money.amounts import format_usd, usd_to_nano
from parquill.tasks.results.samples import Sample

MAX_CHARACTERS = 300  # of one value
INDENT = "  "


def parse_where(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Read conditions such as `status=truncated`. Raises ValueError for one without a column."""
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{text!r} is not COLUMN=VALUE, for example status=truncated")
        found.append((name.strip(), value.strip()))
    return found


def show_sample(sample: Sample, where: Iterable[tuple[str, str]] = ()) -> None:
    """Show the rows, and how many there are of their kind."""
    for given, own in sample.rows:
        show_row(own, given)
    condition = " and ".join(f"{name}={value}" for name, value in where)
    print_result(f"{len(sample.rows):,} of {sample.matching:,} rows" + (f" with {condition}" if condition else ""))


def show_row(own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Show one row: where it is and how it ended, the values that went in, and the answer or why there is none."""
    print_result(head_of(own))
    for name, value in given.items():
        print_result(f"{INDENT}{name}: {shorten(value)}")
    if own.get("completion") is not None:
        print_result(f"{INDENT}completion: {shorten(own['completion'])}")
    if own.get("error_message") is not None:
        print_result(f"{INDENT}error: {shorten(own['error_message'])}")


def head_of(own: Mapping[str, Any]) -> str:
    """Return where a row is, how it ended, what it cost and how long it took, in one line."""
    ended = own["status"] if own.get("error_code") is None else f"{own['status']} ({own['error_code']})"
    cost = format_usd(usd_to_nano(Decimal(own["cost_usd"])))
    parts = [f"--- {own['source_file']}, row {own['row_number']}: {ended}", cost]
    if own.get("latency_s") is not None:
        parts.append(f"{own['latency_s']:.1f} s")
    return ", ".join(parts)


def shorten(value: Any) -> str:
    """Return a value in one line of at most MAX_CHARACTERS characters."""
    if isinstance(value, list | dict | tuple):
        value = orjson.dumps(value, default=str).decode()
    text = " ".join(str(value).split())
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}… ({len(text):,} characters)"
