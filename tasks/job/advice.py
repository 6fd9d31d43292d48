"""Advice for files that are not job files: data files, templates without quotes, two documents."""

from __future__ import annotations

import re
from pathlib import Path

from parquill.tasks.errors import BadJob

_DATA = {
    ".parquet": "Parquet data",
    ".pq": "Parquet data",
    ".csv": "CSV data",
    ".tsv": "CSV data",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".arrow": "Arrow data",
    ".feather": "Arrow data",
    ".orc": "ORC data",
    ".avro": "Avro data",
    ".xlsx": "a spreadsheet",
}
_TEMPLATE = re.compile(r"\{\{|\{%")


def refuse_data(path: Path) -> None:
    """Raise BadJob if a data file was given instead of a job file, by its name or its first bytes."""
    is_packed = path.suffix.lower() in {".gz", ".zst"}
    kind = _DATA.get((path.with_suffix("") if is_packed else path).suffix.lower())
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                kind = "Parquet data"
    except OSError:
        return  # reading it will report why
    if kind is not None and path.is_file():
        raise BadJob(
            f"{path} is {kind}, not a job file. Give a job file, and name the data in its `input`; "
            "`parquill init` writes one to start from"
        )


def tell_fault(text: str, problem: str, line: int | None) -> str:
    """Return what is wrong with text that is not YAML, and what to do if that is known; `line` counts from 0."""
    if "another document" in problem:
        return "a second document begins here, but a job file has one; remove everything from the second `---` on"
    lines = text.splitlines()
    near = lines[max(0, (line or 0) - 1) : (line or 0) + 1]
    if any(_TEMPLATE.search(each) for each in near):
        advice = 'a template needs quotes: user: "{{ text }}"'
        return advice if "unhashable" in problem else f"{problem}; {advice}"
    return problem
