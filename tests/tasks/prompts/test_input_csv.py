"""Every value of a CSV keeps its text, and a refusal names the line of a faulty file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts import input_text, text_stream
from parquill.tasks.prompts.source import find_source, read_batches


@pytest.fixture(params=[1 << 20, 5], ids=["one block", "blocks of 5 bytes"])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Block sizes that put rows and quoted cells in one block or in many."""
    size: int = request.param
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", size)
    return size


def _rows(location: Path | str) -> list[dict[str, Any]]:
    source = find_source(str(location))
    found = [row for _, _, batch in read_batches(source) for row in batch.to_pylist()]
    assert len(found) == source.rows
    return found


def _write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        find_source(str(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


@pytest.mark.usefixtures("block_bytes")
def test_quoted_cells(tmp_path: Path) -> None:
    """Separators, line ends and doubled quotes in a quoted cell are text, and so is a quote in an unquoted cell."""
    path = _write(tmp_path / "a.csv", 'id,text\r\n1,"a, ""b""\r\nc"\r\n\r\n2,5" pipe\r\n3,"""\n"\n4,x"y"')
    assert _rows(path) == [
        {"id": 1, "text": 'a, "b"\r\nc'},
        {"id": 2, "text": '5" pipe'},
        {"id": 3, "text": '"\n'},
        {"id": 4, "text": 'x"y"'},
    ]


@pytest.mark.usefixtures("block_bytes")
def test_null_and_empty_text(tmp_path: Path) -> None:
    """An empty cell is null, `""` is empty text, and words such as NULL or NA are text."""
    path = _write(tmp_path / "a.csv", 'a,b\n,""\n"",\nNULL,NA\n')
    assert _rows(path) == [{"a": None, "b": ""}, {"a": "", "b": None}, {"a": "NULL", "b": "NA"}]


@pytest.mark.usefixtures("block_bytes")
def test_tabs(tmp_path: Path) -> None:
    """A .tsv file is separated by tabs, and its commas are text."""
    assert _rows(_write(tmp_path / "a.tsv", "a\tb\n1,5\tx\n")) == [{"a": "1,5", "b": "x"}]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_mark_and_line_ends(tmp_path: Path, mark: bytes, end: str) -> None:
    """A byte order mark is not part of the first name, and any line end or the end of the file ends a row."""
    path = _write(tmp_path / "a.csv", mark + end.join(["id,text", "1,ä", "2,b"]).encode())
    assert _rows(path) == [{"id": 1, "text": "ä"}, {"id": 2, "text": "b"}]


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", "0"], pa.int64()),
        (["9223372036854775807", "-9223372036854775808"], pa.int64()),
        (["0.5", "-12.25", "1e-05", "3.0"], pa.float64()),
        (["1", "007"], pa.string()),
        (["1.5", "1.10"], pa.string()),
        (["1", "1.5"], pa.string()),
        (["1.5", "2"], pa.string()),
        (["1e5"], pa.string()),
        (["2024-01-02"], pa.string()),
        (["true"], pa.string()),
        (["12345678901234567890"], pa.string()),
        (["0.1234567890123456789"], pa.string()),
        (["+1"], pa.string()),
        (["-0"], pa.string()),
        ([" 1"], pa.string()),
        (["1_000"], pa.string()),
        (["1", "x"], pa.string()),
        (["nan", "inf"], pa.string()),
        (["1e999"], pa.string()),
        (["٣"], pa.string()),
        (["1", '""'], pa.string()),
        (["", ""], pa.string()),
    ],
)
def test_no_value_changes_its_text(tmp_path: Path, values: list[str], kind: pa.DataType) -> None:
    """A column is numeric only if every value would be written again exactly as it is. Nulls do not count."""
    path = _write(tmp_path / "a.csv", "n,x\n" + "".join(f"{value},x\n" for value in [*values, ""]))
    assert find_source(str(path)).schema.field("n").type == kind
    written = ["" if row["n"] is None else str(row["n"]) for row in _rows(path)]
    assert written == [*(value.strip('"') for value in values), ""]


_CELLS = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    st.sampled_from(['"', ",", "\n", "\r\n", '",\n"', "1", "007", "1.5", "-0.0", "\ufeff"]),
)


def _written(table: list[list[str | None]]) -> Iterator[str]:
    """Yield each row as a CSV writer may write it, with text quoted so that it is not null."""
    for row in table:
        yield ",".join("" if cell is None else '"' + cell.replace('"', '""') + '"' for cell in row) + "\n"


@given(table=st.lists(st.lists(_CELLS, min_size=3, max_size=3), max_size=6), block=st.integers(1, 40))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: list[list[str | None]], block: int
) -> None:
    """Rows have the text of a CSV file character for character, wherever blocks end."""
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", block)
    path = _write(tmp_path / "a.csv", "a,b,c\n" + "".join(_written(table)))
    assert [[cell if cell is None else str(cell) for cell in row.values()] for row in _rows(path)] == table


