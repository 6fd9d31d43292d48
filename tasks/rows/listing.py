"""Which files are the input: a file, a folder, a glob or an address in a store, and what their folders say of them."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from parquill.tasks.disk.address import fixed_part, is_uri, join, shown
from parquill.tasks.errors import BadInput


@dataclass(frozen=True, slots=True)
class Place:
    """An input file as it was listed: `name` is its path below the input, `size` in bytes, `mtime_ns` since 1970."""

    path: str
    name: str
    size: int
    mtime_ns: int


def list_files(location: str) -> list[Place]:
    """The files behind a file, folder, glob or URI, by name; hidden ones of a folder are left alone.

    Raises BadInput when there is none.
    """
    return _list_store(location) if is_uri(location) else _list(location)


def check_apart(location: str, paths: list[str], output: str | None) -> None:
    """Refuse an output whose results would be read as prompts by the next run, before the first one pays."""
    if output is None or is_uri(output) != is_uri(location):
        return
    if is_uri(output):
        own = shown(output).rstrip("/")
        is_in = _covers(shown(location).rstrip("/"), f"{own}/results/x.parquet") or any(
            shown(path).startswith(f"{own}/") for path in paths
        )
    else:
        folder = Path(output).resolve()
        inside = Path(location).is_dir() and folder.is_relative_to(Path(location).resolve())
        recursive = "**" in location and fnmatch.fnmatch(str(folder / "results" / "x.parquet"), location)
        is_in = inside or recursive
        if not is_in and any(Path(path).resolve().is_relative_to(folder) for path in paths):
            raise BadInput(f"the input {location} lies inside the output {output}; choose an `output` of its own")
    if is_in:
        told = shown(output), shown(location)
        raise BadInput(f"the output {told[0]} lies inside the input {told[1]}: results would be read as prompts")


def _list(location: str) -> list[Place]:
    path = Path(location)
    try:
        if os.path.lexists(path) and not path.is_dir():
            return _places([path], path.parent)
        if path.is_dir():
            found = sorted(_walk(path, frozenset()))
            if not found:
                raise BadInput(f"the folder {location} holds no *.parquet file")
            return _places(found, path)
        if glob.has_magic(location):
            # not Path.glob: `location` may be absolute
            found = sorted(map(Path, glob.glob(location, recursive=True)))  # noqa: PTH207
            matched = [path for path in found if not path.is_dir()]
            if not matched:
                raise BadInput(f"no file matches {location}{_advise_of_folders(location) if found else ''}")
            fixed = [part for part in path.parts if not glob.has_magic(part)]
            depth = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
            return _places(matched, Path(*fixed[:depth]))
    except OSError as error:
        raise BadInput(f"the input {str(error.filename or location)[:200]} cannot be read: {error.strerror}") from None
    raise BadInput(f"the input {location} does not exist")


def _advise_of_folders(location: str) -> str:
    return f", but folders do: write {location.rstrip('/')}/*.parquet for the files in them"


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """The *.parquet files of a folder at any depth, also behind links, but for those that lead back to `above`.

    Raises OSError for a folder that cannot be read: its rows would be lost in silence.
    """
    stat = folder.stat()
    here = above | {(stat.st_dev, stat.st_ino)}
    if len(here) == len(above):
        return
    for path in folder.iterdir():
        if _is_hidden((path.name,)):
            continue
        if path.is_dir():
            yield from _walk(path, here)
        elif path.suffix == ".parquet":
            yield path


def _places(paths: list[Path], root: Path) -> list[Place]:
    """Raises BadInput for what is no file, and for a name that no column of text can hold; OSError."""
    places = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            str(path).encode()
        except UnicodeEncodeError:
            told = str(path).encode("utf-8", "replace").decode()
            raise BadInput(f"the name of {told} is not UTF-8; rename it") from None
        if not path.is_file():
            kind = "a link to a file that is not there" if path.is_symlink() else "no file"
            raise BadInput(f"{path} is {kind}")
        stat = path.stat()
        places.append(Place(str(path), name, stat.st_size, stat.st_mtime_ns))
    return places


def _is_hidden(parts: tuple[str, ...]) -> bool:
    return any(part[0] in "._" and "=" not in part for part in parts)


def _covers(location: str, path: str) -> bool:
    """Whether a file with this address would be input."""
    from parquill.tasks.disk.store import matches

    return path.startswith(f"{location}/") or matches(path.split("/"), location.split("/"))


def _list_store(uri: str) -> list[Place]:
    """The Parquet objects of an address, a folder of them, or a glob; hidden ones of a folder are left alone."""
    from parquill.tasks.disk.store import list_objects  # the store's libraries take a while, and most inputs are local

    root, whole = shown(fixed_part(uri)), shown(uri).rstrip("/")
    places = []
    for found in list_objects(uri):
        name = shown(found.uri).removeprefix(root).lstrip("/")
        if root == whole and name and (not name.endswith(".parquet") or _is_hidden(tuple(name.split("/")))):
            continue
        places.append(Place(found.uri, name or PurePosixPath(root).name, found.size, found.mtime_ns))
    if not places:
        if root == whole:
            raise BadInput(f"there is no *.parquet object at {whole}")
        has_folders = any(list_objects(join(uri, "*")))
        raise BadInput(f"no object matches {whole}{_advise_of_folders(whole) if has_folders else ''}")
    return places


def partitions_of(paths: list[str]) -> list[tuple[tuple[str, Any], ...]]:
    """Columns from key=value folders of the whole path, for each file; whole numbers in all make an int64 column.

    Raises BadInput where the files' folders have different keys.
    """
    raw = [_keys_of(shown(path)) for path in paths]
    if any(found.keys() != raw[0].keys() for found in raw):
        odd = next(p for p, found in zip(paths, raw, strict=True) if found.keys() != raw[0].keys())
        raise BadInput(f"{shown(odd)}: its key=value folders differ from those of {shown(paths[0])}")
    null = "__HIVE_DEFAULT_PARTITION__"
    numbers = set()
    for key in raw[0]:
        told = [found[key] for found in raw if found[key] != null]
        if told and all(map(_is_int, told)):
            numbers.add(key)
    return [tuple((k, None if v == null else int(v) if k in numbers else v) for k, v in found.items()) for found in raw]


def _keys_of(path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in Path(path).parts[:-1]:
        key, equals, value = part.partition("=")
        if key and equals:
            if key in found:
                raise BadInput(f"{path}: two of its folders are called {key}=...; nobody knows which is meant")
            found[key] = unquote(value)
    return found


def _is_int(text: str) -> bool:
    # 007 and +7 are names, not numbers: turning them into 7 would change the value
    return len(text) < 19 and re.fullmatch(r"-?\d+", text, re.ASCII) is not None and str(int(text)) == text
