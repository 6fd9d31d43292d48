"""If Parquill does not read a format, the refusal names it and says what to do."""

from __future__ import annotations

import gzip
import json
import pickle
import shlex
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather, orc

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.other_formats import tell_format
from parquill.tasks.prompts.source import find_source

TABLE = pa.table({"id": [1, 2], "text": ["a", "it's"]})


def _write(path: Path) -> None:
    match path.name.partition(".")[2]:
        case "json":
            path.write_text(json.dumps(TABLE.to_pylist()))
        case "json.gz":
            path.write_bytes(gzip.compress(json.dumps(TABLE.to_pylist()).encode()))
        case "feather":
            feather.write_feather(TABLE, path)
        case "orc":
            orc.write_table(TABLE, path)
        case "pkl":
            path.write_bytes(pickle.dumps(TABLE.to_pylist()))
        case "db":
            with closing(sqlite3.connect(path)) as made:
                made.execute("create table rows (id, text)")
        case "txt":
            path.write_text("a\nb\n")
        case _:
            with zipfile.ZipFile(path, "w") as packed:
                packed.writestr("xl/workbook.xml", "<workbook/>")


def _refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        find_source(str(path))
    return str(caught.value)


@pytest.mark.parametrize("ending", ["json", "json.gz", "feather", "orc"])
def test_the_command_makes_parquet(tmp_path: Path, ending: str) -> None:
    """The refusal of each format has a command that makes a Parquet file of the same rows, for any path."""
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    path = folder / f"in put.{ending}"
    _write(path)
    message = _refusal(path)
    assert message.startswith(f"{path} is a")
    python, option, program = shlex.split(message.rpartition("convert it: ")[2])
    assert (python, option) == ("python", "-c")
    exec(program, {})  # noqa: S102 - the command is what is tested
    assert pq.read_table(folder / "in put.parquet").to_pylist() == TABLE.to_pylist()
    assert find_source(str(folder / "in put.parquet")).rows == 2


@pytest.mark.parametrize(
    ("ending", "description"),
    [
        ("xlsx", "an Excel file; save it as CSV or Parquet"),
        ("zip", "a ZIP archive; unpack it first"),
        ("pkl", "a Python pickle; write the data frame as Parquet"),
        ("db", "an SQLite database; export the rows as CSV or Parquet"),
        ("txt", "a text file; Parquill reads Parquet, CSV and JSON lines"),
    ],
)
def test_other_files_are_named(tmp_path: Path, ending: str, description: str) -> None:
    """A file of another kind is refused in one sentence that says what it is and what to do."""
    path = tmp_path / f"prompts.{ending}"
    _write(path)
    assert _refusal(path) == f"{path} is {description}"


@pytest.mark.parametrize(
    ("ending", "named"),
    [
        ("xlsx", "is an Excel file or a ZIP archive; save it as CSV or Parquet, or unpack it"),
        ("pkl", "is a Python pickle"),
        ("db", "is an SQLite database"),
        ("orc", "is an ORC file"),
        ("feather", "is an Arrow (Feather) file"),
    ],
)
@pytest.mark.parametrize("name", ["prompts", "prompts.csv", "prompts.jsonl"])
def test_content_is_named_whatever_the_name(tmp_path: Path, ending: str, named: str, name: str) -> None:
    """If a file's name does not show its format or shows another one, the first bytes decide."""
    _write(tmp_path / f"a.{ending}")
    path = (tmp_path / f"a.{ending}").rename(tmp_path / name)
    assert f"{path} {named}" in _refusal(path)


def test_packed_text_without_its_suffix(tmp_path: Path) -> None:
    """If a packed file's name does not show the packing, the refusal has the name that it needs."""
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert _refusal(path) == f"{path} is packed with gzip; give it a name that ends in .csv.gz or .jsonl.gz"


def test_names_that_do_not_tell() -> None:
    """A name without a known format, or an address with a query, has no description. An address gets no command."""
    assert tell_format("/data/in.parquet") is None
    assert tell_format("/data/in") is None
    assert tell_format("/data/in.gz") is None
    assert tell_format("s3://bucket/in.json?key=secret") is None
    description = "a JSON file; Parquill reads Parquet, CSV and JSON lines; convert it"
    assert tell_format("s3://bucket/in.json") == description
