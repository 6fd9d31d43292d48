"""A cell of messages or parameters that JSON cannot hold (300 levels deep, bytes) rejects only its row."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.money.prices import price_of
from parquill.tasks.prompts.planner import Planner
from parquill.tasks.prompts.source import find_source
from tests.tools.small_jobs import resolved_job

DEEP = "[" * 300 + "1" + "]" * 300


class Rows:
    batches: list[Any]

    def __init__(self) -> None:
        self.batches = []

    def write(self, batch: Any, to_send: int) -> None:
        self.batches.append(batch)
        del to_send


def _plan(folder: Path, table: dict[str, Any], **changes: Any) -> list[str | None]:
    pq.write_table(pa.table(table), folder / "in.parquet")
    least = {"name": "x", "input": str(folder / "in.parquet"), "output": "o", "model": "gpt-4o-mini"}
    job = resolved_job({**least, "max_output_tokens": 5, **changes})
    rows = Rows()
    Planner(job, find_source(job.input), price_of(job, date(2026, 11, 23)), folder).plan(rows)
    return list(pa.Table.from_batches(rows.batches).column("__parquill_error_code").to_pylist())


GOOD = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    "column",
    [
        ['[{"role": "user", "content": "a", "tool_calls": ' + DEEP + "}]", '[{"role": "user", "content": "a"}]'],
        pa.array([[{**GOOD, "tool_calls": b"x"}], [{**GOOD, "tool_calls": None}]]),
        pa.array([[{**GOOD, "tool_calls": [Decimal(1)]}], [{**GOOD, "tool_calls": None}]]),
        pa.array([[{**GOOD, "name": b"x"}], [{**GOOD, "name": None}]]),
    ],
    ids=["deep", "bytes", "decimal", "name of bytes"],
)
def test_messages(tmp_path: Path, column: Any) -> None:
    """A message that JSON cannot hold rejects only its row."""
    assert _plan(tmp_path, {"m": column}, messages_column="m") == ["bad_messages", None]


def test_parameters(tmp_path: Path) -> None:
    """Parameters that are nested too deeply reject only their row."""
    table = {"text": ["a", "b"], "p": ['{"metadata": ' + DEEP + "}", None]}
    assert _plan(tmp_path, table, prompt={"user": "{{ text }}"}, parameters_column="p") == ["bad_parameters", None]
