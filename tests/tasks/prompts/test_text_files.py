"""Text files are read packed or plain, with one type for each column, and any change of a file is noticed."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts import text_stream
from parquill.tasks.prompts.source import find_source, read_batches
from parquill.tasks.prompts.text_names import kind_of, packing_of, separator_of

ROWS = [{"id": "007", "n": 1, "text": "a, b"}, {"id": "12", "n": 2, "text": None}, {"id": "13", "n": 3, "text": "ä"}]


def _text(name: str, rows: list[dict[str, Any]]) -> bytes:
    if kind_of(name) == "JSON lines":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    mark = separator_of(name)
    lines = [list(rows[0]), *[["" if cell is None else str(cell) for cell in row.values()] for row in rows]]
    return "".join(mark.join(f'"{cell}"' if "," in cell else cell for cell in line) + "\n" for line in lines).encode()


def _write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _text(path.name, rows)
    if packing_of(path.name) == "gzip":
        data = gzip.compress(data)
    elif packing_of(path.name) == "zstd":
        data = pa.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return path


def _rows(location: Path | str) -> list[tuple[str, int, dict[str, Any]]]:
    """Return the file name, the number and the cells of each row."""
    source = find_source(str(location))
    return [
        (file.name, first + offset, row)
        for file, first, batch in read_batches(source)
        for offset, row in enumerate(batch.to_pylist())
    ]


@pytest.mark.parametrize("ending", ["csv", "CSV", "tsv", "jsonl", "ndjson"])
@pytest.mark.parametrize("packed", ["", ".gz", ".zst", ".GZ"])
def test_every_ending(tmp_path: Path, place: str, ending: str, packed: str) -> None:
    """CSV and JSON lines files give the same rows, plain or packed, on disk or from a store."""
    name = f"a.{ending}{packed}"
    _write(tmp_path / "in" / name)
    expected = [(name, number, row) for number, row in enumerate(ROWS)]
    assert _rows(f"{place}/in/{name}") == _rows(f"{place}/in") == expected


def test_a_folder(tmp_path: Path, place: str) -> None:
    """A folder of text files is read in the order of names.

    Row numbers begin at 0 in each file, and key=value folders are columns.
    """
    for name in ("dt=2/a.csv", "dt=1/b.csv.gz", "dt=1/a.csv"):
        _write(tmp_path / "in" / name)
    _write(tmp_path / "in" / "dt=1" / "_hidden.csv")
    (tmp_path / "in" / "dt=1" / "notes.txt").write_text("x")
    found = _rows(f"{place}/in")
    names = ["dt=1/a.csv", "dt=1/b.csv.gz", "dt=2/a.csv"]
    assert [(name, number) for name, number, _ in found] == [(name, number) for name in names for number in range(3)]
    assert [row["dt"] for _, _, row in found] == [1] * 6 + [2] * 3
    assert _rows(f"{place}/in/dt=*/*.csv") == found[:3] + found[6:]
    others, hidden = find_source(f"{place}/in").notes
    assert others == "files of the input that are not CSV and are left out: 1 (dt=1/notes.txt)"
    assert hidden.endswith("are left out: 1 (dt=1/_hidden.csv)")


def test_parquet_comes_first(tmp_path: Path, place: str) -> None:
    """If a folder has Parquet files, its text files are left out and named."""
    _write(tmp_path / "in" / "a.csv")
    _write(tmp_path / "in" / "b.jsonl")
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "in" / "c.parquet")
    assert _rows(f"{place}/in") == [("c.parquet", 0, {"id": "x"})]
    (note,) = find_source(f"{place}/in").notes
    assert note == "files of the input that are not Parquet and are left out: 2 (a.csv, b.jsonl)"


def test_two_kinds(tmp_path: Path, place: str) -> None:
    """A folder or a glob with CSV and JSON lines is refused with two of the names, and a glob of one kind is read."""
    _write(tmp_path / "in" / "a.csv")
    _write(tmp_path / "in" / "b.jsonl")
    for location in (f"{place}/in", f"{place}/in/*"):
        with pytest.raises(BadInput) as caught:
            find_source(location)
        message = str(caught.value)
        assert message.startswith(f"{location} has files of two kinds, ")
        assert f"{place}/in/a.csv and {place}/in/b.jsonl" in message
        assert "write a glob for one kind, such as one that ends in /*.csv" in message
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "in" / "c.parquet")
    with pytest.raises(BadInput, match="has files of two kinds"):
        find_source(f"{place}/in/[ac].*")
    assert len(_rows(f"{place}/in/*.csv")) == len(_rows(f"{place}/in/*.jsonl")) == 3


def test_parquet_with_the_name_of_a_text_file(tmp_path: Path) -> None:
    """A local file that begins like Parquet is read as Parquet, whatever its name."""
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "a.csv")
    assert _rows(tmp_path / "a.csv") == _rows(tmp_path) == [("a.csv", 0, {"id": "x"})]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_one_type_for_all_files(tmp_path: Path, ending: str) -> None:
    """A column has the type that holds its values of all files.

    A file of integers does not make a folder unreadable.
    """
    _write(tmp_path / f"1.{ending}", [{"n": 1, "m": 2}])
    _write(tmp_path / f"2.{ending}", [{"n": 2, "m": None}])
    _write(tmp_path / f"3.{ending}", [{"n": 2.5, "m": 3}])
    found = [row for _, _, row in _rows(tmp_path)]
    numbers = ["1", "2", "2.5"] if ending == "csv" else [1.0, 2.0, 2.5]
    assert found == [{"n": n, "m": m} for n, m in zip(numbers, [2, None, 3], strict=True)]


def test_types_of_two_files_that_conflict(tmp_path: Path) -> None:
    """A key that is a number in one JSON lines file and text in another is refused with both files and lines."""
    _write(tmp_path / "1.jsonl", [{"n": 1}])
    _write(tmp_path / "2.jsonl", [{"n": None}, {"n": "x"}])
    with pytest.raises(BadInput) as caught:
        find_source(str(tmp_path))
    message = f"{tmp_path}/2.jsonl, line 2: 'n' is text here, but a number in {tmp_path}/1.jsonl, line 1;"
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "none"])
def test_packed_files_that_are_damaged(tmp_path: Path, name: str, damage: str) -> None:
    """A packed file that is cut off, damaged or not packed is refused by name, and none of its rows is read."""
    # a fixed text: pyarrow writes zstd without a checksum, so some damage would only change characters
    rng = random.Random(5)
    path = _write(tmp_path / name, [{"id": rng.randbytes(500).hex()} for _ in range(200)])
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[100:500] = bytes(400)  # the position of the code tables
    else:
        data = bytearray(b"id\n1\n")
    path.write_bytes(data)
    with pytest.raises(BadInput) as caught:
        find_source(str(path))
    assert str(caught.value).startswith(str(path))
    # zstd notices a changed byte only by chance; then the text itself is not JSON
    assert re.search(r"cannot be unpacked: it is damaged, cut off, or not|line \d+ is not JSON", str(caught.value))


def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed file that expands more than any text is refused while it is unpacked."""
    monkeypatch.setattr(text_stream, "EXPANSION_FLOOR_BYTES", 1 << 20)
    monkeypatch.setattr(text_stream, "MAX_EXPANSION", 20)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 2_000_000))
    with pytest.raises(BadInput, match="a decompression bomb"):
        find_source(str(path))


