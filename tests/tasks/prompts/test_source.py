"""Parquill reads files, folders and globs as input, names damage, and keeps every value."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.input_parquet import BATCH_BYTES, BATCH_ROWS
from parquill.tasks.prompts.source import Source, find_source, read_batches


def _write(path: Path, *texts: str, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, **options)
    return path


def _table(source: Source, limit: int | None = None) -> pa.Table:
    return pa.Table.from_batches([batch for _, _, batch in read_batches(source, limit)], source.schema)


def _texts(source: Source) -> list[str]:
    return [str(text) for text in _table(source).column("text").to_pylist()]


def _refusal(location: Path | str) -> str:
    with pytest.raises(BadInput) as caught:
        _table(find_source(str(location)))
    return str(caught.value)


def _partition(root: Path, name: str, *values: str) -> tuple[pa.DataType, list[Any]]:
    for value in values:
        _write(root / f"{name}={value}" / "a.parquet", "x")
    source = find_source(str(root))
    by_file = dict(zip([file.name for file in source.files], _table(source).column(name).to_pylist(), strict=True))
    return source.schema.field(name).type, [by_file[f"{name}={value}/a.parquet"] for value in values]


def test_a_file(tmp_path: Path) -> None:
    """A single file is read under its own name, whatever its extension."""
    source = find_source(str(_write(tmp_path / "prompts.data", "a", "b")))
    assert _texts(source) == ["a", "b"]
    assert [(file.name, file.rows) for file in source.files] == [("prompts.data", 2)]
    assert source.rows == 2


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    """A folder is read with its subfolders, sorted by name, without hidden files and files that are not Parquet."""
    _write(tmp_path / "b.parquet", "third")
    _write(tmp_path / "a" / "2.parquet", "second")
    _write(tmp_path / "a" / "1.parquet", "first")
    _write(tmp_path / "_temporary" / "x.parquet", "never")
    _write(tmp_path / ".hidden" / "x.parquet", "never")
    _write(tmp_path / ".c.parquet", "never")
    _write(tmp_path / "_d.parquet", "never")
    (tmp_path / "notes.txt").write_text("never")
    (tmp_path / "folder.parquet").mkdir()
    source = find_source(str(tmp_path))
    assert [file.name for file in source.files] == ["a/1.parquet", "a/2.parquet", "b.parquet"]
    assert _texts(source) == ["first", "second", "third"]


def test_globs(tmp_path: Path) -> None:
    """A glob reads the files that it matches, also across folders, and file names start after its fixed part."""
    for name in ("x/a1.parquet", "x/b1.parquet", "y/a2.parquet", "y/deep/a3.parquet"):
        _write(tmp_path / name, name)
    assert _texts(find_source(f"{tmp_path}/*/a*.parquet")) == ["x/a1.parquet", "y/a2.parquet"]
    source = find_source(f"{tmp_path}/**/a?.parquet")
    assert [file.name for file in source.files] == ["x/a1.parquet", "y/a2.parquet", "y/deep/a3.parquet"]
    assert _texts(find_source(f"{tmp_path}/[xy]/b1.parquet")) == ["x/b1.parquet"]


def test_a_relative_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glob without a folder applies to the working directory."""
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "a.parquet", "x")
    assert [file.name for file in find_source("*.parquet").files] == ["a.parquet"]


def test_a_file_with_a_name_like_a_glob(tmp_path: Path) -> None:
    """A file that exists is read, even if its name could be a glob."""
    assert _texts(find_source(str(_write(tmp_path / "a[1].parquet", "x")))) == ["x"]


def test_whole_numbers_in_folders_become_int64(tmp_path: Path) -> None:
    """A key=value folder is an int64 column if every value is an integer."""
    assert _partition(tmp_path, "year", "2026", "-1", "0") == (pa.int64(), [2026, -1, 0])


