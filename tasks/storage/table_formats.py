"""Folders of Delta, Iceberg and Hudi tables: which of their files are current stands in a log, not in a listing.

After an update the earlier files are still there, so reading all of them would pay for deleted and replaced rows, and
take Iceberg's delete files for rows. Such a folder is refused, wherever it stands: at, below or above what a job names.
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
    """What is raised for the folder of a table of such a format."""
    return BadInput(
        f"{redact_uri(folder)} is a table of {kind}, which also keeps files of rows that were replaced or deleted: "
        "export its current rows to plain Parquet files and name those as `input`, or name one of its files"
    )


def table_among(root: str, names: Iterable[str]) -> tuple[str, str] | None:
    """The format and the folder of the first table that some paths below `root` belong to."""
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
    """Whether a folder `metadata` with files of these names is one of Iceberg's."""
    return any(name.endswith(_ICEBERG_FILES) for name in names)


def table_at(folder: Path) -> str | None:
    """The format of the table that a local folder is; None if it is none. Raises OSError."""
    for name, kind in _FOLDERS.items():
        if (folder / name).is_dir():
            return kind
    metadata = folder / ICEBERG_FOLDER
    return "Iceberg" if metadata.is_dir() and is_iceberg(path.name for path in metadata.iterdir()) else None


def check_above(folders: Iterable[Path]) -> None:
    """Refuse local folders that are, or lie in, the folder of a table (BadInput). Raises OSError."""
    seen: set[Path] = set()
    for folder in folders:
        for each in (folder, *folder.parents):
            if each in seen:
                break
            seen.add(each)
            if (kind := table_at(each)) is not None:
                raise refuse_table(kind, str(each))


def folders_above(root: str, names: Sequence[str]) -> Iterator[str]:
    """The folders of a store in which a table's marker would make some files its own: those of files, and all above.

    key=value folders are parts of a table and not one themselves, and there may be thousands.
    """
    seen = set()
    for name in names:
        for parent in PurePosixPath(root, name).parents:
            if str(parent) in seen:
                break
            seen.add(str(parent))
            if "=" not in parent.name and str(parent) != ".":
                yield str(parent)
