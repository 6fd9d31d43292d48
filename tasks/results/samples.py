"""Chooses rows of the results to look at: those with given values, and of these a random sample.

The same results give the same sample, so two people who look at one run see the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from parquill.tasks.errors import BadInput
from parquill.tasks.results.export import plain_text
from parquill.tasks.storage.columns import result_fields
from parquill.tasks.storage.published import prefix_of

SEED = 20_261_130
MAX_CELL = 3_000  # characters of a cell that are kept
OWN_COLUMNS = tuple(field.name for field in result_fields(pa.null()))


class Draw:
    """Reservoir sampling: of any number of rows, each is kept with the same probability. The seed decides which."""

    def __init__(self, count: int, seed: int | str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - the same rows each time, no secret
        self._count, self._seen = count, 0

    def next_slot(self) -> int | None:
        """Return the place, from 0, that the next row takes in the sample; None if it is not kept."""
        self._seen += 1
        if self._seen <= self._count:
            return self._seen - 1
        slot = self._random.randrange(self._seen)
        return slot if slot < self._count else None


@dataclass(frozen=True, slots=True)
class Cell:
    """The beginning of a value, at most MAX_CELL characters, and how many it has in all; None for a null."""

    text: str | None
    length: int = 0


def cell_of(column: pa.Array, index: int) -> Cell:
    """Return a cell as text: lists and structs as JSON, bytes as Base64, texts that are not UTF-8 as well as they go.

    No value raises an error, for what is shown of a run must never end it.
    """
    try:
        value = column[index].as_py()
        if value is None:
            return Cell(None)
        text = value if isinstance(value, str) else plain_text(value)
    except (ValueError, OverflowError, TypeError, pa.ArrowException):  # not UTF-8, or a time beyond Python's
        try:
            text = column.slice(index, 1).cast(pa.binary())[0].as_py().decode("utf-8", "replace")
        except (ValueError, pa.ArrowException):
            return Cell("(a value that cannot be shown)", 0)
    return Cell(text[:MAX_CELL], len(text))


@dataclass(frozen=True, slots=True)
class Sample:
    """The chosen rows in input order, each as (input columns, result columns without prefix), and how many matched."""

    rows: list[tuple[dict[str, Any], dict[str, Any]]]
    matching: int


def sample_rows(batches: Iterable[pa.RecordBatch], count: int | None, where: Sequence[tuple[str, str]] = ()) -> Sample:
    """Choose `count` of the rows that match `where`, at random; None: all of them.

    `where` holds pairs of a column and the text of its value, `null` for a null. Raises BadInput for an unknown column.
    """
    draw = None if count is None else Draw(count, SEED)
    chosen: list[tuple[int, dict[str, Any]]] = []
    matching, prefix = 0, ""
    for batch in batches:
        names = batch.schema.names
        prefix = prefix_of(names)
        wanted = [(_column(name, prefix, names), value) for name, value in where]
        for index in _matching(batch, wanted):
            matching += 1
            slot = len(chosen) if draw is None else draw.next_slot()
            if slot is not None:
                chosen[slot : slot + 1] = [(matching, batch.slice(index, 1).to_pylist()[0])]
    return Sample([_split(row, prefix) for _, row in sorted(chosen, key=lambda each: each[0])], matching)


def _column(name: str, prefix: str, names: Sequence[str]) -> str:
    if name in names:
        return name
    if prefix + name in names:
        return prefix + name
    raise BadInput(f"the results have no column {name!r}; they have {', '.join(map(repr, names))}")


def _matching(batch: pa.RecordBatch, wanted: Sequence[tuple[str, str]]) -> list[int]:
    rows = list(range(batch.num_rows))
    for name, value in wanted:
        texts = [_text(each) for each in batch.column(name).to_pylist()]
        rows = [index for index in rows if texts[index] == value]
    return rows


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _split(row: dict[str, Any], prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    own = {name: row[prefix + name] for name in OWN_COLUMNS if prefix + name in row}
    return {name: value for name, value in row.items() if name.removeprefix(prefix) not in own}, own