@pytest.mark.parametrize(
    "value", ["007", "+7", "1_000", "-0", "1.0", "1e3", "0x10", "\u0661\u0662", "9" * 19, "", "-", "--5"]
)
def test_what_only_looks_like_a_number_stays_text(tmp_path: Path, value: str) -> None:
    """A value that an integer would change or could not hold is text: 007 stays 007."""
    assert _partition(tmp_path, "code", value) == (pa.string(), [value])


def test_one_word_makes_the_column_text(tmp_path: Path) -> None:
    """If one value is a word, all values are text, so that the column has one type."""
    assert _partition(tmp_path, "code", "7", "x") == (pa.string(), ["7", "x"])


def test_dates_in_folders_stay_text(tmp_path: Path) -> None:
    """A date in a folder name is text and stays as it is written."""
    assert _partition(tmp_path, "dt", "2026-11-22", "2026-11-23") == (pa.string(), ["2026-11-22", "2026-11-23"])


def test_the_null_of_hive(tmp_path: Path) -> None:
    """__HIVE_DEFAULT_PARTITION__ is null, next to numbers, next to words and alone."""
    null = "__HIVE_DEFAULT_PARTITION__"
    assert _partition(tmp_path / "a", "n", "1", null) == (pa.int64(), [1, None])
    assert _partition(tmp_path / "b", "n", "x", null) == (pa.string(), ["x", None])
    assert _partition(tmp_path / "c", "n", null) == (pa.string(), [None])


def test_escaped_values_are_unescaped(tmp_path: Path) -> None:
    """A value that Hive has URL-escaped is unescaped, and a value with = is kept whole."""
    kind, values = _partition(tmp_path, "city", "S%C3%A3o%20Paulo", "a%2Fb", "x=y", "50%")
    assert (kind, values) == (pa.string(), ["S\u00e3o Paulo", "a/b", "x=y", "50%"])


def test_nested_folders_and_those_above_the_input(tmp_path: Path) -> None:
    """Every key=value folder of the whole path is a column, even above the location that the job names."""
    path = _write(tmp_path / "shop=eu" / "dt=2026-11-23" / "hour=7" / "a.parquet", "x")
    for location in (tmp_path, tmp_path / "shop=eu" / "dt=2026-11-23", path):
        row = _table(find_source(str(location))).to_pylist()
        assert row == [{"text": "x", "shop": "eu", "dt": "2026-11-23", "hour": 7}]


def test_folders_with_different_keys_are_refused(tmp_path: Path) -> None:
    """Files whose folders have different keys are refused, and the different file is named."""
    _write(tmp_path / "a=1" / "x.parquet", "x")
    odd = _write(tmp_path / "b=1" / "x.parquet", "x")
    assert str(odd) in _refusal(tmp_path)


@pytest.mark.parametrize("rows_a_group", [1, 7, 5000])
def test_batches_are_bounded_whatever_the_row_groups(tmp_path: Path, rows_a_group: int) -> None:
    """For tiny and huge row groups, batches have a limited size, contiguous numbers and every row once."""
    texts = [f"row {number}" for number in range(5000)]
    path = _write(tmp_path / "a.parquet", *texts, row_group_size=rows_a_group)
    source = find_source(str(path))
    found: list[str] = []
    for file, first, batch in read_batches(source):
        assert file.name == "a.parquet"
        assert first == len(found)
        assert 0 < batch.num_rows <= BATCH_ROWS
        found += batch.column("text").to_pylist()
    assert found == texts


def test_long_rows_make_short_batches(tmp_path: Path) -> None:
    """A batch of rows of 64 KB has fewer than 1,024 rows, to save memory."""
    texts = [f"{number:06d}" * 11_000 for number in range(400)]
    source = find_source(str(_write(tmp_path / "a.parquet", *texts, use_dictionary=False)))
    sizes = [batch.nbytes for _, _, batch in read_batches(source)]
    assert len(sizes) > 2
    assert max(sizes) < 2 * BATCH_BYTES


