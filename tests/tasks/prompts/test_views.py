"""`for_each` repeats every Arrow type, including string_view and binary_view, which Arrow's `take` does not support."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.money.prices import price_of
from parquill.tasks.prompts.planner import Planner
from parquill.tasks.prompts.source import find_source
from tests.tools.small_jobs import resolved_job

VIEWS = {
    "string_view": pa.array(["a text longer than twelve bytes", None, ""], pa.string_view()),
    "binary_view": pa.array([b"bytes longer than twelve \xff", None, b""], pa.binary_view()),
    "list_of_views": pa.array([["a text longer than twelve bytes"], None, []], pa.list_(pa.string_view())),
    "struct_of_views": pa.array(
        [{"a": "a text longer than twelve bytes"}, None, {"a": ""}], pa.struct([("a", pa.string_view())])
    ),
}


class Rows:
    batches: list[Any]

    def __init__(self) -> None:
        self.batches = []

    def write(self, batch: Any, to_send: int) -> None:
        self.batches.append(batch)
        del to_send


@pytest.mark.parametrize("name", VIEWS)
def test_every_type_is_repeated_for_each_value(tmp_path: Path, name: str) -> None:
    """With `for_each`, a column of any type is repeated unchanged for each value."""
    pq.write_table(pa.table({"text": ["a", "b", "c"], "other": VIEWS[name]}), tmp_path / "in.parquet")
    least = {"name": "x", "input": str(tmp_path / "in.parquet"), "output": "o", "prompt": {"user": "{{ text }}{{ n }}"}}
    job = resolved_job({**least, "model": "gpt-4o-mini", "max_output_tokens": 5, "for_each": {"n": [1, 2]}})
    rows = Rows()
    Planner(job, find_source(job.input), price_of(job, date(2026, 11, 23)), tmp_path).plan(rows)
    found = pa.Table.from_batches(rows.batches).column("other")
    assert found.type == VIEWS[name].type
    assert found.to_pylist() == [value for value in VIEWS[name].to_pylist() for _ in range(2)]
