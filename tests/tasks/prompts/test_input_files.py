"""Parquill names every file of a folder, glob or store that it leaves out, and refuses tables of other formats."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts import input_files as listing
from parquill.tasks.prompts.input_files import list_files


def _parquet(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": [path.name]}), path)
    return path


def _write(path: Path, text: str = "no rows") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


NAMES = [
    "1.parquet",
    "2.PARQUET",
    "3.snappy.parquet",
    "4.parq",
    "5.pq",
    "6.Pq",
    "part-00007",
    "8.parquet.gz",
    "d/9.data",
]


def test_parquet_files_of_any_name_are_read(tmp_path: Path, place: str) -> None:
    """A file that begins like Parquet is input whatever its name, also in subfolders."""
    for name in NAMES:
        _parquet(tmp_path / "in" / name)
    assert [found.name for found in list_files(f"{place}/in").places] == sorted(NAMES)
    assert list_files(f"{place}/in").notes == []


def test_what_is_left_out_is_named(tmp_path: Path, place: str) -> None:
    """The notes count files that are not Parquet and hidden Parquet files, and name some of them."""
    _parquet(tmp_path / "in" / "a.parquet")
    for name in ("1.csv", "2.json", "3.txt", "d/4.parquet.gz"):
        _write(tmp_path / "in" / name)
    for name in ("_b.parquet", ".c.parquet", "_temporary/d.parquet", "e.parquet._COPYING_"):
        _parquet(tmp_path / "in" / name)
    _write(tmp_path / "in" / "_SUCCESS")
    found = list_files(f"{place}/in")
    assert [each.name for each in found.places] == ["a.parquet"]
    others, hidden = found.notes
    assert others == "files of the input that are not Parquet and are left out: 4 (1.csv, 2.json, 3.txt, ...)"
    assert hidden.startswith("files of the input that have names or folders that begin with a dot or an underscore")
    assert hidden.endswith("left out: 2 (.c.parquet, _b.parquet)")


def test_a_file_by_name_that_is_no_parquet_is_not_left_out(tmp_path: Path, place: str) -> None:
    """A file with a Parquet name is listed whatever it holds; reading it raises the refusal."""
    _write(tmp_path / "in" / "a.PARQUET")
    assert [found.name for found in list_files(f"{place}/in").places] == ["a.PARQUET"]


def test_a_folder_without_parquet(tmp_path: Path, place: str) -> None:
    """If a folder holds no Parquet, the refusal names its files and says how to select files with other names."""
    _write(tmp_path / "in" / "a.txt")
    with pytest.raises(BadInput) as caught:
        list_files(f"{place}/in")
    message = str(caught.value)
    assert "no *.parquet" in message
    assert "not Parquet and are left out: 1 (a.txt)" in message
    assert message.endswith(f"write a glob for them, such as {place}/in/*")


def test_hidden_files_of_a_glob(tmp_path: Path, place: str) -> None:
    """Like Spark, a glob leaves out hidden files with a note, unless it names them. Folders of keys are not hidden."""
    for name in ("a.parquet", "_temporary/b.parquet", "_c.parquet", "_k=1/d.parquet", "_k=1/_x/e.parquet"):
        _parquet(tmp_path / "in" / name)
    found = list_files(f"{place}/in/**/*.parquet")
    assert [each.name for each in found.places] == ["_k=1/d.parquet", "a.parquet"]
    assert len(found.notes) == 1
    assert "are left out: 3 (_c.parquet, _k=1/_x/e.parquet, _temporary/b.parquet)" in found.notes[0]
    assert [each.name for each in list_files(f"{place}/in/_*.parquet").places] == ["_c.parquet"]


MARKERS = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Iceberg": "metadata/00001-abc.metadata.json",
    "Iceberg, packed": "metadata/00001-abc.gz.metadata.json",
    "Hudi": ".hoodie/hoodie.properties",
}
FILES = ("data/a.parquet", "data/dt=1/b.parquet")


@pytest.mark.parametrize("kind", MARKERS)
@pytest.mark.parametrize(
    ("below", "named"),
    [
        ("", "in"),
        ("x/y", "in"),
        ("", "in/data"),
        ("", "in/data/dt=1"),
        ("", "in/**/*.parquet"),
        ("", "in/data/*.parquet"),
        ("x", "in/x/data/dt=*/*.parquet"),
        ("x", "in/*/data/*.parquet"),
    ],
)
def test_a_table_of_another_format_is_refused(tmp_path: Path, place: str, kind: str, below: str, named: str) -> None:
    """The folder of a Delta, Iceberg or Hudi table is refused with advice, for a folder and for a glob.

    The table may be at, below or above the named location.
    """
    table = tmp_path / "in" / below
    for name in FILES:
        _parquet(table / name)
    _write(table / MARKERS[kind])
    with pytest.raises(BadInput) as caught:
        list_files(f"{place}/{named}")
    message = str(caught.value)
    assert f"is a table of {kind.partition(',')[0]}, which also keeps files of rows that were replaced" in message
    assert re.match(rf"\S*{re.escape('/'.join(filter(None, ['in', below])))} is a table", message)
    assert "export its current rows to plain Parquet files" in message


def test_one_file_of_a_table(tmp_path: Path, place: str) -> None:
    """A file of a table is read if the job names the file itself."""
    _parquet(tmp_path / "in" / "a.parquet")
    _write(tmp_path / "in" / MARKERS["Delta"])
    assert [found.name for found in list_files(f"{place}/in/a.parquet").places] == ["a.parquet"]


def test_folders_that_look_like_a_table(tmp_path: Path, place: str) -> None:
    """A folder `metadata` with other files, or a file with a marker's name, is not a table."""
    _parquet(tmp_path / "in" / "metadata" / "a.parquet")
    _write(tmp_path / "in" / "metadata" / "metadata.json")
    _write(tmp_path / "in" / "_delta_log")
    assert [found.name for found in list_files(f"{place}/in").places] == ["metadata/a.parquet"]


def test_many_objects_of_other_names(tmp_path: Path, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquill opens a limited number of a store's objects with other names, and leaves out the rest with a note."""
    monkeypatch.setattr(listing, "MAX_PEEKS", 2)
    _parquet(tmp_path / "in" / "a.parquet")
    for name in ("1", "2", "3", "4"):
        _parquet(tmp_path / "in" / name)
    found = list_files(f"{shop}/in")
    assert [each.name for each in found.places] == ["1", "2", "a.parquet"]
    assert found.notes == ["objects whose names do not end in .parquet, .parq or .pq and are left out: 2 (3, 4)"]