@pytest.mark.parametrize(("limit", "rows"), [(0, 0), (1, 1), (2, 2), (3, 3), (5, 5), (99, 5), (None, 5)])
def test_a_limit_counts_over_files(tmp_path: Path, limit: int | None, rows: int) -> None:
    """`--limit` uses the first rows of the whole input, not of each file."""
    _write(tmp_path / "1.parquet", "a", "b")
    _write(tmp_path / "2.parquet", "c", "d", "e")
    table = _table(find_source(str(tmp_path)), limit)
    assert table.column("text").to_pylist() == ["a", "b", "c", "d", "e"][:rows]


def test_no_rows_are_no_fault(tmp_path: Path) -> None:
    """A file with 0 rows is read with its columns, alone and between other files."""
    empty = find_source(str(_write(tmp_path / "b.parquet")))
    assert (empty.rows, empty.schema.names, _texts(empty)) == (0, ["text"], [])
    _write(tmp_path / "a.parquet", "x")
    _write(tmp_path / "c.parquet", "y")
    assert _texts(find_source(str(tmp_path))) == ["x", "y"]


def test_missing_input_is_refused_by_name(tmp_path: Path) -> None:
    """A refusal names a missing file, folder or glob and a folder without input files."""
    (tmp_path / "empty").mkdir()
    assert _refusal(tmp_path / "none.parquet") == f"the input {tmp_path}/none.parquet does not exist"
    message = f"the folder {tmp_path}/empty holds no *.parquet, *.csv or *.jsonl file"
    assert _refusal(tmp_path / "empty") == (
        f"{message}; if its files have other names, write a glob for them, such as {tmp_path}/empty/*"
    )
    assert _refusal(f"{tmp_path}/*.parquet") == f"no file matches {tmp_path}/*.parquet"
    advice = f"but folders do: write {tmp_path}/em*/*.parquet for the files in them"
    assert _refusal(f"{tmp_path}/em*") == f"no file matches {tmp_path}/em*, {advice}"


def test_zero_bytes_are_refused(tmp_path: Path) -> None:
    """The refusal of an empty file says that it is empty."""
    path = tmp_path / "a.parquet"
    path.touch()
    assert _refusal(tmp_path) == f"{path} is empty (0 bytes)"


