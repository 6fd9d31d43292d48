"""The columns of the whole input: of all files together, each with one type that holds the values of all files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.footer_metadata import clean
from parquill.tasks.prompts.promote import NotOne, common_type, missing_fields
from parquill.tasks.storage.uri import redact_uri

MAX_TYPE = 200  # characters of a type in a message


class Columns:
    """Collects the schemas of files one by one."""

    def __init__(self) -> None:
        self._fields: dict[str, pa.Field] = {}
        self._seen_in: dict[str, str] = {}  # the file that set or last widened the type
        self._metadata: dict[bytes, bytes] | None = None
        self._last: pa.Schema | None = None
        self._first = ""
        self._files = 0
        self._changed: set[str] = set()  # columns of more than one type
        self._as_double: dict[str, str] = {}
        self._first_with: dict[str, str] = {}  # column -> the first file with it
        self._fields_without: dict[str, str] = {}  # field of a struct -> the first file without it
        self._without: dict[str, tuple[str, int]] = {}  # column -> the first file without it, number of such files

    def add(self, path: str, found: pa.Schema) -> None:
        """Add the next file's schema. Raises BadInput if no type holds the values of a column in all files."""
        if self._files == 0:
            self._metadata, self._first = found.metadata, path
        if self._last is None or not found.equals(self._last):
            for field in found:
                self._take(path, field)
            self._last = found
        names = set(found.names)
        for name in [each for each in self._fields if each not in names]:
            first, count = self._without.get(name, (path, 0))
            self._without[name] = first, count + 1
        self._files += 1

    def _take(self, path: str, field: pa.Field) -> None:
        known = self._fields.get(field.name)
        if known is None:
            if self._files:
                self._without[field.name] = self._first, self._files
            self._fields[field.name], self._seen_in[field.name] = field, path
            self._first_with[field.name] = path
            return
        try:
            kind = common_type(known.type, field.type)
        except NotOne as error:
            # promise: input: a column whose types cannot be merged across files is refused
            raise self._refusal(path, field.name, error) from None
        # a field that is new now is missing in all earlier files
        for before, file in ((known.type, self._first_with[field.name]), (field.type, path)):
            for place in missing_fields(before, kind):
                self._fields_without.setdefault(field.name + place, file)
        if kind != known.type:
            self._seen_in[field.name] = path
        if known.type != field.type:
            self._changed.add(field.name)
            for before in (known.type, field.type):
                if pa.types.is_integer(before) and pa.types.is_floating(kind):
                    self._as_double[field.name] = str(before)
        # a column that is nullable in one file is nullable in the whole input
        self._fields[field.name] = pa.field(
            field.name, kind, known.nullable or field.nullable, known.metadata or field.metadata
        )

    def _refusal(self, path: str, name: str, error: NotOne) -> BadInput:
        first, other = (str(kind)[:MAX_TYPE] for kind in (error.first, error.other))
        return BadInput(
            f"{redact_uri(path)}: the column {name + error.within!r} is {other} instead of {first} as in "
            f"{redact_uri(self._seen_in[name])}, and no type holds both without loss; rewrite one of the files with "
            "the other type (results hold every column, also those that no prompt uses), or select files of one type "
            "with a glob"
        )

    def without(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Return, for each column that some file lacks and no folder names, the first such file."""
        return {name: first for name, (first, _) in self._without.items() if name not in keys}

    def schema(self, keys: Sequence[str]) -> pa.Schema:
        """Return all columns in the order of their first appearance; `keys` are the columns that folders name."""
        without = self.without(keys)
        fields = [field.with_nullable(field.nullable or name in without) for name, field in self._fields.items()]
        return clean(pa.schema(fields, self._metadata), {*self._changed, *without})

    def notes(self, keys: Sequence[str]) -> list[str]:
        """Return notes on differences that are allowed."""
        notes = []
        for name, first in self.without(keys).items():
            count = self._without[name][1]
            notes.append(
                f"{count:,} of {self._files:,} files have no column {name!r}, so it is null in their rows; the first "
                f"is {redact_uri(first)}; if this is not intended, add the column there or drop it from all files"
            )
        notes += [
            f"some files have no field {field!r}, so it is null in their rows; the first is {redact_uri(first)}; if "
            "this is not intended, add the field there or drop it from all files"
            for field, first in self._fields_without.items()
        ]
        notes += [
            f"the column {name!r} is {kind} in some files and floating point in others, and is read as "
            f"{self._fields[name].type}: a prompt shows 1 as 1.0; if this is not intended, use one type"
            for name, kind in self._as_double.items()
        ]
        return notes
