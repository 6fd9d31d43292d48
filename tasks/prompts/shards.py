"""The shards of a plan: small Parquet files of planned rows. Only this file knows their columns.

A shard has the input's columns, those of `for_each`, the plan's (PLAN_FIELDS, under names that no input may have), and
with `--redo` the columns of the results that are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from parquill.tasks.errors import BadInput
from parquill.tasks.records import NO_CHARGE, Action, Charge, PlannedRow, ShardRef
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.folders import RunFolder
from parquill.tasks.storage.parquet_reader import ChecksummedReader
from parquill.tasks.storage.parquet_writer import ChecksummedWriter

MAX_SHARD_BYTES = 64 << 20
READ_ROWS = 500
# The requests, the largest part of a shard, are read in few rows at a time; the other columns in more.
READ_ROWS_WITHOUT_REQUESTS = 2_000

PREFIX = "__parquill_"
# As records.Charge; the usage in its order.
_CHARGE = pa.struct(
    {
        "cost_nano": pa.int64(),
        "in_doubt_nano": pa.int64(),
        "attempts": pa.int32(),
        "usage": pa.list_(pa.int64()),
    }
)
PLAN_FIELDS = {
    "action": pa.int8(),
    "source_file": pa.string(),
    "row_number": pa.int64(),
    "request_key": pa.binary(32),
    "messages": pa.string(),  # JSON; of `api: completions` the prompt as a JSON string
    "parameters": pa.string(),  # JSON of the row's own, or null
    "prompt_tokens": pa.int64(),
    "reserved_tokens": pa.int64(),  # as records.Reservation, like the next two
    "worst_nano": pa.int64(),
    "expected_prompt_tokens": pa.float64(),
    "carries_cost": pa.bool_(),  # this row's output shows what the shared answer cost
    "error_code": pa.string(),
    "error_message": pa.string(),
    "prior": _CHARGE,  # what earlier runs of the same output paid for the row; null for most rows
    "newer_than": pa.int64(),  # `--redo`: only an answer from after this time is reused (microseconds since 1970)
}
_KEPT = "kept"  # a struct of the result columns that `--redo` keeps
_REQUEST = frozenset({"messages", "parameters"})


class PendingRow(NamedTuple):
    """A row that is to be sent: its number in the shard, its key, its request as JSON, and what is reserved for it."""

    number: int
    key: bytes
    messages: str
    parameters: str | None
    tokens: int
    worst_nano: int
    expected_prompt_tokens: float
    prior: Charge


_PENDING = [
    "request_key",
    "messages",
    "parameters",
    "reserved_tokens",
    "worst_nano",
    "expected_prompt_tokens",
    "prior",
]


class ResultPart(NamedTuple):
    """Some rows of a shard for the results: the input's columns, and the plan's by name as lists of Python values."""

    given: pa.Table
    plan: dict[str, list[Any]]


def check_unreserved(columns: Iterable[str]) -> None:
    """Refuse an input with a column whose name begins like the plan's. Raises BadInput."""
    reserved = [name for name in columns if name.startswith(PREFIX)]
    if reserved:
        raise BadInput(f"the input has a column {reserved[0]!r}; rename it, since {PREFIX} starts Parquill's own names")


def shard_batch(
    given: pa.RecordBatch,
    file: str,
    rows: Sequence[PlannedRow],
    kept: pa.StructArray | None,
    *,
    is_bare: bool,
) -> pa.RecordBatch:
    """Return the `given` rows of a file with the columns of the plan, and of the results that are `kept`.

    `is_bare` is True for an API that takes a text and not messages.
    """
    arrays, fields = list(given.columns), list(given.schema)
    plan = _plan_of(rows, file, is_bare=is_bare)
    for name, kind in PLAN_FIELDS.items():
        arrays.append(pa.array(plan[name], kind))
        fields.append(pa.field(PREFIX + name, kind))
    if kept is not None:
        arrays.append(kept)
        fields.append(pa.field(PREFIX + _KEPT, kept.type))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, given.schema.metadata))


def _plan_of(rows: Sequence[PlannedRow], file: str, *, is_bare: bool) -> dict[str, list[Any]]:
    def messages(row: PlannedRow) -> str | None:
        if row.messages is None or row.action is not Action.SEND:
            return None
        return orjson.dumps(row.messages[-1]["content"] if is_bare else row.messages).decode()

    reserved = [row.reservation or (None, None, None) for row in rows]
    return {
        "action": [int(row.action) for row in rows],
        "source_file": [file] * len(rows),
        "row_number": [row.number for row in rows],
        "request_key": [row.key for row in rows],
        "messages": [messages(row) for row in rows],
        "parameters": [
            orjson.dumps(row.parameters).decode() if row.parameters and row.action is Action.SEND else None
            for row in rows
        ],
        "prompt_tokens": [row.prompt_tokens for row in rows],
        "reserved_tokens": [tokens for tokens, _, _ in reserved],
        "worst_nano": [worst for _, worst, _ in reserved],
        "expected_prompt_tokens": [expected for _, _, expected in reserved],
        "carries_cost": [row.carries_cost for row in rows],
        "error_code": [row.fault.code if row.fault else None for row in rows],
        "error_message": [row.fault.message if row.fault else None for row in rows],
        "prior": [None if row.prior == NO_CHARGE else asdict(row.prior) for row in rows],
        "newer_than": [row.newer_than for row in rows],
    }


