"""Find folders of Delta, Iceberg and Hudi tables, whose current files are recorded in a log, not in the listing.

After an update the earlier files are still there, so reading all of them would pay for deleted and replaced rows, and
take Iceberg's delete files for rows. Such a folder is refused at, below or above the path that a job names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from parquill.tasks.errors import BadInput
from parquill.tasks.storage.uri import redact_uri

_FOLDERS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
ICEBERG_FOLDER = "metadata"
_ICEBERG_FILES = (".metadata.json", ".metadata.json.gz")
MARKERS = (*_FOLDERS, ICEBERG_FOLDER)


def refuse_table(kind: str, folder: str) -> BadInput:
    """The error for the folder of a table of the format `kind`."""
    return BadInput(
        f"{redact_uri(folder)} is a table of {kind}, which also keeps files of rows that were replaced or deleted: "
        "export its current rows to plain Parquet files and set `input` to those, or to one file of the table"
    )


def table_among(root: str, names: Iterable[str]) -> tuple[str, str] | None:
    """Return the format and the folder of the first table that any of the paths below `root` belongs to."""
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts[:-1]):
            kind = _FOLDERS.get(part)
            if part == ICEBERG_FOLDER and depth == len(parts) - 2 and is_iceberg(parts[-1:]):
                kind = "Iceberg"
            if kind is not None:
                return kind, "/".join([root.rstrip("/"), *parts[:depth]])
    return None


def is_iceberg(names: Iterable[str]) -> bool:
    """Whether a folder `metadata` with files of these names belongs to an Iceberg table."""
    return any(name.endswith(_ICEBERG_FILES) for name in names)


def table_at(folder: Path) -> str | None:
    """Return the format of the table in a local folder; None if it is not a table. Raises OSError."""
    for name, kind in _FOLDERS.items():
        if (folder / name).is_dir():
            return kind
    metadata = folder / ICEBERG_FOLDER
    return "Iceberg" if metadata.is_dir() and is_iceberg(path.name for path in metadata.iterdir()) else None


def check_above(folders: Iterable[Path]) -> None:
    """Refuse local folders that are, or are inside, the folder of a table. Raises BadInput, OSError."""
    seen: set[Path] = set()
    for folder in folders:
        for each in (folder, *folder.parents):
            if each in seen:
                break
            seen.add(each)
            if (kind := table_at(each)) is not None:
                raise refuse_table(kind, str(each))


def folders_above(root: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the folders of a store where a table's marker may be: the folders of the files, and all above them.

    key=value folders are left out: they are parts of a table, never a table, and there may be thousands.
    """
    seen = set()
    for name in names:
        for parent in PurePosixPath(root, name).parents:
            if str(parent) in seen:
                break
            seen.add(str(parent))
            if "=" not in parent.name and str(parent) != ".":
                yield str(parent)
