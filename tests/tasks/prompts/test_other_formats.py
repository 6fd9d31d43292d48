"""Data that is no Parquet is named, with a command that makes Parquet of it."""

from __future__ import annotations

import gzip
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather, orc

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.other_formats import tell_format
from parquill.tasks.prompts.source import find_source

TABLE = pa.table({"id": [1, 2], "text": ["a", "it's"]})
CSV, TSV = b"id,text\n1,a\n2,it's\n", b"id\ttext\n1\ta\n2\tit's\n"
LINES = b'{"id": 1, "text": "a"}\n{"id": 2, "text": "it\'s"}\n'


def _write(path: Path) -> None:
    match path.name.partition(".")[2]:
        case "csv":
            path.write_bytes(CSV)
        case "TSV":
            path.write_bytes(TSV)
        case "jsonl" | "ndjson":
            path.write_bytes(LINES)
        case "csv.gz":
            path.write_bytes(gzip.compress(CSV))
        case "json":
            path.write_bytes(b"[" + LINES.strip().replace(b"\n", b",") + b"]")
        case "feather":
            feather.write_feather(TABLE, path)
        case "orc":
            orc.write_table(TABLE, path)


@pytest.mark.parametrize("ending", ["csv", "TSV", "jsonl", "ndjson", "csv.gz", "json", "feather", "orc"])
def test_the_command_makes_parquet(tmp_path: Path, ending: str) -> None:
    """The refusal of each format has a command that makes a Parquet file of the same rows, whatever the path."""
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    path = folder / f"in put.{ending}"
    _write(path)
    with pytest.raises(BadInput, match="is not a readable Parquet file: it is ") as caught:
        find_source(str(path))
    python, option, program = shlex.split(str(caught.value).rpartition("convert it: ")[2])
    assert (python, option) == ("python", "-c")
    exec(program, {})  # noqa: S102 - the command is what is tested
    assert pq.read_table(folder / "in put.parquet").to_pylist() == TABLE.to_pylist()
    assert find_source(str(folder / "in put.parquet")).rows == 2


def test_names_that_do_not_tell() -> None:
    """A file whose name says nothing of its format has the reader's own words; an address has no command."""
    assert tell_format("/data/in.parquet") is None
    assert tell_format("/data/in") is None
    assert tell_format("/data/in.gz") is None
    assert tell_format("s3://bucket/in.csv?key=secret") is None
    assert tell_format("s3://bucket/in.csv") == "it is CSV, but Parquill reads only Parquet; convert it"
