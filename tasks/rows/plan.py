"""Planning: every input row, in order, becomes a rendered request with its tokens, its key and what to do about it.

All of it streams: memory holds one batch. Which row pays for a shared key (the first) is decided in an SQLite file
that lives as long as the planning does, so ten million keys need no dictionary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa

from parquill.tasks.disk.answers import AnswerIndex, Place
from parquill.tasks.disk.schemas import PLAN, PLAN_FIELDS, check_names, for_each_field
from parquill.tasks.errors import BadInput, BadJob
from parquill.tasks.job import Job
from parquill.tasks.money.correction import Correction
from parquill.tasks.money.estimate import EstimateSum
from parquill.tasks.money.past import Past
from parquill.tasks.money.prices import Price
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.records import Action, Outcome
from parquill.tasks.rows.cells import cells
from parquill.tasks.rows.kept import Kept
from parquill.tasks.rows.request import KeyMaker, check_messages, check_parameters, check_prompt
from parquill.tasks.rows.seen import Seen
from parquill.tasks.rows.source import Source, SourceFile, read_batches
from parquill.tasks.rows.template import RowFault, Templates


class Sink(Protocol):
    """Takes planned rows batch by batch."""

    def write(self, batch: pa.RecordBatch, to_send: int) -> None:
        """Take the next rows of the plan."""


class Previous(Protocol):
    """The results that `--redo` starts from."""

    def take(self, rows: int) -> pa.Table:
        """The next rows of the results, in their order."""


@dataclass(slots=True)
class Row:
    """One row on its way through the planning."""

    file: str
    number: int
    identity: list[Any]
    messages: list[dict[str, Any]] | None = None
    parameters: dict[str, Any] | None = None
    key: bytes | None = None
    prompt_tokens: int | None = None
    action: Action = Action.REJECT
    carries_cost: bool = False
    fault: RowFault | None = None
    carried: Outcome | None = None


@dataclass(slots=True)
class Planner:
    """Plans one job; `plan` streams its rows into a sink and gives the sum of their estimates."""

    job: Job
    source: Source
    price: Price
    scratch: Path  # folder for the file of keys
    answers: AnswerIndex | None = None
    previous: Previous | None = None
    redo: frozenset[str] = frozenset()
    past: Past | None = None
    other_prices: Sequence[Price] = ()  # at which the same rows are estimated too
    correction: Correction | None = None  # of an approximate token count
    _templates: Templates | None = field(init=False, default=None)

    def plan(self, sink: Sink | None, limit: int | None = None) -> EstimateSum:
        """Plan at most `limit` input rows; without a sink they are only counted. Raises BadJob, BadInput."""
        job = self.job
        self._check_columns()
        if job.prompt is not None:
            names = [*self.source.schema.names, *(job.for_each or {})]
            variables = job.vars if isinstance(job.vars, dict) else None
            self._templates = Templates(job.prompt.system, job.prompt.user, names, variables)
            for name in self._templates.columns:
                kind = self.source.schema.field(name).type if name in self.source.schema.names else pa.string()
                if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
                    raise BadInput(f"the prompt uses the column {name!r}, which is {kind} and not text")
        counter = TokenCounter(
            job.model,
            job.tokenizer,
            schema=job.response_format,
            tools=job.parameters.get("tools", ()),
            correction=self.correction,
        )
        total = EstimateSum(job, [self.price, *self.other_prices], counter, self.past)
        keys = KeyMaker(job)
        with Seen(self.scratch) as seen:
            for file, first, batch in read_batches(self.source, limit):
                ids = self._bad_ids(batch, seen)
                kept = self._kept(batch, file, first)
                rows = list(self._render(batch, file, first, ids))
                self._count(rows, counter)
                for row in rows:
                    self._make_key(row, keys)
                self._decide(rows, seen, kept)
                total.add(rows)
                if sink is not None:
                    to_send = sum(row.action is Action.SEND for row in rows)
                    sink.write(self._columns(batch, file, first, rows, kept), to_send)
            if total.rows == 0 and sink is not None:  # an empty input makes empty results, with all their columns
                empty = self.source.schema.empty_table().to_batches() or [
                    pa.RecordBatch.from_pylist([], schema=self.source.schema)
                ]
                file = self.source.files[0]
                sink.write(self._columns(empty[0], file, 0, [], self._kept(empty[0], file, 0)), 0)
        return total

    def _check_columns(self) -> None:
        job, names = self.job, self.source.schema.names
        for each in job.for_each or {}:
            if each in names:
                raise BadJob(f"`for_each` has {each!r}, which is a column of the input already")
        check_names([*names, *(job.for_each or {})], job.column_prefix, with_parsed=job.response_format is not None)
        for setting in ("id_column", "messages_column", "parameters_column"):
            name = getattr(job, setting)
            if name is not None and name not in names:
                same = next((n for n in names if n.casefold() == name.casefold()), None)
                hint = f"it is written {same!r}" if same else f"the columns are {', '.join(names[:20])}"
                raise BadInput(f"`{setting}`: the input has no column {name!r}; {hint}")

    def _bad_ids(self, batch: pa.RecordBatch, seen: Seen) -> list[RowFault | None]:
        if self.job.id_column is None:
            return [None] * batch.num_rows
        faults: list[RowFault | None] = []
        for value in cells(batch.column(self.job.id_column)):
            if isinstance(value, RowFault):
                faults.append(value)
            elif value is None:
                faults.append(RowFault("bad_id", f"{self.job.id_column} is null"))
            elif not seen.first_id(repr(value)):
                faults.append(RowFault("bad_id", f"{self.job.id_column} is that of an earlier row"))
            else:
                faults.append(None)
        return faults

    def _render(self, batch: pa.RecordBatch, file: SourceFile, first: int, ids: list[RowFault | None]) -> Iterator[Row]:
        job, names = self.job, set(batch.schema.names)
        wanted = self._templates.columns if self._templates else [str(job.messages_column)]
        columns = {name: cells(batch.column(name)) for name in wanted if name in names}
        parameters = cells(batch.column(job.parameters_column)) if job.parameters_column else None
        row_ids = cells(batch.column(job.id_column)) if job.id_column else None
        combinations = list(itertools.product(*(job.for_each or {}).values()))
        for place in range(batch.num_rows):
            values = {name: column[place] for name, column in columns.items()}
            for combination in combinations:
                name = [row_ids[place]] if row_ids else [file.name, first + place]
                identity = [*map(str, name), *combination]
                row = Row(file=file.name, number=first + place, identity=identity)
                try:
                    if (bad_id := ids[place]) is not None:
                        raise bad_id
                    each = dict(zip(job.for_each or {}, combination, strict=True))
                    row.messages = self._messages({**values, **each})
                    if parameters is not None:
                        row.parameters = check_parameters(_sound(parameters[place]))
                except RowFault as fault:
                    row.fault = fault
                yield row

    def _messages(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        for value in values.values():
            _sound(value)
        if self._templates is None:
            return check_messages(values[str(self.job.messages_column)])
        messages = self._templates.render(values)
        check_prompt(messages)
        return messages

    def _count(self, rows: list[Row], counter: TokenCounter) -> None:
        good = [row for row in rows if row.fault is None and row.messages is not None]
        chats = [row.messages or [] for row in good]
        if self.job.endpoint.api == "completions":
            counts = counter.count_prompts([chat[-1]["content"] for chat in chats])
        else:
            counts = counter.count_chats(chats)
        window, room = self.price.window, self.job.max_output_tokens
        for row, tokens in zip(good, counts, strict=True):
            row.prompt_tokens = tokens
            if window is not None and tokens + room > window:
                row.fault = RowFault(
                    "too_long",
                    f"{tokens:,} tokens of input and {room:,} of output exceed {self.job.model}'s {window:,}",
                )

    @staticmethod
    def _make_key(row: Row, keys: KeyMaker) -> None:
        if row.fault is None and row.messages is not None:
            try:
                row.key = keys.key(row.messages, row.parameters, row.identity)
            except RowFault as fault:
                row.fault = fault

    def _decide(self, rows: list[Row], seen: Seen, kept: Kept | None) -> None:
        found: dict[bytes, Place] = {}
        known: dict[bytes, Outcome] = {}
        if self.answers is not None:
            found = self.answers.find([row.key for row in rows if row.key is not None], self.job.output)
            known = self.answers.read({key: place for key, place in found.items() if not place.reusable})
        for place, row in enumerate(rows):
            if kept is not None and not kept.redo[place]:
                row.action, row.fault = Action.KEEP, None
                continue
            if row.fault is not None or row.key is None:
                continue
            first = seen.first_key(row.key)
            old, tried = found.get(row.key), known.get(row.key)
            own = old is not None and old.output == self.job.output
            if kept is not None:
                row.action = Action.SEND if first else Action.SAME
                row.carried = kept.carried(place) if first else None
            elif old is not None and (tried is None or self._is_held(tried)):
                row.action = Action.REUSE
                row.carries_cost = first and own
            else:
                row.action = Action.SEND if first else Action.SAME
                # a failed try's money stays with the row that tries again, if this output shows it
                row.carried = tried if first and own else None
            row.carries_cost = row.carries_cost or row.action is Action.SEND

    def _is_held(self, tried: Outcome) -> bool:
        """Whether a failed row stays failed: its request may have been paid for, and is not to be paid for again."""
        return self.job.retry.in_doubt == "hold" and tried.is_in_doubt

    def _kept(self, batch: pa.RecordBatch, file: SourceFile, first: int) -> Kept | None:
        if self.previous is None:
            return None
        job = self.job
        count = max(1, len(list(itertools.product(*(job.for_each or {}).values()))))
        table = self.previous.take(batch.num_rows * count)
        prefix = job.column_prefix
        names = table.column(f"{prefix}source_file").to_pylist() if table.num_rows else []
        numbers = table.column(f"{prefix}row_number").to_pylist() if table.num_rows else []
        wanted = [n for n in range(first, first + batch.num_rows) for _ in range(count)]
        if numbers != wanted or set(names) - {file.name}:
            raise BadInput(
                "the input is not the one of the results, so --redo cannot tell the rows; run without --redo"
            )
        return Kept(table, prefix, self.redo)

    def _columns(
        self, batch: pa.RecordBatch, file: SourceFile, first: int, rows: Sequence[Row], kept: Kept | None
    ) -> pa.RecordBatch:
        each = self.job.for_each or {}
        combinations = list(itertools.product(*each.values()))
        repeats = len(combinations)
        if repeats != 1:
            batch = _repeat(batch, repeats)
        arrays, fields = list(batch.columns), list(batch.schema)
        for place, (name, values) in enumerate(each.items()):
            column = for_each_field(name, values)
            arrays.append(pa.array([c[place] for c in combinations] * (len(rows) // repeats), column.type))
            fields.append(column)
        plan = self._plan_columns(rows, file, first, repeats)
        for name, kind in PLAN_FIELDS.items():
            arrays.append(pa.array(plan[name], kind))
            fields.append(pa.field(PLAN + name, kind))
        if kept is not None:
            arrays.append(kept.struct())
            fields.append(pa.field(PLAN + "kept", arrays[-1].type))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, self.source.schema.metadata))

    def _plan_columns(self, rows: Sequence[Row], file: SourceFile, first: int, repeats: int) -> dict[str, list[Any]]:
        bare = self.job.endpoint.api == "completions"
        sent = (Action.SEND,)
        return {
            "action": [int(row.action) for row in rows],
            "source_file": [file.name] * len(rows),
            "row_number": [first + place // repeats for place in range(len(rows))],
            "request_key": [row.key for row in rows],
            "messages": [
                orjson.dumps(row.messages[-1]["content"] if bare else row.messages).decode()
                if row.messages is not None and row.action in sent
                else None
                for row in rows
            ],
            "parameters": [
                orjson.dumps(row.parameters).decode() if row.parameters and row.action in sent else None for row in rows
            ],
            "prompt_tokens": [row.prompt_tokens for row in rows],
            "carries_cost": [row.carries_cost for row in rows],
            "error_code": [row.fault.code if row.fault else None for row in rows],
            "error_message": [row.fault.message if row.fault else None for row in rows],
            "carried_cost_nano": [
                row.carried.cost_nano + row.carried.carried_cost_nano if row.carried else 0 for row in rows
            ],
            "carried_in_doubt_nano": [
                row.carried.in_doubt_nano + row.carried.carried_in_doubt_nano if row.carried else 0 for row in rows
            ],
            "carried_attempts": [
                row.carried.attempts + row.carried.carried_attempts if row.carried else 0 for row in rows
            ],
            "carried_usage": [_usage(row.carried) for row in rows],
        }


def _repeat(batch: pa.RecordBatch, times: int) -> pa.RecordBatch:
    """Each row `times` times. Arrow cannot take from views, but can put them together."""
    places = pa.array(np.repeat(np.arange(batch.num_rows), times))
    arrays = []
    for column in batch.columns:
        try:
            arrays.append(column.take(places))
        except pa.ArrowNotImplementedError:
            arrays.append(pa.concat_arrays([column.slice(place // times, 1) for place in range(len(places))]))
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _usage(outcome: Outcome | None) -> list[int] | None:
    if outcome is None or (outcome.usage is None and outcome.carried_usage is None):
        return None
    none = (0, 0, 0, 0)
    return [a + b for a, b in zip(outcome.usage or none, outcome.carried_usage or none, strict=True)]


def _sound(value: Any) -> Any:
    if isinstance(value, RowFault):
        raise value
    return value