@pytest.mark.parametrize("data", [b"PAR1", b"id,text\n1,hello\n", b"\0" * 4096, b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_what_is_not_parquet_is_refused(tmp_path: Path, data: bytes) -> None:
    """A CSV, zeros or a file that only begins like Parquet is refused with its path."""
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    assert _refusal(path).startswith(f"{path} is not a readable Parquet file: ")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """A file that is cut off at any byte is refused with its path before anything is read from it."""
    data = _write(tmp_path / "whole.parquet", *[f"row {n}" for n in range(20)]).read_bytes()
    path = tmp_path / "cut.parquet"
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(BadInput, match=r"cut\.parquet is not a readable Parquet file"):
            find_source(str(path))


def test_a_flipped_bit_in_a_page_is_found(tmp_path: Path) -> None:
    """In a file with page checksums, a flipped bit of a value is found and named, and never read as a prompt."""
    texts = [f"the text of row {number}" for number in range(100)]
    path = _write(
        tmp_path / "a.parquet",
        *texts,
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
        write_statistics=False,
    )
    data = bytearray(path.read_bytes())
    for offset in (data.index(b"row 0"), data.index(b"row 57"), data.index(b"text of row 99")):
        damaged = bytearray(data)
        damaged[offset] ^= 4
        path.write_bytes(bytes(damaged))
        source = find_source(str(path))
        with pytest.raises(BadInput) as caught:
            _table(source)
        assert str(caught.value).startswith(f"{path}: row 0 or later cannot be read: ")


def test_any_flipped_bit_is_refused_or_harmless(tmp_path: Path) -> None:
    """If any bit is flipped, reading ends in a refusal or in rows, and never in another error."""
    path = _write(tmp_path / "a.parquet", *[f"row {n}" for n in range(30)], write_page_checksum=True)
    data = path.read_bytes()
    refused = 0
    for offset in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << offset % 8
        path.write_bytes(bytes(damaged))
        try:
            _table(find_source(str(path)))
        except BadInput as error:
            assert str(path) in str(error)  # noqa: PT017 - a refusal and no refusal are both right
            refused += 1
    assert refused > len(data) // 6


def test_errors_are_one_line(tmp_path: Path) -> None:
    """A library's error about a broken file is cut to one line of limited length."""
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"\n" * 5000 + b"PAR1")
    message = _refusal(path)
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300


def test_a_path_that_cannot_be_is_not_there(tmp_path: Path) -> None:
    """A path with a NUL and a socket are refused without a traceback."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "a.parquet"))
        assert _refusal(tmp_path / "a.parquet") == f"{tmp_path}/a.parquet is not a file"
    assert "does not exist" in _refusal(tmp_path / "a\0b.parquet")


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    """A file with two columns of the same name is refused, and the refusal has the name."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    assert _refusal(path) == f"{path} has the column 'text' more than once"


def _recount(path: Path, *, in_file: int, in_group: int) -> None:
    """Write a file of 8 rows in one row group, and change the row counts in its footer."""
    pq.write_table(pa.table({"text": [*"abcdefgh"], "list": [[1, 2]] * 8}), path)
    data = bytearray(path.read_bytes())
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # in thrift's compact protocol 0x16 begins a 64-bit integer, whose last bit is its sign
    data[data.index(b"\x16\x10\x19\x1c", start) + 1] = in_file << 1
    data[data.rindex(b"\x16\x10") + 1] = in_group << 1
    path.write_bytes(data)
    footer = pq.read_metadata(path)
    assert (footer.num_rows, footer.row_group(0).num_rows) == (in_file, in_group)


def test_a_footer_that_contradicts_itself(tmp_path: Path) -> None:
    """If a footer's row count differs from its row groups, or a column has more values, the file is refused.

    Rows are counted by row groups, and no row is left out.
    """
    path = tmp_path / "a.parquet"
    for rows in (2, 9):
        _recount(path, in_file=rows, in_group=8)
        assert _refusal(path) == f"{path} says that it has {rows} rows, but its row groups have 8: write it again"
        _recount(path, in_file=rows, in_group=rows)
        assert (
            _refusal(path)
            == f"{path} says that a row group has {rows} rows, but its column 'text' has 8: write it again"
        )


def test_rows_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with fewer rows than its footer says is refused as damaged."""
    path = tmp_path / "a.parquet"
    monkeypatch.setattr("parquill.tasks.prompts.input_parquet.MAX_CHUNKS", 0)
    _recount(path, in_file=9, in_group=9)
    with pytest.raises(BadInput) as caught:
        list(read_batches(find_source(str(path)), None, ["text"]))
    assert str(caught.value) == f"{path} is damaged: it has 8 rows, but its footer says 9"


def test_the_order_of_columns_does_not_matter(tmp_path: Path) -> None:
    """Files with the same columns in another order are one input, and every value stays in its column."""
    pq.write_table(pa.table({"text": ["x"], "id": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [2], "text": ["y"]}), tmp_path / "b.parquet")
    assert _table(find_source(str(tmp_path))).to_pylist() == [{"text": "x", "id": 1}, {"text": "y", "id": 2}]


def test_results_are_not_read_as_prompts(tmp_path: Path) -> None:
    """An output folder inside the input is refused, because its answers would be sent as prompts."""
    _write(tmp_path / "a.parquet", "x")
    _write(tmp_path / "out" / "results" / "part.parquet", "y")
    with pytest.raises(BadInput, match="lies inside the input"):
        find_source(str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(BadInput, match="lies inside the input"):
        find_source(f"{tmp_path}/**/*.parquet", str(tmp_path / "out"))


@pytest.mark.parametrize("given", ["in.parquet", "in/*.parquet"])
def test_an_input_inside_the_output(tmp_path: Path, given: str) -> None:
    """An input below the output folder is refused with a message that says so."""
    _write(tmp_path / "in.parquet", "x")
    _write(tmp_path / "in" / "a.parquet", "x")
    with pytest.raises(BadInput, match=rf"the input {re.escape(str(tmp_path / given))} lies inside the output"):
        find_source(str(tmp_path / given), str(tmp_path))


def test_an_output_beside_the_input_is_no_fault(tmp_path: Path) -> None:
    """A folder whose name only begins like the input's is not inside the input."""
    _write(tmp_path / "in" / "a.parquet", "x")
    assert find_source(str(tmp_path / "in"), str(tmp_path / "in-out")).rows == 1


def test_a_changed_input_has_another_fingerprint(tmp_path: Path) -> None:
    """The same files have the same fingerprint, and another file, size, name or time has another."""
    path = _write(tmp_path / "a.parquet", "x")
    first = find_source(str(tmp_path)).fingerprint
    assert find_source(str(tmp_path)).fingerprint == first
    seen = {first}
    _write(path, "xy")
    seen.add(find_source(str(tmp_path)).fingerprint)
    path.rename(tmp_path / "b.parquet")
    seen.add(find_source(str(tmp_path)).fingerprint)
    _write(tmp_path / "c.parquet", "z")
    seen.add(find_source(str(tmp_path)).fingerprint)
    assert len(seen) == 4


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_an_edit_that_keeps_size_and_time(tmp_path: Path, compression: str) -> None:
    """An edit that keeps a file's size and time is another input, because the footer has other statistics.

    If the edit is made while the file is read, the run stops.
    """
    path = tmp_path / "a.parquet"

    def write(text: str) -> None:
        pq.write_table(pa.table({"text": [text, "b"]}), path, compression=compression)

    write("old")
    stat, source = path.stat(), find_source(str(path))
    write("new")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert find_source(str(path)).fingerprint != source.fingerprint
    with pytest.raises(BadInput, match=r"a\.parquet was changed while it was read"):
        list(read_batches(source))
    write("old")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert find_source(str(path)).fingerprint == source.fingerprint


def _claim(path: Path, size: int) -> None:
    """Change the size of the only row group in the footer (thrift's compact protocol)."""

    def field(value: int) -> bytes:
        number, digits = value << 1, []  # zigzag, then seven bits a byte
        while number > 127:
            digits.append(number & 127 | 128)
            number >>= 7
        return bytes([0x16, *digits, number])

    data, claimed = path.read_bytes(), pq.read_metadata(path).row_group(0).total_byte_size
    length = int.from_bytes(data[-8:-4], "little")
    start, end = data[: -8 - length], data[-8 - length : -8]
    offset = end.rindex(field(claimed))  # the row group's size comes after those of its columns
    end = end[:offset] + field(size) + end[offset + len(field(claimed)) :]
    path.write_bytes(start + end + len(end).to_bytes(4, "little") + b"PAR1")
    assert pq.read_metadata(path).row_group(0).total_byte_size == size


def test_a_decompression_bomb_is_refused_by_its_footer(tmp_path: Path) -> None:
    """A small file whose footer claims 20 GB is refused before it is read, and one that claims 2 GB is read."""
    path = _write(tmp_path / "a.parquet", "x" * 300)
    _claim(path, 2 << 30)
    assert find_source(str(path)).rows == 1
    _claim(path, 20 << 30)
    assert _refusal(path).endswith("bytes: a decompression bomb?")


def test_metadata_of_the_file_is_kept(tmp_path: Path) -> None:
    """The schema keeps the writer's metadata (the index of pandas, units) for the results."""
    schema = pa.schema([pa.field("text", pa.string(), metadata={"unit": "word"})], metadata={"made": "by us"})
    pq.write_table(pa.table({"text": ["x"]}, schema), tmp_path / "a.parquet")
    table = _table(find_source(str(tmp_path)))
    assert table.schema.metadata[b"made"] == b"by us"
    assert table.schema.field("text").metadata[b"unit"] == b"word"
