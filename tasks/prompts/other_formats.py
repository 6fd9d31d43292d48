"""Names the format of an input file that is not Parquet, and the command that converts it."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from parquill.tasks.storage.uri import is_uri

_PACKED = frozenset({".gz", ".bz2", ".zst", ".xz"})
# suffix -> the format, and how pandas reads it
_READERS = {
    ".csv": ("CSV", "read_csv({})"),
    ".tsv": ("CSV", "read_csv({}, sep=chr(9))"),
    ".jsonl": ("JSON lines", "read_json({}, lines=True)"),
    ".ndjson": ("JSON lines", "read_json({}, lines=True)"),
    ".json": ("JSON", "read_json({})"),
    ".feather": ("Arrow (Feather)", "read_feather({})"),
    ".arrow": ("Arrow (Feather)", "read_feather({})"),
    ".orc": ("ORC", "read_orc({})"),
    ".xlsx": ("a spreadsheet", "read_excel({})"),
}


def tell_format(path: str) -> str | None:
    """Name a file's format by its suffix, with the command that converts it; None for an unknown suffix."""
    name = PurePosixPath(path)
    suffixes = [suffix.lower() for suffix in name.suffixes]
    packed = suffixes[-1:] if suffixes and suffixes[-1] in _PACKED else []
    found = _READERS.get(suffixes[-1 - len(packed)]) if len(suffixes) > len(packed) else None
    if found is None:
        return None
    kind, reader = found
    told = f"it is {kind}, but Parquill reads only Parquet"
    if is_uri(path):
        return f"{told}; convert it"
    stem = path[: len(path) - sum(map(len, [suffixes[-1 - len(packed)], *packed]))]
    program = f"import pandas; pandas.{reader.format(repr(path))}.to_parquet({f'{stem}.parquet'!r})"
    return f"{told}; convert it: python -c {shlex.quote(program)}"
