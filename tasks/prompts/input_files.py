"""Lists the input files of a file, folder, glob or store address, and reads the key=value names of their folders."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.text_names import kind_of, packing_of
from parquill.tasks.storage.kept_table import is_kept
from parquill.tasks.storage.table_formats import check_above, folders_above, refuse_table, table_among, table_at
from parquill.tasks.storage.uri import fixed_part, is_dataset, is_uri, join, redact_uri

SUFFIXES = (".parquet", ".parq", ".pq")  # in upper or lower case; other files are input if they begin like Parquet
PARQUET = "Parquet"
MAGIC = frozenset({b"PAR1", b"PARE"})
MAGIC_BYTES = 4
MAX_PEEKS = 1_000  # in a store, where each peek is a round trip
SHOWN_NAMES = 3


@dataclass(frozen=True, slots=True)
class InputFile:
    """An input file as it was listed: `name` is its path below the input, `size` in bytes, `mtime_ns` since 1970.

    `kind` is None for Parquet, and for what is read as such because of its name.
    """

    path: str
    name: str
    size: int
    mtime_ns: int
    kind: str | None = None


class Listing(NamedTuple):
    """The files of an input, and notes on those that are left out."""

    places: list[InputFile]
    notes: list[str]


@dataclass(slots=True)
class _Found:
    """The contents of a folder: its input files, text files, other files, and hidden ones that are named as input.

    Text files are input if there is no Parquet file.
    """

    files: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    kind: str = PARQUET

    def choose(self, root: Path) -> None:
        """Take the text files as input if there is no Parquet file."""
        if self.files:
            self.others += [path.relative_to(root).as_posix() for path in self.texts]
        elif self.texts:
            self.files, self.kind = self.texts, kind_of(self.texts[0].name) or PARQUET

    @property
    def notes(self) -> list[str]:
        """The notes on files that are left out."""
        return _notes(self.others, [name for name in self.hidden if _may_be(name, self.kind)], self.kind)


def _notes(others: Sequence[str], hidden: Sequence[str], kind: str = PARQUET) -> list[str]:
    groups = ((others, f"are not {kind}"), (hidden, "have names or folders that begin with a dot or an underscore"))
    return [f"files of the input that {why} and are left out: {_some(names)}" for names, why in groups if names]


def _some(names: Sequence[str]) -> str:
    examples = ", ".join(sorted(names)[:SHOWN_NAMES])
    return f"{len(names):,} ({examples}{', ...' if len(names) > SHOWN_NAMES else ''})"


def list_files(location: str) -> Listing:
    """List the files of a file, folder, glob or URI by name; like Spark, leave out hidden files.

    The files of a dataset of Hugging Face are those of one commit. Raises BadInput if there is no file, and for the
    folder of a Delta, Iceberg or Hudi table; BadJob if a package is missing.
    """
    if is_dataset(location):
        from parquill.tasks.storage.hugging_face import at_commit

        # promise: hf: all files of a run are read at the commit that was listed
        location = at_commit(location)
    return _list_store(location) if is_uri(location) else _list(location)


def one_kind(location: str, places: Sequence[InputFile]) -> str | None:
    """Return the kind of all files; None for Parquet. Raises BadInput if they are of two kinds."""
    first: dict[str | None, str] = {}
    for file in places:
        first.setdefault(file.kind, redact_uri(file.path))
    # promise: input: an input with CSV and JSON lines files is refused
    if len(first) > 1:
        one, other = list(first.values())[:2]
        ending = "".join(PurePosixPath(one).suffixes[-2 if packing_of(one) else -1 :])
        raise BadInput(
            f"{redact_uri(location)} has files of two kinds, {one} and {other}; write a glob for one kind, such as "
            f"one that ends in /*{ending}"
        )
    return next(iter(first), None)


def refuse_output_inside_input(location: str, paths: list[str], output: str | None) -> None:
    """Refuse an output whose results the next run would read as prompts. Raises BadInput."""
    if output is None or is_uri(output) != is_uri(location):
        return
    if is_uri(output):
        own = redact_uri(output).rstrip("/")
        # promise: stores: an output whose results the input would include is refused
        is_in = _covers(redact_uri(location).rstrip("/"), f"{own}/results/x.parquet") or any(
            redact_uri(path).startswith(f"{own}/") for path in paths
        )
    else:
        folder = Path(output).resolve()
        inside = Path(location).is_dir() and folder.is_relative_to(Path(location).resolve())
        recursive = "**" in location and fnmatch.fnmatch(str(folder / "results" / "x.parquet"), location)
        is_in = inside or recursive
        # promise: api: a table that was kept in the output's own state folder is an input
        others = [path for path in paths if not is_kept(path)]
        if not is_in and any(Path(path).resolve().is_relative_to(folder) for path in others):
            raise BadInput(f"the input {location} lies inside the output {output}; choose another `output`")
    # promise: input: an input that contains the job's own output is refused
    if is_in:
        shown = redact_uri(output), redact_uri(location)
        raise BadInput(f"the output {shown[0]} lies inside the input {shown[1]}, so results would be read as prompts")


def _list(location: str) -> Listing:
    path = Path(location)
    try:
        if os.path.lexists(path) and not path.is_dir():
            return Listing(_places([path], path.parent), [])
        if path.is_dir():
            # promise: input: a folder inside a table of another format is refused
            check_above([path.resolve()])
            found = _Found()
            _walk(path, path, frozenset(), found)
            found.choose(path)
            if not found.files:
                advice = _advise_of_globs(location, found.notes)
                raise BadInput(f"the folder {location} holds no *.parquet, *.csv or *.jsonl file{advice}")
            return Listing(_places(sorted(found.files), path), found.notes)
        if glob.has_magic(location):
            return _list_glob(path, location)
    # promise: input: a folder that cannot be read is refused
    except OSError as error:
        raise BadInput(f"the input {str(error.filename or location)[:200]} cannot be read: {error.strerror}") from None
    raise BadInput(f"the input {location} does not exist")


def _list_glob(path: Path, location: str) -> Listing:
    # not Path.glob: `location` may be absolute
    found = sorted(map(Path, glob.glob(location, recursive=True)))  # noqa: PTH207
    depth = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
    root = Path(*path.parts[:depth])
    names = {each: each.relative_to(root).as_posix() for each in found if not each.is_dir()}
    hidden = _hidden_of_glob(list(names.values()), path.parts[depth:])
    matched = [each for each, name in names.items() if name not in hidden]
    if not matched:
        raise BadInput(f"no file matches {location}{_advise_of_folders(location) if found and not names else ''}")
    # promise: input: a glob inside a table of another format is refused
    check_above(each.parent.resolve() for each in matched)
    return Listing(_places(matched, root), _notes([], hidden))


def _hidden_of_glob(names: Sequence[str], pattern: Sequence[str]) -> list[str]:
    """Return the matches of a glob that have a hidden part, unless the glob itself names a hidden part."""
    if any(part[:1] in {"_", "."} for part in pattern):
        return []
    # promise: input: a glob skips hidden files
    return [name for name in names if _is_hidden(tuple(name.split("/")))]


def _advise_of_globs(location: str, notes: Sequence[str]) -> str:
    noted = "".join(f" ({note})" for note in notes)
    return f"{noted}; if its files have other names, write a glob for them, such as {location.rstrip('/')}/*"


def _advise_of_folders(location: str) -> str:
    return f", but folders do: write {location.rstrip('/')}/*.parquet for the files in them"


def _walk(folder: Path, root: Path, above: frozenset[tuple[int, int]], found: _Found) -> None:
    """Find the files of a folder at any depth, also behind links, except links that lead back to `above`.

    Raises OSError for a folder that cannot be read, since its rows would be lost silently; BadInput for a table.
    """
    stat = folder.stat()
    here = above | {(stat.st_dev, stat.st_ino)}
    # promise: input: a link back to a parent folder is not followed
    if len(here) == len(above):
        return
    # promise: input: a folder that contains a table of another format is refused
    if (kind := table_at(folder)) is not None:
        raise refuse_table(kind, str(folder))
    for path in folder.iterdir():
        name = os.fsencode(path.relative_to(root)).decode(errors="replace")
        if _is_hidden((path.name,)):
            if path.is_file():
                found.hidden.append(name)
        # promise: input: folders behind links are read
        elif path.is_dir():
            # links too
            _walk(path, root, here, found)
        # promise: input: a Parquet file with any extension is read
        elif _is_named_parquet(path.name) or (path.is_file() and _begins_as_parquet(path)):
            found.files.append(path)
        elif kind_of(path.name):
            found.texts.append(path)
        elif path.is_file():
            # promise: input: files that are skipped are named
            found.others.append(name)


def _is_named_parquet(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _may_be(name: str, kind: str) -> bool:
    """Whether a file has a name that would make it input, beside files of a kind."""
    return _is_named_parquet(name) or (kind != PARQUET and kind_of(name) is not None)


def _begins_as_parquet(path: Path) -> bool:
    with path.open("rb", buffering=0) as file:
        return file.read(MAGIC_BYTES) in MAGIC


def _places(paths: list[Path], root: Path) -> list[InputFile]:
    """Raises BadInput for a path that is not a file, and for a name that is not UTF-8; OSError."""
    places = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            # promise: input: a file name that is not UTF-8 is refused
            str(path).encode()
        except UnicodeEncodeError:
            shown = str(path).encode("utf-8", "replace").decode()
            raise BadInput(f"the name of {shown} is not UTF-8; rename it") from None
        # promise: input: a path that is not a regular file is never opened
        if not path.is_file():
            kind = "a link to a file that does not exist" if path.is_symlink() else "not a file"
            raise BadInput(f"{path} is {kind}")
        stat = path.stat()
        text = kind_of(name)
        if text is not None and _begins_as_parquet(path):
            text = None
        places.append(InputFile(str(path), name, stat.st_size, stat.st_mtime_ns, text))
    return places


def _is_hidden(parts: tuple[str, ...]) -> bool:
    """Whether Spark would skip the file: an unfinished copy, or a name that begins with a dot or an underscore."""
    return any(
        part.startswith(".") or (part.startswith("_") and "=" not in part) or part.endswith("._COPYING_")
        for part in parts
    )


def _covers(location: str, path: str) -> bool:
    """Whether a file at `path` would be input."""
    from parquill.tasks.storage.object_store import matches

    return path.startswith(f"{location}/") or matches(path.split("/"), location.split("/"))


def _list_store(uri: str) -> Listing:
    """List the objects of an address, a folder or a glob; hidden ones are left out."""
    from parquill.tasks.storage.object_store import (  # imported late: the store's libraries load slowly
        find_marked,
        list_objects,
        peek,
    )

    fixed = fixed_part(uri)
    root, whole = redact_uri(fixed), redact_uri(uri).rstrip("/")
    found = {redact_uri(each.uri).removeprefix(root).lstrip("/"): each for each in list_objects(uri)}
    if set(found) == {""}:
        return Listing([_place_of(found[""], PurePosixPath(root).name)], [])
    # promise: input: a table of another format in a store is refused
    table = table_among(root, found)
    kind = PARQUET
    names = [name for name in found if not _is_hidden(tuple(name.split("/")))]
    if root == whole:
        texts = [name for name in names if kind_of(name)]  # by their names alone: a look at each takes a round trip
        unknown = [name for name in names if not _is_named_parquet(name) and not kind_of(name)]
        looked = unknown[:MAX_PEEKS]
        begun = peek([found[name].uri for name in looked], MAGIC_BYTES)
        # promise: input: a Parquet object in a store is read whatever its extension
        others = [name for name, data in zip(looked, begun, strict=True) if data not in MAGIC]
        unknown = unknown[MAX_PEEKS:]
        if len(names) > len(texts) + len(others) + len(unknown):
            others += texts  # since there is Parquet
        elif texts:
            kind = kind_of(texts[0]) or PARQUET
        hidden = [name for name in found if name not in set(names) and _may_be(name.rpartition("/")[2], kind)]
        hidden = [name for name in hidden if not _is_hidden(tuple(name.split("/")[:-1]))]
    else:
        hidden = _hidden_of_glob(list(found), whole.removeprefix(root).lstrip("/").split("/"))
        others, unknown = [], []
        names = [name for name in found if name not in hidden]
    left = {*others, *unknown}
    taken = [name for name in names if name not in left]
    # promise: input: objects inside a table of another format are refused
    if table is None and taken:
        table = find_marked(fixed, lambda path: folders_above(path, ["*"] if root == whole else taken))
    if table is not None:
        raise refuse_table(*table)
    notes = _notes(others, hidden, kind)
    if unknown:
        notes.append(f"objects whose names do not end in .parquet, .parq or .pq and are left out: {_some(unknown)}")
    if not taken:
        if root == whole:
            raise BadInput(f"there is no *.parquet, *.csv or *.jsonl object at {whole}{_advise_of_globs(whole, notes)}")
        has_folders = any(list_objects(join(uri, "*")))
        raise BadInput(f"no object matches {whole}{_advise_of_folders(whole) if has_folders else ''}")
    return Listing([_place_of(found[name], name) for name in taken], notes)


def _place_of(stored: Any, name: str) -> InputFile:
    return InputFile(stored.uri, name, stored.size, stored.mtime_ns, kind_of(name))


def partitions_of(paths: list[str]) -> list[tuple[tuple[str, Any], ...]]:
    """Return each file's columns from the key=value folders of its whole path.

    A column is int64 if all its values are whole numbers. Raises BadInput if the files' folders have different keys.
    """
    # promise: api: folders above a kept table, such as dt=2026-11-30, add no column to it
    raw = [{} if is_kept(path) else _keys_of(redact_uri(path)) for path in paths]
    if any(found.keys() != raw[0].keys() for found in raw):
        odd = next(p for p, found in zip(paths, raw, strict=True) if found.keys() != raw[0].keys())
        raise BadInput(f"{redact_uri(odd)}: its key=value folders differ from those of {redact_uri(paths[0])}")
    null = "__HIVE_DEFAULT_PARTITION__"
    numbers = set()
    for key in raw[0]:
        values = [found[key] for found in raw if found[key] != null]
        if values and all(map(_is_int, values)):
            numbers.add(key)
    return [tuple((k, None if v == null else int(v) if k in numbers else v) for k, v in found.items()) for found in raw]


def _keys_of(path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in Path(path).parts[:-1]:
        key, equals, value = part.partition("=")
        if key and equals:
            if key in found:
                raise BadInput(f"{path}: two of its folders are named {key}=...; rename one of them")
            found[key] = unquote(value)
    return found


def _is_int(text: str) -> bool:
    # 007 and +7 are names, not numbers: turning them into 7 would change the value
    return len(text) < 19 and re.fullmatch(r"-?\d+", text, re.ASCII) is not None and str(int(text)) == text
