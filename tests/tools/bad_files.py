"""Input files that no run may pay for, and odd files without a fault; a function makes each in a folder.

`BAD` has what the refusal must say, `GOOD` the number of rows. No file is stored in the repository, so the tests use
what a library writes today.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather

CANARY = "CANARY-in-a-cell"
TEXTS = [f"{CANARY} {number}" for number in range(8)]


def good(path: Path, **columns: pa.Array | list[object]) -> Path:
    """Write a sound file of eight rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": TEXTS, **columns}), path, write_page_checksum=True)
    return path


def _bytes(folder: Path, data: bytes) -> Path:
    path = folder / "in.parquet"
    path.write_bytes(data)
    return path


def _text(folder: Path, ending: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / f"in.{ending}"
    path.write_bytes(text.encode(encoding))
    return path


def _cut(folder: Path, keep: float) -> Path:
    data = good(folder / "whole" / "in.parquet").read_bytes()
    return _bytes(folder, data[: int(len(data) * keep)])


def _long_footer(folder: Path) -> Path:
    """Write a footer that claims to be longer than the file."""
    data = good(folder / "whole" / "in.parquet").read_bytes()
    return _bytes(folder, data[:-8] + struct.pack("<I", 1 << 30) + b"PAR1")


def _flipped(folder: Path) -> Path:
    """Flip a bit of a value, in a page that has a checksum."""
    path = folder / "in.parquet"
    table = pa.table({"text": TEXTS})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[bytes(data).index(TEXTS[3].encode()) + 3] ^= 1  # neither least nor greatest, so it is not in the statistics
    return _bytes(folder, bytes(data))


def _garbled_footer(folder: Path) -> Path:
    data = bytearray(good(folder / "whole" / "in.parquet").read_bytes())
    draw = random.Random(3)
    for offset in range(len(data) - 200, len(data) - 8):
        data[offset] = draw.randrange(256)
    return _bytes(folder, bytes(data))


def _bomb(folder: Path, value: int, rows: int) -> Path:
    """Write `rows` rows of one value of `value` bytes, stored once in a dictionary: gigabytes out of some kilobytes."""
    path = folder / "in.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [CANARY + "a" * value])
    # without the Arrow schema it is read as text
    pq.write_table(pa.table({"text": column}), path, compression="zstd", store_schema=False)
    return path


def _feather(folder: Path) -> Path:
    feather.write_feather(pa.table({"text": TEXTS}), folder / "in.parquet")
    return folder / "in.parquet"


def _twice(folder: Path) -> Path:
    table = pa.Table.from_arrays([pa.array(TEXTS), pa.array(TEXTS)], ["text", "text"])
    pq.write_table(table, folder / "in.parquet")
    return folder / "in.parquet"


def _folder(folder: Path, **tables: pa.Table) -> Path:
    for name, table in tables.items():
        path = folder / "in" / name.replace("__", "/").replace("_is_", "=") / "part.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    return folder / "in"


def _pipe(folder: Path) -> Path:
    """Make a pipe without a writer: opening it would wait forever."""
    os.mkfifo(folder / "in.parquet")
    return folder / "in.parquet"


def _pipe_in_a_folder(folder: Path) -> Path:
    (folder / "in").mkdir()
    os.mkfifo(folder / "in" / "a.parquet")
    return folder / "in"


def _broken_link(folder: Path) -> Path:
    (folder / "in.parquet").symlink_to(folder / "nowhere")
    return folder / "in.parquet"


def _links_in_a_circle(folder: Path) -> Path:
    (folder / "in").mkdir()
    (folder / "in" / "again").symlink_to(folder / "in")
    return folder / "in"


def _broken_link_in_a_folder(folder: Path) -> Path:
    good(folder / "in" / "a.parquet")
    (folder / "in" / "b.parquet").symlink_to(folder / "nowhere")
    return folder / "in"


def _name_of_bytes(folder: Path) -> Path:
    good(folder / "in" / "a.parquet").rename(folder / "in" / os.fsdecode(b"a\xff.parquet"))
    return folder / "in"


def _linked_folders(folder: Path) -> Path:
    """Make a file, a link to a folder next to the input, and a link that leads back."""
    good(folder / "in" / "dt=1" / "a.parquet")
    good(folder / "elsewhere" / "b.parquet")
    (folder / "in" / "dt=2").symlink_to(folder / "elsewhere")
    (folder / "elsewhere" / "back").symlink_to(folder / "in")
    return folder / "in"


def _own_results(folder: Path) -> Path:
    good(folder / "out" / "results" / "a.parquet")
    return folder / "out"


def _lake(folder: Path, marker: str) -> Path:
    """Make a folder of Parquet files that belongs to a table of another format."""
    good(folder / "in" / "k=1" / "a.parquet")
    (folder / "in" / marker).parent.mkdir()
    (folder / "in" / marker).write_text("{}")
    return folder / "in"


def _nanoseconds(folder: Path) -> Path:
    """Write INT96 as Hive and Impala may write it."""
    at = pa.array([0, 1_000, 2_000, 3_001, 4_000, 5_000, 6_000, 7_000], pa.timestamp("ns"))
    pq.write_table(_table(at=at), folder / "in.parquet", use_deprecated_int96_timestamps=True)
    return folder / "in.parquet"


def _table(**columns: pa.Array | list[object]) -> pa.Table:
    return pa.table({"text": TEXTS, **columns})


def _one_column(column: pa.Array) -> Callable[[Path], Path]:
    return lambda folder: _folder(folder, a=pa.table({"text": column}))


BAD: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "missing": (lambda folder: folder / "in.parquet", ["in.parquet", "does not exist"]),
    "0 bytes": (lambda folder: _bytes(folder, b""), ["in.parquet", "empty"]),
    "text": (lambda folder: _bytes(folder, b"text\n" + "\n".join(TEXTS).encode()), ["in.parquet", "not a readable"]),
    "zeros": (lambda folder: _bytes(folder, bytes(4096)), ["in.parquet", "not a readable"]),
    "only its magic": (lambda folder: _bytes(folder, b"PAR1PAR1"), ["in.parquet", "not a readable"]),
    "encrypted": (lambda folder: _bytes(folder, b"PARE" + bytes(64) + b"\x20\0\0\0PARE"), ["in.parquet"]),
    "of Feather": (_feather, ["in.parquet", "an Arrow (Feather) file"]),
    "a spreadsheet": (lambda folder: _text(folder, "xlsx", "PK\x03\x04"), ["in.xlsx is an Excel file; save it as CSV"]),
    "a list of JSON": (lambda folder: _text(folder, "json", "[]"), ["in.json is a JSON file", "convert it: python"]),
    "CSV with a cell too many": (
        lambda folder: _text(folder, "csv", f"text\n{CANARY}\n\n{CANARY},1\n"),
        ["in.csv, line 4: the row has 2 cells, but the header has 1"],
    ),
    "CSV with a quote too many": (
        lambda folder: _text(folder, "csv", f'text\n"{CANARY}\n' + "x\n" * 9),
        ["in.csv", "line 2: the quote that opens a cell here is never closed"],
    ),
    "CSV that is Latin-1": (
        lambda folder: _text(folder, "csv", f"text\n{CANARY}\n\xe4\n", "latin-1"),
        ["in.csv, line 3: the text is not UTF-8"],
    ),
    "a damaged line of JSON": (
        lambda folder: _text(folder, "jsonl", f'{{"text": "a"}}\n{{"text": "{CANARY}\n'),
        ["in.jsonl, line 2 is not JSON"],
    ),
    "lines of JSON with two types": (
        lambda folder: _text(folder, "jsonl", f'{{"text": 1}}\n{{"text": "{CANARY}"}}\n'),
        ["in.jsonl, line 2: 'text' is text here, but a number in line 1"],
    ),
    "half of it": (lambda folder: _cut(folder, 0.5), ["in.parquet", "not a readable"]),
    "cut in its footer": (lambda folder: _cut(folder, 0.97), ["in.parquet", "not a readable"]),
    "a footer too long": (_long_footer, ["in.parquet", "not a readable"]),
    "a garbled footer": (_garbled_footer, ["in.parquet"]),
    "a flipped bit": (_flipped, ["in.parquet", "cannot be read"]),
    "a bomb of large values": (lambda folder: _bomb(folder, 20_000_000, 1_000), ["in.parquet", "decompression bomb"]),
    "a bomb of small values": (lambda folder: _bomb(folder, 100_000, 200_000), ["in.parquet", "decompression bomb"]),
    "a column twice": (_twice, ["in.parquet", "'text'", "more than once"]),
    "another column": (
        lambda folder: _folder(folder, a=pa.table({"words": TEXTS})),
        ["'text'", "which is not a column", "words"],
    ),
    "another case": (lambda folder: _folder(folder, a=pa.table({"Text": TEXTS})), ["'text'", "is written 'Text'"]),
    "no columns": (lambda folder: _folder(folder, a=pa.table({})), ["'text'"]),
    "another type in the second file": (
        lambda folder: _folder(folder, a=_table(), b=pa.table({"text": [1, 2]})),
        ["b/part.parquet", "int64 instead of string"],
    ),
    "a prompt's column less in the second file": (
        lambda folder: _folder(folder, a=_table(more=TEXTS), b=pa.table({"more": TEXTS})),
        ["b/part.parquet", "has no column 'text'", "leave the file out"],
    ),
    "a value that the common type cannot hold": (
        lambda folder: _folder(folder, a=_table(n=[2**53 + 1] * 8), b=_table(n=[0.5] * 8)),
        ["a/part.parquet", "'n'", "does not fit"],
    ),
    "a timestamp that microseconds cannot hold": (_nanoseconds, ["in.parquet", "row 3", "'at'", "microseconds"]),
    "a table of Delta": (lambda folder: _lake(folder, "_delta_log/0.json"), ["table of Delta", "export"]),
    "a table of Iceberg": (lambda folder: _lake(folder, "metadata/1.metadata.json"), ["table of Iceberg", "export"]),
    "a table of Hudi": (lambda folder: _lake(folder, ".hoodie/hoodie.properties"), ["table of Hudi", "export"]),
    "a partition of a table of Delta": (
        lambda folder: _lake(folder, "_delta_log/0.json") / "k=1",
        ["table of Delta", "export"],
    ),
    "folders with other keys": (
        lambda folder: _folder(folder, dt_is_1=_table(), day_is_1=_table()),
        ["part.parquet", "key=value folders differ"],
    ),
    "two folders of one key": (
        lambda folder: _folder(folder, k_is_1__k_is_2=_table()),
        ["part.parquet", "two of its folders are named k=..."],
    ),
    "a column that contradicts its folder": (
        lambda folder: _folder(folder, lang_is_fr=_table(lang=["fr"] * 7 + [CANARY])),
        ["part.parquet", "'lang'", "do not agree"],
    ),
    "a column that is null where its folder is not": (
        lambda folder: _folder(folder, lang_is_fr=_table(lang=["fr"] * 7 + [None])),
        ["part.parquet", "'lang'", "do not agree"],
    ),
    "a column that is no match for its folder": (
        lambda folder: _folder(folder, lang_is_fr=_table(lang=list(range(8)))),
        ["part.parquet", "'lang'", "do not agree"],
    ),
    "a column like one of ours": (
        lambda folder: _folder(folder, a=_table(status=TEXTS)),
        ["'status'", "column_prefix"],
    ),
    "a column like one of the plan's": (
        lambda folder: _folder(folder, a=_table(__parquill_action=TEXTS)),
        ["__parquill_action"],
    ),
    "a prompt of binary": (_one_column(pa.array([b"\xff" + CANARY.encode()] * 8)), ["'text'", "binary"]),
    "a prompt of lists": (_one_column(pa.array([[text] for text in TEXTS])), ["row 0", "list", "join"]),
    "a prompt of structs": (_one_column(pa.array([{"a": text} for text in TEXTS])), ["row 0", "struct", "tojson"]),
    "a prompt of maps": (
        _one_column(pa.array([[("a", text)] for text in TEXTS], pa.map_(pa.string(), pa.string()))),
        ["row 0", "list", "tojson"],
    ),
    "a folder without files": (lambda folder: _folder(folder) / "", ["in", "does not exist"]),
    "a folder with hidden files": (
        lambda folder: good(folder / "in" / "_temporary" / "a.parquet").parents[1],
        ["in", "no *.parquet"],
    ),
    "a glob that matches nothing": (lambda folder: folder / "none-*.parquet", ["none-*.parquet", "no file matches"]),
    "a pipe": (_pipe, ["in.parquet", "is not a file"]),
    "a folder with a pipe": (_pipe_in_a_folder, ["a.parquet", "is not a file"]),
    "a broken link beside a good file": (
        _broken_link_in_a_folder,
        ["b.parquet", "a link to a file that does not exist"],
    ),
    "a broken link that a glob matches": (
        lambda folder: _broken_link_in_a_folder(folder) / "*.parquet",
        ["b.parquet", "a link to a file that does not exist"],
    ),
    "a name that is not UTF-8": (_name_of_bytes, ["the name of", "is not UTF-8"]),
    "a name too long": (lambda folder: folder / ("x" * 300), ["cannot be read", "File name too long"]),
    "a path too long": (lambda folder: folder / ("x/" * 3_000), ["cannot be read", "File name too long"]),
    "a broken link": (_broken_link, ["in.parquet", "a link to a file that does not exist"]),
    "links in a circle": (_links_in_a_circle, ["in", "no *.parquet"]),
    "our own output": (_own_results, ["lies inside the input"]),
}