def _append(path: Path) -> None:
    _write(path, [*ROWS, ROWS[0]])


def _edit(path: Path) -> None:
    """Write another value and keep the size and the time."""
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b"12", b"21"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4] + b'"x{')


@pytest.mark.parametrize("change", [_append, _edit, _damage, Path.unlink])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_that_changes(tmp_path: Path, ending: str, change: Callable[[Path], None]) -> None:
    """A file that changes before or while its rows are read is refused by name, even if its size and time stay.

    The changed file is another input.
    """
    path = _write(tmp_path / f"a.{ending}")
    source = find_source(str(tmp_path))
    assert find_source(str(tmp_path)).fingerprint == source.fingerprint
    change(path)
    with pytest.raises(BadInput, match=rf"a\.{ending} was changed while it was read"):
        list(read_batches(source))
    if change in {_append, _edit}:
        assert find_source(str(tmp_path)).fingerprint != source.fingerprint
    _write(path)
    batches = read_batches(find_source(str(tmp_path)))
    next(batches)
    change(path)
    with pytest.raises(BadInput, match=rf"a\.{ending} was changed while it was read"):
        list(batches)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_that_changes_behind_the_first_rows(tmp_path: Path, ending: str) -> None:
    """Even if only the first rows are read, a file with other bytes and the same size and time is refused."""
    path = _write(tmp_path / f"a.{ending}")
    source = find_source(str(path))
    assert [batch.num_rows for _, _, batch in read_batches(source, 1)] == [1]
    _edit(path)
    with pytest.raises(BadInput, match=rf"a\.{ending} was changed while it was read"):
        list(read_batches(source, 1))


