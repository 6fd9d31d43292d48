"""Rows of results in the terminal."""

from __future__ import annotations

from decimal import Decimal

import pytest

from parquill.flows.cli.rows import MAX_CHARACTERS, head_of, parse_where, shorten


def test_conditions_are_read() -> None:
    """A condition is a column and a value, which may hold `=` itself."""
    assert parse_where(["status=truncated", " formula = a=b "]) == [("status", "truncated"), ("formula", "a=b")]
    for wrong in ("truncated", "=truncated"):
        with pytest.raises(ValueError, match=r"is not COLUMN=VALUE, for example status=truncated"):
            parse_where([wrong])


def test_a_long_value_is_cut() -> None:
    """A value is shown in one line, with its length if it is cut; lists and structs are JSON."""
    assert shorten("two\nlines\tand  blanks") == "two lines and blanks"
    assert shorten("x" * 400) == f"{'x' * MAX_CHARACTERS}… (400 characters)"
    assert shorten({"label": "pos", "cost": Decimal("1.50")}) == '{"label":"pos","cost":"1.50"}'
    assert shorten(None) == "None"


def test_the_head_of_a_row() -> None:
    """One line says where the row is, how it ended, what it cost and how long it took."""
    row = {"source_file": "in.parquet", "row_number": 17, "status": "ok", "cost_usd": Decimal("0.0042")}
    assert head_of({**row, "latency_s": 1.26}) == "--- in.parquet, row 17: ok, $0.0042, 1.3 s"
    failed = {**row, "status": "failed", "error_code": "timeout", "cost_usd": "0", "latency_s": None}
    assert head_of(failed) == "--- in.parquet, row 17: failed (timeout), $0.00"