def _groups(folder: Path, groups: int) -> Path:
    """Write a file of many row groups of one row."""
    path = folder / "in.parquet"
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for number in range(groups):
            writer.write_batch(pa.record_batch({"text": [f"{number % 8}"]}))
    return path


def _other_names(folder: Path) -> Path:
    for name in ("1.PARQUET", "2.parq", "part-00003", "4.snappy.parquet"):
        good(folder / "in" / name)
    (folder / "in" / "notes.txt").write_text("no rows")
    return folder / "in"


def _metadata(folder: Path) -> Path:
    return _folder(folder, a=_table().replace_schema_metadata({"pandas": "x" * 5_000_000}))


def _brotli(folder: Path) -> Path:
    pq.write_table(_table(), folder / "in.parquet", compression="brotli")
    return folder / "in.parquet"


_MOMENT = pa.timestamp("us")

GOOD: dict[str, tuple[Callable[[Path], Path], int]] = {
    "0 rows": (_one_column(pa.array([], pa.string())), 0),
    "0 rows in one of two files": (lambda folder: _folder(folder, a=_table().slice(0, 0), b=_table()), 8),
    "row groups of 0 rows": (
        lambda folder: _folder(folder, a=pa.concat_tables([_table().slice(0, 0), _table()])),
        8,
    ),
    "2,000 row groups": (lambda folder: _groups(folder, 2_000), 2_000),
    "large_string": (_one_column(pa.array(TEXTS, pa.large_string())), 8),
    "string_view": (_one_column(pa.array(TEXTS, pa.string_view())), 8),
    "dictionary": (_one_column(pa.array(TEXTS).dictionary_encode()), 8),
    "dictionary of large_string": (_one_column(pa.array(TEXTS, pa.large_string()).dictionary_encode()), 8),
    "int": (_one_column(pa.array(range(8))), 8),
    "decimal": (_one_column(pa.array(range(8), pa.int64()).cast(pa.decimal128(30, 5))), 8),
    "timestamp": (_one_column(pa.array(range(8), pa.timestamp("ns", "Asia/Tokyo"))), 8),
    "bool": (_one_column(pa.array([True, False] * 4)), 8),
    "much metadata": (_metadata, 8),
    "brotli": (_brotli, 8),
    "files of other names": (_other_names, 32),
    "a column less in the second file": (lambda folder: _folder(folder, a=_table(more=TEXTS), b=_table()), 16),
    "a column of nulls in one file": (
        lambda folder: _folder(folder, a=_table(more=pa.nulls(8)), b=_table(more=[{"a": 1}] * 8)),
        16,
    ),
    "text of four kinds": (
        lambda folder: _folder(
            folder,
            a=_table(),
            b=pa.table({"text": pa.array(TEXTS, pa.large_string())}),
            c=pa.table({"text": pa.array(TEXTS, pa.string_view())}),
            d=pa.table({"text": pa.array(TEXTS).dictionary_encode()}),
        ),
        32,
    ),
    "numbers of two kinds": (lambda folder: _folder(folder, a=_table(n=[1] * 8), b=_table(n=[0.5] * 8)), 16),
    "links to folders": (_linked_folders, 16),
    "a name with blanks, quotes and a percent": (lambda folder: good(folder / "a 'b' %s [é].parquet"), 8),
    "columns that their folders repeat": (
        lambda folder: _folder(
            folder,
            day_is_1__lang_is_fr__at_is_x=_table(
                day=pa.array([1] * 8), lang=pa.array(["fr"] * 8).dictionary_encode(), at=pa.array([0] * 8, _MOMENT)
            ),
        ),
        8,
    ),
    "key=value folders": (
        lambda folder: _folder(folder, dt_is_1__lang_is_fr=_table(), dt_is_2__lang_is_de=_table()),
        16,
    ),
}