def plan_of_batch(batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """Return the plan's columns of a batch, by name, as lists of Python values."""
    return {
        name.removeprefix(PREFIX): batch.column(name).to_pylist()
        for name in batch.schema.names
        if name.startswith(PREFIX)
    }


class ShardWriter:
    """Writes planned rows as shards of about `rows` rows. Implements the planner's Sink."""

    def __init__(self, folder: RunFolder, rows: int, disk: Disk = DISK) -> None:
        self._folder, self._rows, self._disk = folder, rows, disk
        self.shards: list[ShardRef] = []
        self._file: ChecksummedWriter | None = None
        self._size = self._count = self._to_send = 0

    def write(self, batch: pa.RecordBatch, to_send: int) -> None:
        """Append rows to the open shard; once it is closed, its rows never move. Raises DiskFailed."""
        if self._file is None:
            # private: it holds prompts
            self._file = ChecksummedWriter(self._folder.shard(len(self.shards)), batch.schema, 0o600, self._disk)
        self._file.write(batch)
        self._count += batch.num_rows
        self._to_send += to_send
        self._size += batch.nbytes
        if self._count >= self._rows or self._size >= MAX_SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Close the open shard, if any. Raises DiskFailed."""
        if self._file is None:
            return
        self._file.close()
        self.shards.append(ShardRef(len(self.shards), self._count, self._to_send, self._file.crc32))
        self._file = None
        self._size = self._count = self._to_send = 0

    def abandon(self) -> None:
        """Abandon the open shard, if any."""
        if self._file is not None:
            self._file.abandon()


class ShardReader(ChecksummedReader):
    """Reads the planned rows of a shard; a context manager. Methods raise DiskFailed."""

    def plan(self, *names: str) -> Iterator[dict[str, list[Any]]]:
        """Yield columns of the plan, in batches of rows, as lists of Python values."""
        for batch in self.batches(READ_ROWS, [PREFIX + name for name in names]):
            yield plan_of_batch(batch)

    def pending(self, only: Collection[int] | None = None) -> Iterator[Iterator[PendingRow]]:
        """Yield the rows that are to be sent, in batches that are converted row by row.

        All messages of a batch, in Arrow and in Python, would take much memory. `only` names the rows that are wanted.
        """
        first = 0
        for batch in self.batches(READ_ROWS, [PREFIX + name for name in ("action", *_PENDING)]):
            yield _pending(batch, first, only)
            first += batch.num_rows

    def lengths(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the numbers of the rows that are to be sent, in order, and their prompt tokens."""
        names = [PREFIX + "action", PREFIX + "prompt_tokens"]
        table = pa.Table.from_batches(self.batches(READ_ROWS_WITHOUT_REQUESTS, names))
        sent = table.column(names[0]).to_numpy() == Action.SEND
        return np.flatnonzero(sent), table.column(names[1]).to_numpy()[sent].astype(np.int64)

    def result_parts(self) -> Iterator[ResultPart]:
        """Yield all rows without their requests, in batches; an empty shard has one batch without rows."""
        names = [name for name in self.schema.names if name.removeprefix(PREFIX) not in _REQUEST]
        given = [name for name in names if not name.startswith(PREFIX)]
        is_empty = True
        for batch in self.batches(READ_ROWS_WITHOUT_REQUESTS, names):
            is_empty = False
            yield ResultPart(pa.Table.from_batches([batch]).select(given), plan_of_batch(batch))
        if is_empty:
            yield ResultPart(self.schema.empty_table().select(given), {name: [] for name in PLAN_FIELDS})


def _pending(batch: pa.RecordBatch, first: int, only: Collection[int] | None) -> Iterator[PendingRow]:
    actions = batch.column(PREFIX + "action").to_pylist()
    columns = [
        batch.column(PREFIX + name) if name == "messages" else batch.column(PREFIX + name).to_pylist()
        for name in _PENDING
    ]
    for number, (action, row) in enumerate(zip(actions, zip(*columns, strict=True), strict=True), first):
        if action == Action.SEND and (only is None or number in only):
            key, messages, parameters, tokens, worst, expected, prior = row
            yield PendingRow(number, key, messages.as_py(), parameters, tokens, worst, expected, Charge.of(prior))