@example(table=[["a", "0", "0"], ["\ufeffb", "0", "0"]], block=1)  # a mark at the beginning of a block
@given(table=st.lists(st.lists(_CELLS.filter(bool), min_size=3, max_size=3), max_size=6), block=st.integers(1, 40))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_python_writes_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: list[list[str]], block: int
) -> None:
    """Text that Python's CSV writer writes is read unchanged."""
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", block)
    text = io.StringIO(newline="")
    # lines end with \r\n: before Python 3.13 a writer with other ends leaves a lone \r or \n without quotes
    csv.writer(text).writerows([["a", "b", "c"], *table])
    path = _write(tmp_path / "a.csv", text.getvalue())
    assert [list(map(str, row.values())) for row in _rows(path)] == table


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n"x\ny",1\n\n1,2,3\n', ", line 5: the row has 3 cells, but the header has 2"),
        ("a,b\n1,2\n3\n4,5\n", ", line 3: the row has 1 cell, but the header has 2"),
        ("a,b\r\n1,2\r\n3\r\n", ", line 3: the row has 1 cell, but the header has 2"),
        ('a,b\n1,2\n"x,3\n4,5\n', ", line 3: the quote that opens a cell here is never closed"),
        ('a,b\n1,2\n3,"x"y\n4,5\n', ", line 3: text follows the closing quote of a cell; a quote within"),
        ('a,b\n1,"x" \n4,5\n', ", line 2: text follows the closing quote of a cell"),
        ("a,b\n1,2\n\x00,3\n", ", line 3: there is a NUL byte"),
        ("a,b\n1,2\nä,3\n".encode("latin-1"), ", line 3: the text is not UTF-8 (is it Latin-1 or Windows-1252?)"),
        ("a,b\n1,2\n".encode("utf-16"), ", line 1: the text is UTF-16; save it as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-be"), ", line 1: there is a NUL byte"),
        ("\n\r\n", " has no header row with the names of the columns"),
        ("", " is empty (0 bytes)"),
        ("a,b,a\n1,2,3\n", " has the column 'a' more than once"),
        (",text\n0,a\n", ", line 1: the header has no name in cell 1; name each column"),
        ("a;b\n1;2\n", ", line 1: no comma separates the names; .csv has commas, .tsv has tabs"),
    ],
)
def test_a_fault_of_the_file(tmp_path: Path, text: str | bytes, message: str) -> None:
    """A damaged file stops the job before any row is counted. The refusal has its name and line, and no cell text."""
    assert _refusal(_write(tmp_path / "in" / "a.csv", text)).startswith(message)


def test_a_quote_that_is_never_closed_holds_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quote that is never closed is refused after a limited number of bytes, not after the whole file."""
    monkeypatch.setattr(text_stream, "MAX_ROW_BYTES", 1 << 12)
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", 1 << 10)
    path = _write(tmp_path / "a.csv", 'a,b\n1,"x\n' + "4,5\n" * 100_000)
    assert _refusal(path) == ", line 2: the quote that opens a cell here is never closed"
    path = _write(tmp_path / "b.csv", "a,b\n1," + "x" * 50_000 + "\n")
    assert _refusal(path).startswith(", line 2: the row that begins here is longer than")


def test_a_large_cell(tmp_path: Path) -> None:
    """A cell of 5 MB is read whole, together with the rows around it."""
    path = _write(tmp_path / "a.csv", 'a,b\n1,x\n2,"' + "y\n" * 2_500_000 + '"\n3,z\n')
    assert [(row["a"], len(row["b"])) for row in _rows(path)] == [(1, 1), (2, 5_000_000), (3, 1)]


def test_a_header_without_rows(tmp_path: Path) -> None:
    """A file with only a header has its columns and no rows."""
    source = find_source(str(_write(tmp_path / "a.csv", "id,text")))
    assert (source.rows, source.schema.names) == (0, ["id", "text"])
    assert list(read_batches(source)) == []


def test_batches_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come in small batches, numbered from 0 by rows and not by lines, even if only some columns are read."""
    monkeypatch.setattr(input_text, "BATCH_ROWS", 10)
    monkeypatch.setattr(text_stream, "BLOCK_BYTES", 100)
    path = _write(tmp_path / "a.csv", "n,text,m\n" + "".join(f'{n},"a\n\n{n}",x{n}\n\n' for n in range(95)))
    source = find_source(str(path))
    for columns in (None, {"n"}, {"n", "m"}):
        batches = list(read_batches(source, columns=columns))
        assert max(batch.num_rows for _, _, batch in batches) <= 10
        numbers = [first + offset for _, first, batch in batches for offset in range(batch.num_rows)]
        assert numbers == list(range(95))
        assert [n for _, _, batch in batches for n in batch["n"].to_pylist()] == list(range(95))
    assert sum(batch.num_rows for _, _, batch in read_batches(source, 33)) == 33
