"""INT96 timestamps keep their value, or Parquill refuses them and names the row."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.source import find_source, read_batches

TEXTS = ("2024-05-01", "9999-12-31T23:59:59.999999", "0001-01-01", "1582-10-04", "1969-12-31T23:59:59.000001")
TIMES = [datetime.fromisoformat(text) for text in TEXTS]
US = pa.timestamp("us")
SHAPES: dict[str, tuple[list[Any], pa.DataType]] = {
    "a column": ([*TIMES, None], US),
    "a list": ([TIMES, None, [], [None]], pa.list_(US)),
    "a struct": ([{"at": time} for time in TIMES], pa.struct([("at", US)])),
    "a map": ([[("a", time)] for time in TIMES], pa.map_(pa.string(), US)),
}


def _write(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path, use_deprecated_int96_timestamps=True, store_schema=False)
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_dates_are_the_same(tmp_path: Path, shape: str) -> None:
    """Any date of Spark is read unchanged in microseconds, also within a list, a struct or a map."""
    values, kind = SHAPES[shape]
    source = find_source(str(_write(tmp_path / "a.parquet", at=pa.array(values, kind))))
    assert source.schema.field("at").type.equals(kind)
    found = [value for _, _, batch in read_batches(source) for value in batch.column("at").to_pylist()]
    assert found == values


@pytest.mark.parametrize("row", [0, 1, 2_999])
def test_a_fraction_of_a_microsecond(tmp_path: Path, row: int) -> None:
    """A timestamp that microseconds cannot hold is refused with its row and column, and no timestamp is cut."""
    values = [1_000 * number for number in range(3_000)]
    values[row] += 1
    path = _write(tmp_path / "a.parquet", text=pa.array(["x"] * 3_000), at=pa.array(values, pa.timestamp("ns")))
    source = find_source(str(path))
    message = f"{path}: row {row} has a timestamp in the column 'at' that microseconds cannot hold"
    with pytest.raises(BadInput, match=re.escape(message)):
        list(read_batches(source))
    assert sum(batch.num_rows for _, _, batch in read_batches(source, None, ["text"])) == 3_000


def test_a_year_that_no_timestamp_reaches(tmp_path: Path) -> None:
    """A day two million years ahead, beyond 64 bits of microseconds, is refused and does not wrap around."""
    path, day = tmp_path / "a.parquet", (2_460_432).to_bytes(4, "little")  # the Julian day of 2024-05-01
    table = pa.table({"at": pa.array([datetime(2024, 5, 1, tzinfo=UTC)], US)})
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, store_schema=False, **plain)
    assert path.read_bytes().count(day) == 1
    path.write_bytes(path.read_bytes().replace(day, (2**30).to_bytes(4, "little")))
    with pytest.raises(BadInput, match="row 0 has a timestamp in the column 'at' that microseconds cannot hold"):
        list(read_batches(find_source(str(path))))


def test_nanoseconds_in_a_list(tmp_path: Path) -> None:
    """For a timestamp within a list, the refusal names the first row that it can be in."""
    path = _write(tmp_path / "a.parquet", at=pa.array([[1_000], [1]], pa.list_(pa.timestamp("ns"))))
    with pytest.raises(BadInput, match="row 0 or later has a timestamp in the column 'at'"):
        list(read_batches(find_source(str(path))))


def test_other_timestamps_keep_their_unit(tmp_path: Path) -> None:
    """Timestamps of 64 bits keep their value, unit and zone."""
    kinds = [pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", "Europe/Paris")]
    table = pa.table({str(kind): pa.array([1_234_567, None], kind) for kind in kinds})
    pq.write_table(table, tmp_path / "a.parquet")
    source = find_source(str(tmp_path / "a.parquet"))
    assert source.schema.types == kinds
    assert pa.Table.from_batches([batch for _, _, batch in read_batches(source)]).equals(table)


def test_int96_beside_64_bits(tmp_path: Path) -> None:
    """Files with INT96 and files with 64-bit timestamps are one input."""
    _write(tmp_path / "a.parquet", at=pa.array(TIMES, US))
    pq.write_table(pa.table({"at": pa.array(TIMES, US)}), tmp_path / "b.parquet")
    source = find_source(str(tmp_path))
    assert source.schema.types == [US]
    assert [value for _, _, batch in read_batches(source) for value in batch.column("at").to_pylist()] == TIMES * 2
