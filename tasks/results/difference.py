"""Compares two outputs row by row: which answers differ, how statuses changed, what each cost.

Rows are matched by where they are in the input, or by columns that identify them. Both outputs are streamed; of each
row only digests stay in memory (40 bytes).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from parquill.tasks.errors import BadInput
from parquill.tasks.money.amounts import usd_to_nano
from parquill.tasks.storage.published import prefix_of

BY_PLACE = ("source_file", "row_number")
KEY_BYTES = 16
KEY_TYPE = f"S{KEY_BYTES}"
Keys = npt.NDArray[np.bytes_]
Batches = Callable[[], Iterator[pa.RecordBatch]]  # reads an output from its beginning


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row whose status or answer differs: its key, and status, answer and error of both outputs."""

    key: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass(slots=True)
class Difference:
    """What differs between two outputs; money in nano-dollars. `statuses` counts pairs of different statuses."""

    rows: tuple[int, int] = (0, 0)
    same: int = 0
    changed: int = 0
    only_before: int = 0
    only_after: int = 0
    cost_nano: tuple[int, int] = (0, 0)
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[ChangedRow] = field(default_factory=list)


def compare_outputs(before: Batches, after: Batches, on: Sequence[str] = (), examples: int = 10) -> Difference:
    """Compare two outputs; `on` names the columns that identify a row, by default its file and row number.

    Returns the first `examples` changed rows too. Raises BadInput for an unknown column, or if the columns do not
    identify the rows.
    """
    first, second = _Digests(before, on), _Digests(after, on)
    found = Difference((len(first.keys), len(second.keys)), cost_nano=(first.cost_nano, second.cost_nano))
    index, is_in_both = _match(first.keys, second.keys)
    pairs = np.flatnonzero(is_in_both)
    found.only_before, found.only_after = len(first.keys) - len(pairs), len(second.keys) - len(pairs)
    differ = pairs[first.answers[index[pairs]] != second.answers[pairs]].tolist()
    found.changed, found.same = len(differ), len(pairs) - len(differ)
    for row in differ:
        statuses = first.status_of(int(index[row])), second.status_of(row)
        if statuses[0] != statuses[1]:
            found.statuses[statuses] += 1
    chosen = differ[:examples]
    old, new = _rows_at(before, on, [int(index[row]) for row in chosen]), _rows_at(after, on, chosen)
    for row in chosen:
        key, shown = old[int(index[row])]
        found.examples.append(ChangedRow(key, shown, new[row][1]))
    return found


def _match(first: Keys, second: Keys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return for each key of `second` its number in `first`, and whether it is there at all."""
    if not len(first):
        return np.zeros(len(second), dtype=np.int64), np.zeros(len(second), dtype=np.bool_)
    order = np.argsort(first, kind="stable")
    index = order[np.minimum(np.searchsorted(first[order], second), len(first) - 1)]
    return index, first[index] == second


class _Digests:
    """The rows of one output as digests, in order, and what they cost."""

    def __init__(self, batches: Batches, on: Sequence[str]) -> None:
        keys: list[Keys] = [np.array([], KEY_TYPE)]
        answers: list[Keys] = [np.array([], KEY_TYPE)]
        codes: list[npt.NDArray[np.uint8]] = [np.array([], np.uint8)]
        self._statuses: list[str] = []  # by their codes
        self.cost_nano = 0
        latest, repeats = b"", 0
        for batch in batches():
            prefix, names = _columns(batch.schema.names, on)
            found = []
            for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                key = _digest(values)
                if not on:  # `for_each` makes several rows of one input row, which follow each other
                    repeats = repeats + 1 if key == latest else 0
                    latest = key
                    key = _digest((key, repeats)) if repeats else key
                found.append(key)
            keys.append(np.array(found, KEY_TYPE))
            statuses = batch.column(prefix + "status").to_pylist()
            self._statuses += [status for status in dict.fromkeys(statuses) if status not in self._statuses]
            codes.append(np.array([self._statuses.index(status) for status in statuses], np.uint8))
            pairs = zip(statuses, batch.column(prefix + "completion").to_pylist(), strict=True)
            answers.append(np.array([_digest(pair) for pair in pairs], KEY_TYPE))
            self.cost_nano += sum(usd_to_nano(usd) for usd in batch.column(prefix + "cost_usd").to_pylist())
        self.keys, self.answers, self._codes = np.concatenate(keys), np.concatenate(answers), np.concatenate(codes)
        if len(np.unique(self.keys)) < len(self.keys):
            raise BadInput(f"{', '.join(on)} do not identify the rows: several rows have the same value")

    def status_of(self, row: int) -> str:
        """Return the status of a row."""
        return self._statuses[int(self._codes[row])]


def _digest(values: Any) -> bytes:
    return hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def _columns(names: Sequence[str], on: Sequence[str]) -> tuple[str, list[str]]:
    """Return the prefix of the result columns, and the columns that identify a row."""
    prefix = prefix_of(list(names))
    wanted = list(on) or [prefix + name for name in BY_PLACE]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise BadInput(f"the results have no column {missing[0]!r}; they have {', '.join(map(repr, names))}")
    return prefix, wanted


def _rows_at(
    batches: Batches, on: Sequence[str], numbers: Sequence[int]
) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
    """Return key and result of the rows with these numbers in an output."""
    found: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
    wanted, first = set(numbers), 0
    for batch in batches():
        if len(found) == len(wanted):
            break
        prefix, names = _columns(batch.schema.names, on)
        for number in sorted(each for each in wanted if first <= each < first + batch.num_rows):
            row = batch.slice(number - first, 1).to_pylist()[0]
            shown = {name: row[prefix + name] for name in ("status", "completion", "error_message")}
            found[number] = ({name: row[name] for name in names}, shown)
        first += batch.num_rows
    return found
