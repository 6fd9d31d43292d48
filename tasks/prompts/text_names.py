"""Tells text files by their names: CSV or JSON lines, plain or packed."""

from __future__ import annotations

from pathlib import PurePosixPath

CSV, JSONL = "CSV", "JSON lines"
_KINDS = {".csv": CSV, ".tsv": CSV, ".jsonl": JSONL, ".ndjson": JSONL}
_PACKINGS = {".gz": "gzip", ".zst": "zstd"}


def kind_of(path: str) -> str | None:
    """Return CSV or JSONL; None for a name of anything else, which is read as Parquet."""
    return _KINDS.get(_suffix(path))


def packing_of(path: str) -> str | None:
    """Return how a file is packed, under pyarrow's name; None if it is not."""
    return _PACKINGS.get(PurePosixPath(path).suffix.lower())


def separator_of(path: str) -> str:
    """Return what separates the cells of a CSV file."""
    return "\t" if _suffix(path) == ".tsv" else ","


def _suffix(path: str) -> str:
    """Return the suffix of the unpacked file."""
    name = PurePosixPath(path)
    return (name.with_suffix("") if packing_of(path) else name).suffix.lower()