def test_a_file_that_grows_during_the_first_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows while its rows are counted is refused."""
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", 16)
    path, blocks = _write(tmp_path / "a.csv"), text_stream.TextStream.blocks

    def appended(self: text_stream.TextStream, *rest: Any) -> Any:
        for block in blocks(self, *rest):
            yield block
            with path.open("ab") as file:
                file.write(b"1,2,3\n" * (path.stat().st_size < 500))

    monkeypatch.setattr(text_stream.TextStream, "blocks", appended)
    with pytest.raises(BadInput, match=r"a\.csv was changed while it was read"):
        find_source(str(path))


def test_an_object_that_changes(tmp_path: Path, shop: str) -> None:
    """An object of a store without tags is identified by its bytes, like a local file."""
    path = _write(tmp_path / "in" / "a.csv")
    source = find_source(f"{shop}/in/a.csv")
    _edit(path)
    assert find_source(f"{shop}/in/a.csv").fingerprint != source.fingerprint
    with pytest.raises(BadInput, match=r"s3://shop/in/a\.csv was changed while it was read"):
        list(read_batches(source))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl"])
def test_files_are_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Both passes read at most one block at a time, and the first rows come before the rest of the file is read."""
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", 1_000)
    sizes: list[int] = []
    read = text_stream.TextStream.read

    def counted(self: text_stream.TextStream, size: int) -> bytes:
        sizes.append(size)
        return read(self, size)

    monkeypatch.setattr(text_stream.TextStream, "read", counted)
    path = _write(tmp_path / name, [{"id": f"r{n}", "text": "x" * 50} for n in range(3_000)])
    source = find_source(str(path))
    assert max(sizes) == 1_000
    assert len(sizes) > 100
    sizes.clear()
    batches = read_batches(source)
    next(batches)
    assert len(sizes) < 80
    assert sum(batch.num_rows for _, _, batch in batches) < 3_000
    assert max(sizes) == 1_000


def test_a_folder_that_the_column_contradicts(tmp_path: Path) -> None:
    """A column that contradicts the key=value folder of its name is refused, as in Parquet."""
    _write(tmp_path / "dt=2024-01-02" / "a.csv", [{"dt": "2024-01-02", "n": 1}])
    assert [row["dt"] for _, _, row in _rows(tmp_path)] == ["2024-01-02"]
    _write(tmp_path / "dt=2024-01-02" / "a.csv", [{"dt": "2024-01-03", "n": 1}])
    with pytest.raises(BadInput, match="do not agree"):
        _rows(tmp_path)
