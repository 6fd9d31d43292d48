"""Names the format of an input file that Parquill does not read, and what to do about it."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath

from parquill.tasks.storage.uri import is_uri

_PACKED = frozenset({".gz", ".bz2", ".zst", ".xz"})
_READ = "Parquill reads Parquet, CSV and JSON lines"
_SAVE = "save it as CSV or Parquet"
_EXPORT = "export the rows as CSV or Parquet"
_UNPACK = "unpack it first"
# suffix -> the format, and how pandas reads it
_READERS = {
    ".json": ("a JSON file", "read_json({})"),
    ".feather": ("an Arrow (Feather) file", "read_feather({})"),
    ".arrow": ("an Arrow (Feather) file", "read_feather({})"),
    ".orc": ("an ORC file", "read_orc({})"),
}
_ADVICE = {
    ".xlsx": ("an Excel file", _SAVE),
    ".xlsm": ("an Excel file", _SAVE),
    ".xls": ("an Excel file", _SAVE),
    ".ods": ("a spreadsheet", _SAVE),
    ".pkl": ("a Python pickle", "write the data frame as Parquet"),
    ".pickle": ("a Python pickle", "write the data frame as Parquet"),
    ".avro": ("an Avro file", "write the rows as Parquet"),
    ".sqlite": ("an SQLite database", _EXPORT),
    ".sqlite3": ("an SQLite database", _EXPORT),
    ".db": ("an SQLite database", _EXPORT),
    ".zip": ("a ZIP archive", _UNPACK),
    ".tar": ("a TAR archive", _UNPACK),
    ".tgz": ("a TAR archive", _UNPACK),
    ".bz2": ("packed with bzip2", "unpack it, or pack it with gzip or zstd"),
    ".xz": ("packed with xz", "unpack it, or pack it with gzip or zstd"),
    ".txt": ("a text file", _READ),
    ".md": ("a text file", _READ),
    ".xml": ("an XML file", _READ),
    ".pdf": ("a PDF file", _READ),
}
_PARQUET = b"PAR1"
_MAGIC = (
    (_PARQUET, "a Parquet file", "give it a name that ends in .parquet"),
    (b"PK\x03\x04", "an Excel file or a ZIP archive", f"{_SAVE}, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an Excel file", _SAVE),
    (b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (b"ARROW1", "an Arrow (Feather) file", "write it as Parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "write the rows as Parquet"),
    (b"\x1f\x8b", "packed with gzip", "give it a name that ends in .csv.gz or .jsonl.gz"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "give it a name that ends in .csv.zst or .jsonl.zst"),
    (b"BZh", "packed with bzip2", "unpack it, or pack it with gzip or zstd"),
    (b"\xfd7zXZ\0", "packed with xz", "unpack it, or pack it with gzip or zstd"),
    (b"\x80\x04\x95", "a Python pickle", "write the data frame as Parquet"),
    (b"\x80\x05\x95", "a Python pickle", "write the data frame as Parquet"),
    (b"%PDF-", "a PDF file", _READ),
)
MAGIC_BYTES = 16


def tell_format(path: str) -> str | None:
    """Name a file's format by its suffix, with what to do about it; None for an unknown suffix."""
    name = PurePosixPath(path)
    suffixes = [suffix.lower() for suffix in name.suffixes]
    packed = suffixes[-1:] if suffixes and suffixes[-1] in _PACKED else []
    if not suffixes:
        return None
    found = _READERS.get(suffixes[-1 - len(packed)]) if len(suffixes) > len(packed) else None
    if found is None:
        advice = _ADVICE.get(suffixes[-1])
        return None if advice is None else "; ".join(advice)
    kind, reader = found
    if is_uri(path):
        return f"{kind}; {_READ}; convert it"
    stem = path[: len(path) - sum(map(len, [suffixes[-1 - len(packed)], *packed]))]
    program = f"import pandas; pandas.{reader.format(repr(path))}.to_parquet({f'{stem}.parquet'!r})"
    return f"{kind}; {_READ}; convert it: python -c {shlex.quote(program)}"


def tell_magic(head: bytes) -> str | None:
    """Name a format by the first bytes of a file, with what to do about it; None if they say nothing."""
    return next((f"{kind}; {advice}" for magic, kind, advice in _MAGIC if head.startswith(magic)), None)


def tell_content(path: str) -> str | None:
    """Name the format of a local file that is read as Parquet, by its first bytes; None if they say nothing."""
    if is_uri(path):
        return None
    with Path(path).open("rb") as file:
        head = file.read(MAGIC_BYTES)
    return None if head.startswith(_PARQUET) else tell_magic(head)
