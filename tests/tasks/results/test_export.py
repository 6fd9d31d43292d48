"""Results as CSV and as JSON lines."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pytest

from parquill.tasks.results.export import csv_blocks, json_line_blocks, plain_row

ROWS: list[dict[str, Any]] = [
    {
        "id": 1,
        "text": 'He said "no",\nthen left',
        "tags": ["a", "b"],
        "parsed": {"label": "ä", "score": 0.5},
        "cost_usd": Decimal("0.000000123"),
        "raw": b"\x00\xff",
        "reused": True,
        "at": datetime(2026, 11, 30, 7, 0, 0, 5, tzinfo=UTC),
        "day": date(2026, 11, 30),
        "took": timedelta(seconds=90),
    },
    dict.fromkeys(("id", "text", "tags", "parsed", "cost_usd", "raw", "reused", "at", "day", "took")),
    {"id": 3, "text": "", "tags": [], "parsed": None, "cost_usd": Decimal("12.000000000"), "raw": b"", "reused": False,
     "at": None, "day": None, "took": None},
]  # fmt: skip


def _batches(rows: list[dict[str, Any]] = ROWS, size: int = 2) -> list[pa.RecordBatch]:
    batches: list[pa.RecordBatch] = pa.Table.from_pylist(rows).to_batches(max_chunksize=size)
    return batches


def test_csv_holds_every_value() -> None:
    """Python's reader gets back each text, exact money, JSON of lists and structs, and one header."""
    text = b"".join(csv_blocks(_batches())).decode()
    first, second, third = csv.DictReader(io.StringIO(text, newline=""))
    assert first["text"] == 'He said "no",\nthen left'
    assert (json.loads(first["tags"]), json.loads(first["parsed"])) == (["a", "b"], {"label": "ä", "score": 0.5})
    assert (first["cost_usd"], first["reused"], first["raw"]) == ("0.000000123", "true", "AP8=")
    assert (first["at"], first["day"], first["took"]) == ("2026-11-30T07:00:00.000005+00:00", "2026-11-30", "0:01:30")
    assert set(second.values()) == {""}
    assert third["cost_usd"] == "12.000000000"


def test_csv_tells_a_null_from_an_empty_text() -> None:
    """Texts are in quotes, so Arrow's reader finds a null where there was one and an empty text where there was one."""
    data = b"".join(csv_blocks(_batches([{"id": 1, "text": None}, {"id": 2, "text": ""}, {"id": 3, "text": "null"}])))
    options = pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""])
    table = pyarrow.csv.read_csv(pa.BufferReader(data), convert_options=options)
    assert table.column("text").to_pylist() == [None, "", "null"]


def test_results_without_rows_have_a_header() -> None:
    """An empty input gives a CSV file with the names of the columns, and no JSON line."""
    empty = [pa.RecordBatch.from_pylist([], schema=pa.schema({"id": pa.int64(), "text": pa.string()}))]
    assert b"".join(csv_blocks(empty)) == b'"id","text"\r\n'
    assert b"".join(json_line_blocks(empty)) == b""


def test_json_lines_hold_every_value() -> None:
    """Each line is one object with all columns; nested values stay nested."""
    lines = [orjson.loads(line) for line in b"".join(json_line_blocks(_batches())).splitlines()]
    assert lines[0] == {
        **ROWS[0],
        "cost_usd": "0.000000123",
        "raw": "AP8=",
        "at": "2026-11-30T07:00:00.000005+00:00",
        "day": "2026-11-30",
        "took": "0:01:30",
    }
    assert lines[1] == ROWS[1]
    assert (lines[2]["text"], lines[2]["tags"]) == ("", [])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_has_no_number_for_is_null(value: float) -> None:
    """JSON has no NaN and no infinity."""
    assert plain_row({"score": value}) == {"score": None}
