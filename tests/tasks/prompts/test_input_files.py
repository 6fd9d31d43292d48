"""Which files of a folder, a glob or a store are the input: none is left out in silence, and no table is read whole."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts import input_files as listing
from parquill.tasks.prompts.input_files import list_files
from parquill.tasks.storage import object_store as store


def _parquet(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": [path.name]}), path)
    return path


def _write(path: Path, text: str = "no rows") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test's folder as a store shows it."""
    files = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())

    def find_place(uri: str) -> store.StoreLocation:
        return store.StoreLocation(files, uri.removeprefix("s3://shop/").rstrip("/"))

    monkeypatch.setattr(store, "find_location", find_place)
    return "s3://shop"


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, shop: str) -> str:
    """The test's folder on disk, and as a store shows it."""
    return shop if request.param == "store" else str(tmp_path)


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
    """A file that begins as Parquet does is input whatever its name is, in folders below too."""
    for name in NAMES:
        _parquet(tmp_path / "in" / name)
    assert [found.name for found in list_files(f"{place}/in").places] == sorted(NAMES)
    assert list_files(f"{place}/in").notes == []


def test_what_is_left_out_is_named(tmp_path: Path, place: str) -> None:
    """Files that are not Parquet, and Parquet files that are hidden, are counted and some of them named."""
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
    """A file that is called Parquet is listed whatever it holds: reading it is what refuses it."""
    _write(tmp_path / "in" / "a.PARQUET")
    assert [found.name for found in list_files(f"{place}/in").places] == ["a.PARQUET"]


def test_a_folder_without_parquet(tmp_path: Path, place: str) -> None:
    """A folder that holds none says what it does hold, and how to name files of other names."""
    _write(tmp_path / "in" / "a.txt")
    with pytest.raises(BadInput) as caught:
        list_files(f"{place}/in")
    told = str(caught.value)
    assert "no *.parquet" in told
    assert "not Parquet and are left out: 1 (a.txt)" in told
    assert told.endswith(f"write a glob for them, such as {place}/in/*")


def test_hidden_files_of_a_glob(tmp_path: Path, place: str) -> None:
    """A glob leaves out what is hidden, as Spark does, and says so, unless it names it itself; folders of keys are not hidden."""
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
    """The folder of a Delta, Iceberg or Hudi table is refused with advice, at, below and above what is named, in a folder and in a glob."""
    table = tmp_path / "in" / below
    for name in FILES:
        _parquet(table / name)
    _write(table / MARKERS[kind])
    with pytest.raises(BadInput) as caught:
        list_files(f"{place}/{named}")
    told = str(caught.value)
    assert f"is a table of {kind.partition(',')[0]}, which also keeps files of rows that were replaced" in told
    assert re.match(rf"\S*{re.escape('/'.join(filter(None, ['in', below])))} is a table", told)
    assert "export its current rows to plain Parquet files" in told


def test_one_file_of_a_table(tmp_path: Path, place: str) -> None:
    """A file of a table that is named itself is read: which it is was chosen."""
    _parquet(tmp_path / "in" / "a.parquet")
    _write(tmp_path / "in" / MARKERS["Delta"])
    assert [found.name for found in list_files(f"{place}/in/a.parquet").places] == ["a.parquet"]


def test_folders_that_look_like_a_table(tmp_path: Path, place: str) -> None:
    """A folder `metadata` with anything else, and a file with a marker's name, make no table."""
    _parquet(tmp_path / "in" / "metadata" / "a.parquet")
    _write(tmp_path / "in" / "metadata" / "metadata.json")
    _write(tmp_path / "in" / "_delta_log")
    assert [found.name for found in list_files(f"{place}/in").places] == ["metadata/a.parquet"]


def test_many_objects_of_other_names(tmp_path: Path, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store so many objects of other names are looked at; the rest is told by its names."""
    monkeypatch.setattr(listing, "MAX_PEEKS", 2)
    _parquet(tmp_path / "in" / "a.parquet")
    for name in ("1", "2", "3", "4"):
        _parquet(tmp_path / "in" / name)
    found = list_files(f"{shop}/in")
    assert [each.name for each in found.places] == ["1", "2", "a.parquet"]
    assert found.notes == ["objects whose names do not end in .parquet, .parq or .pq and are left out: 2 (3, 4)"]
