"""Files with different columns are read as one input or refused, and a note names the difference."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.money.estimate import flat_estimate
from parquill.tasks.money.gate import check_budget
from parquill.tasks.money.prices import price_of
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.prepare import estimate_job
from parquill.tasks.prompts.source import find_source, read_batches
from tests.tools.small_jobs import resolved_job


def _write(folder: Path, **tables: dict[str, Any]) -> Path:
    (folder / "in").mkdir()
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / "in" / f"{name}.parquet")
    return folder / "in"


def _rows(folder: Path) -> list[dict[str, Any]]:
    source = find_source(str(folder))
    table = pa.Table.from_batches([batch for _, _, batch in read_batches(source)], source.schema)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _job(folder: Path, prompt: str) -> Any:
    return resolved_job(
        {
            "name": "a job",
            "input": str(folder / "in"),
            "output": str(folder / "out"),
            "prompt": {"user": prompt},
            "model": "gpt-4o-mini",
            "max_output_tokens": 5,
        }
    )


def test_columns_that_a_file_does_not_have(tmp_path: Path) -> None:
    """If a file lacks a column, the column is null in its rows, whether new or gone, and a note says so."""
    folder = _write(tmp_path, a={"text": ["x"], "old": [1]}, b={"new": ["y"], "text": ["z"]}, c={"text": ["w"]})
    assert _rows(folder) == [
        {"text": "x", "old": 1, "new": None},
        {"text": "z", "old": None, "new": "y"},
        {"text": "w", "old": None, "new": None},
    ]
    new, old = find_source(str(folder)).notes
    assert old.startswith("2 of 3 files have no column 'old', so it is null in their rows; the first is ")
    assert f"{folder}/b.parquet" in old
    assert new.startswith("2 of 3 files have no column 'new'")
    assert f"{folder}/a.parquet" in new


@pytest.mark.parametrize(
    ("columns", "hint"), [({"other": ["x"]}, "leave the file out"), ({"Old": ["x"]}, "'Old' there")]
)
def test_a_used_column_that_a_file_does_not_have(tmp_path: Path, columns: dict[str, Any], hint: str) -> None:
    """If a file lacks a column that the prompt uses, the first such file is refused, with a hint about letter case."""
    folder = _write(tmp_path, a={"text": ["x"], "old": ["y"]}, b={"text": ["z"], **columns})
    options = RunOptions(date(2026, 11, 1))
    with pytest.raises(BadInput) as caught:
        estimate_job(_job(tmp_path, "{{ text }} {{ old }}"), options)
    assert str(caught.value).startswith(f"{folder}/b.parquet has no column 'old', which the job uses")
    assert str(caught.value).endswith(hint) or hint in str(caught.value)
    assert estimate_job(_job(tmp_path, "{{ text }}"), options).rows == 2


def test_notes_are_part_of_the_estimate(tmp_path: Path) -> None:
    """The estimate names the files that are left out and the columns that differ."""
    folder = _write(tmp_path, a={"text": ["x"], "n": [1]}, b={"text": ["z"], "n": [0.5]})
    (folder / "notes.txt").write_text("no rows")
    job, options = _job(tmp_path, "{{ text }}"), RunOptions(date(2026, 11, 1))
    estimate, price = estimate_job(job, options).result(), price_of(_job(tmp_path, "{{ text }}"), options.day)
    note = flat_estimate(job, estimate, price, fits=check_budget(job, estimate, price, None, None).fits)["input_note"]
    left_out, as_double = note.split(". ")
    assert left_out == "files of the input that are not Parquet and are left out: 1 (notes.txt)"
    assert as_double.startswith(
        "the column 'n' is int64 in some files and floating point in others, and is read as double"
    )


@pytest.mark.parametrize(
    ("value", "difference"),
    [
        (["1"], "the column 'value' is string instead of int64"),
        ([[1]], "the column 'value' is list<element: int64> instead of int64"),
        ([True], "the column 'value' is bool instead of int64"),
    ],
)
def test_types_that_are_not_one(tmp_path: Path, value: list[Any], difference: str) -> None:
    """If no type fits a column in all files, the refusal names the column, both files, both types and a fix."""
    folder = _write(tmp_path, a={"value": [1]}, b={"value": pa.nulls(1)}, c={"value": value})
    with pytest.raises(BadInput) as caught:
        find_source(str(folder))
    message = str(caught.value)
    assert message.startswith(f"{folder}/c.parquet: {difference} as in {folder}/a.parquet")
    assert "write one of the files with the other type" in message


def test_fields_that_a_file_does_not_have(tmp_path: Path) -> None:
    """If a file lacks a field of a struct, the field is null in its rows, whether new or gone, and a note says so."""
    folder = _write(
        tmp_path,
        a={"text": ["x"], "meta": [{"old": 1, "site": "s"}]},
        b={"text": ["y"], "meta": [{"site": "t", "new": "n"}]},
        c={"text": ["z"], "meta": pa.nulls(1)},
    )
    assert _rows(folder) == [
        {"text": "x", "meta": {"old": 1, "site": "s", "new": None}},
        {"text": "y", "meta": {"old": None, "site": "t", "new": "n"}},
        {"text": "z", "meta": None},
    ]
    notes = {note.partition(",")[0]: note for note in find_source(str(folder)).notes}
    assert f"the first is {folder}/a.parquet" in notes["some files have no field 'meta.new'"]
    assert f"the first is {folder}/b.parquet" in notes["some files have no field 'meta.old'"]
    for prompt, rejected in (("{{ meta.new | default('', true) }}.", 1), ("{{ meta.new }}", 2)):
        found = estimate_job(_job(tmp_path, prompt), RunOptions(date(2026, 11, 1))).result()
        assert found.rejected == {"null_value": rejected}


def test_a_field_within_a_column_is_named(tmp_path: Path) -> None:
    """If types differ within a struct or a list, the refusal names the field."""
    folder = _write(tmp_path, a={"value": [[{"a": 1}]]}, b={"value": [[{"a": "x"}]]})
    with pytest.raises(BadInput, match=r"'value\[\]\.a' is string instead of int64"):
        find_source(str(folder))


def test_a_folder_fills_a_column(tmp_path: Path) -> None:
    """If a file lacks a column, its key=value folder gives the value, in the type of the other files."""
    for name, columns in (("k=1", {"text": ["x"], "k": ["1"]}), ("k=2", {"text": ["y"]})):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(columns), tmp_path / name / "a.parquet")
    assert _rows(tmp_path) == [{"text": "x", "k": "1"}, {"text": "y", "k": "2"}]
    assert find_source(str(tmp_path)).notes == ()
