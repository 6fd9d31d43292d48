"""Plans a job: turns every input row, in order, into a rendered request with its tokens, its key and its action.

Everything streams, and memory holds one batch. If rows share a key, the first one pays; a temporary SQLite file decides
this, so that ten million keys need no dictionary in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from parquill.tasks.errors import BadInput, BadJob, OtherRows, RowFault
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.money.calibration import Calibration
from parquill.tasks.money.estimate import EstimateSum
from parquill.tasks.money.learning import Past
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.prompts.cells import cells
from parquill.tasks.prompts.first_seen import FirstSeen
from parquill.tasks.prompts.for_each import ForEach
from parquill.tasks.prompts.input_parquet import SourceFile
from parquill.tasks.prompts.json_mode import check_says_json, must_say_json
from parquill.tasks.prompts.redo import PreviousRows, first_differing_column
from parquill.tasks.prompts.request import KeyMaker, check_messages, check_parameters, check_prompt
from parquill.tasks.prompts.responses_input import as_items, as_messages
from parquill.tasks.prompts.shards import check_unreserved, shard_batch
from parquill.tasks.prompts.source import Source, read_batches
from parquill.tasks.prompts.template import ROW, Templates
from parquill.tasks.prompts.template_nulls import is_missing
from parquill.tasks.records import NO_CHARGE, Action, Outcome, PlannedRow, Reservation
from parquill.tasks.storage.answer_index import AnswerIndex, AnswerLocation
from parquill.tasks.storage.columns import check_names
from parquill.tasks.storage.uri import redact_uri

# The most rendered text, with the input columns that are carried through, and the most planned rows in memory at once.
MAX_AT_ONCE = 16 << 20
MAX_ROWS_AT_ONCE = 4_096
NOT_THE_SAME = (
    "the input is not the one of the results, {}, so --redo cannot match the rows; run without --redo first, which "
    "pays for no answer again"
)


class Sink(Protocol):
    """Receives planned rows batch by batch."""

    def write(self, batch: pa.RecordBatch, to_send: int) -> None:
        """Write the next rows of the plan."""


class Previous(Protocol):
    """The previous results, of which rows are kept."""

    own: list[str]  # the output's own columns; the others came from the input

    def take(self, rows: int) -> pa.Table:
        """Return the next rows of the results, in order."""


@dataclass(slots=True)
class Planner:
    """Plans one job; `plan` streams its rows into a sink and returns the sum of their estimates."""

    job: ResolvedJob
    source: Source
    price: ModelPrice
    scratch: Path  # folder for the temporary file of keys
    answers: AnswerIndex | None = None
    previous: Previous | None = None
    redo: frozenset[str] = frozenset()
    open_rows: int | None = None  # rows of `previous` after so many input rows are always kept
    past: Past | None = None
    other_prices: Sequence[ModelPrice] = ()  # prices for further estimates of the same rows
    correction: Calibration | None = None  # of an approximate token count
    _templates: Templates | None = field(init=False, default=None)
    _for_each: ForEach = field(init=False)
    _reservations: dict[int, Reservation] = field(init=False, default_factory=dict)  # by prompt tokens
    _must_say_json: bool = field(init=False)
    _passed: int = field(init=False, default=0)  # rows of `previous` that were taken
    kept: int = field(init=False, default=0)  # rows that stay as they are in the results

    def __post_init__(self) -> None:
        self._for_each = ForEach(self.job, self.source.schema)
        self._must_say_json = must_say_json(self.job)

    def plan(self, sink: Sink | None, limit: int | None = None) -> EstimateSum:
        """Plan at most `limit` input rows; without a sink, only count them. Raises BadJob, BadInput."""
        job = self.job
        self._check_columns()
        self._templates = self._compile()
        # promise: input: a file without a column that the prompt uses is refused
        self._check_without()
        counter = TokenCounter(
            job.model,
            job.tokenizer,
            schema=job.answer_format.schema if job.answer_format is not None else None,
            tools=job.parameters.get("tools", ()),
            correction=self.correction,
        )
        total = EstimateSum(job, [self.price, *self.other_prices], counter, self.past)
        total.notes = list(self.source.notes)
        keys = KeyMaker(job)
        with FirstSeen(self.scratch) as seen:
            # without a sink, columns that no prompt uses are not needed
            is_whole = sink is not None or self.previous is not None
            for file, batch, start, rows in self._rendered(seen, limit, is_whole=is_whole):
                given = self._for_each.repeat(batch, start, len(rows)) if is_whole else None
                kept = self._kept(given, file, rows)
                self._count(rows, counter)
                for row in rows:
                    self._make_key(row, keys)
                self._decide(rows, seen, kept)
                total.add(rows)
                if sink is not None and given is not None:
                    self._reserve(rows, counter)
                    to_send = sum(row.action is Action.SEND for row in rows)
                    sink.write(self._shard_batch(given, file, rows, kept), to_send)
            # promise: C9 `--redo` refuses an input that lacks rows of the results
            if self.previous is not None and self.previous.take(1).num_rows:
                raise OtherRows(NOT_THE_SAME.format("which have more rows"))
            if total.rows == 0 and sink is not None:  # an empty input makes empty results with all columns
                file = self.source.files[0]
                sink.write(self._shard_batch(self._for_each.empty(), file, [], self._kept(None, file, [])), 0)
        return total

    def _shard_batch(
        self, given: pa.RecordBatch, file: SourceFile, rows: Sequence[PlannedRow], kept: PreviousRows | None
    ) -> pa.RecordBatch:
        struct = None if kept is None else kept.struct()
        return shard_batch(given, file.name, rows, struct, is_bare=self.job.endpoint.api == "completions")

    def _compile(self) -> Templates | None:
        if self.job.prompt is None:
            return None
        names = [*self.source.schema.names, *(self.job.for_each or {})]
        templates = Templates(
            self.job.prompt.system, self.job.prompt.user, names, self.job.vars, _fields_of_row(self.source.schema)
        )
        for name in templates.columns:
            kind = self.source.schema.field(name).type if name in self.source.schema.names else pa.string()
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
                raise BadInput(f"the prompt uses the column {name!r}, which is {kind} and not text")
        return templates

    def _check_columns(self) -> None:
        job, names = self.job, self.source.schema.names
        for each in job.for_each or {}:
            if each in names:
                raise BadJob(
                    f"`for_each` has {each!r}, which is already a column of the input; choose another name (in the "
                    "flow `translate`, set `language_column`)"
                )
        check_unreserved([*names, *(job.for_each or {})])
        check_names([*names, *(job.for_each or {})], job.column_prefix, with_parsed=job.response_format is not None)
        for setting in ("id_column", "messages_column", "parameters_column"):
            name = getattr(job, setting)
            if name is not None and name not in names:
                same = next((n for n in names if n.casefold() == name.casefold()), None)
                hint = f"it is written {same!r}" if same else f"the columns are {', '.join(names[:20])}"
                raise BadInput(f"`{setting}`: the input has no column {name!r}; {hint}")

    def _check_without(self) -> None:
        """Refuse a column that requests use if some file lacks it. Raises BadInput."""
        for name in sorted(self._columns() & self.source.without.keys()):
            path = self.source.without[name]
            there = next(file.columns for file in self.source.files if file.path == path)
            same = next((other for other in there if other.casefold() == name.casefold()), None)
            advice = "add it there (nulls are enough), or leave the file out"
            hint = f"it is written {same!r} there" if same else advice
            raise BadInput(
                f"{redact_uri(path)} has no column {name!r}, which the job uses and other files have; {hint}"
            )

    def _bad_ids(self, batch: pa.RecordBatch, seen: FirstSeen) -> list[RowFault | None]:
        if self.job.id_column is None:
            return [None] * batch.num_rows
        faults: list[RowFault | None] = []
        for value in cells(batch.column(self.job.id_column)):
            if isinstance(value, RowFault):
                faults.append(value)
            elif is_missing(value):
                faults.append(RowFault("bad_id", f"{self.job.id_column} is null"))
            elif not seen.first_id(repr(value)):
                faults.append(RowFault("bad_id", f"{self.job.id_column} is the same as in an earlier row"))
            else:
                faults.append(None)
        return faults

    def _rendered(
        self, seen: FirstSeen, limit: int | None, *, is_whole: bool
    ) -> Iterator[tuple[SourceFile, pa.RecordBatch, int, list[PlannedRow]]]:
        """Yield rendered rows with their input rows, in portions that fit into memory.

        `for_each` makes several rows of an input row; the yielded number is the place of the first one among the rows
        of the given input rows. Templates and `for_each` may make rows far larger than they were.
        """
        repeats = len(self._for_each.combinations)
        for file, first, batch in read_batches(self.source, limit, None if is_whole else self._columns()):
            begin = size = 0
            rows: list[PlannedRow] = []
            # columns that are carried through are written with each row of a combination
            carried = [batch.slice(i, 1).nbytes for i in range(batch.num_rows)] if is_whole and repeats > 1 else None
            for count, row in enumerate(self._render(batch, file, first, self._bad_ids(batch, seen)), 1):
                rows.append(row)
                size += _characters(row) + (carried[(count - 1) // repeats] if carried else 0)
                # promise: input: rendered rows are planned in batches that fit in memory
                if size > MAX_AT_ONCE or len(rows) > MAX_ROWS_AT_ONCE:
                    yield file, *_cut(batch, begin, count, repeats), rows
                    begin, size, rows = count, 0, []
            if rows:
                yield file, *_cut(batch, begin, begin + len(rows), repeats), rows

    def _columns(self) -> set[str]:
        """Return the columns that requests use."""
        job = self.job
        wanted = {job.id_column, job.messages_column, job.parameters_column}
        return {name for name in wanted if name is not None} | set(self._templates.columns if self._templates else ())

    def _render(
        self, batch: pa.RecordBatch, file: SourceFile, first: int, ids: list[RowFault | None]
    ) -> Iterator[PlannedRow]:
        """Yield a planned row for each input row and each combination of `for_each`."""
        job, names = self.job, set(batch.schema.names)
        wanted = self._templates.columns if self._templates else [str(job.messages_column)]
        columns = {name: cells(batch.column(name)) for name in wanted if name in names}
        parameters = cells(batch.column(job.parameters_column)) if job.parameters_column else None
        row_ids = cells(batch.column(job.id_column)) if job.id_column else None
        for index in range(batch.num_rows):
            values = {name: column[index] for name, column in columns.items()}
            for combination in self._for_each.combinations:
                name = [row_ids[index]] if row_ids else [file.name, first + index]
                identity = [*map(str, name), *combination]
                row = PlannedRow(file=file.name, number=first + index, identity=identity)
                try:
                    if (bad_id := ids[index]) is not None:
                        raise bad_id
                    each = dict(zip(job.for_each or {}, combination, strict=True))
                    row.messages = self._messages({**values, **each})
                    if parameters is not None:
                        row.parameters = check_parameters(_raise_fault(parameters[index]))
                except RowFault as fault:
                    row.fault = fault
                yield row

    def _messages(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        for value in values.values():
            _raise_fault(value)
        if self._templates is None:
            messages = self._given(values[str(self.job.messages_column)])
        else:
            messages = self._templates.render(values)
            check_prompt(messages)
        if self._must_say_json:
            # promise: input: a prompt for JSON mode without the word JSON is rejected
            check_says_json(messages)
        return messages

    def _given(self, value: Any) -> list[dict[str, Any]]:
        """Return the messages of a cell in the form of the job's API."""
        if self.job.endpoint.api != "responses":
            return check_messages(value)
        return as_items(check_messages(as_messages(value)))

    def _count(self, rows: list[PlannedRow], counter: TokenCounter) -> None:
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
                    f"{tokens:,} tokens of input and {room:,} of output exceed {self.job.model}'s window of {window:,}",
                )

    def _reserve(self, rows: list[PlannedRow], counter: TokenCounter) -> None:
        """Reserve for each row that is to be sent. Rows of one length need the same."""
        most = self.job.max_output_tokens
        for row in rows:
            if row.action is not Action.SEND or (counted := row.prompt_tokens) is None:
                continue
            if counted not in self._reservations:
                prompt = counter.reserved(counted)
                # promise: M1 a reservation covers the worst-case cost of its request
                worst_nano = self.price.worst_nano(prompt, most)
                self._reservations[counted] = Reservation(prompt + most, worst_nano, counter.expected(counted))
            row.reservation = self._reservations[counted]

    @staticmethod
    def _make_key(row: PlannedRow, keys: KeyMaker) -> None:
        if row.fault is None and row.messages is not None:
            try:
                row.key = keys.key(row.messages, row.parameters, row.identity)
            except RowFault as fault:
                row.fault = fault

    def _decide(self, rows: list[PlannedRow], seen: FirstSeen, kept: PreviousRows | None) -> None:
        found: dict[bytes, AnswerLocation] = {}
        known: dict[bytes, Outcome] = {}
        if kept is not None:
            if not self.redo:
                kept.open_unsettled(rows, hold=self.job.retry.in_doubt == "hold")
            if self.open_rows is not None:
                before = self._passed - len(rows)
                # promise: rerun: `--limit` opens no row beyond the limit
                kept.close_after(max(0, self.open_rows * len(self._for_each.combinations) - before))
        if self.answers is not None:
            found = self.answers.find([row.key for row in rows if row.key is not None], self.job.output)
            known = self.answers.read({key: index for key, index in found.items() if not index.reusable})
        for index, row in enumerate(rows):
            if kept is not None and not kept.redo[index]:
                row.action, row.fault = Action.KEEP, None
                self.kept += 1
                continue
            if row.fault is not None or row.key is None:
                continue
            first = seen.first_key(row.key)
            old, tried = found.get(row.key), known.get(row.key)
            own = old is not None and old.output == self.job.output
            if kept is not None and self.redo:
                row.action = Action.SEND if first else Action.SAME
                row.prior = kept.prior(index) if first else NO_CHARGE
                row.newer_than = kept.answered_at(index) if first else None
            elif old is not None and (tried is None or self._is_on_hold(tried)):
                row.action = Action.REUSE
                row.carries_cost = first and own
            else:
                row.action = Action.SEND if first else Action.SAME
                # the money of a failed try stays with the row that tries again, if this output shows it
                row.prior = tried.total if first and own and tried is not None else NO_CHARGE
            row.carries_cost = row.carries_cost or row.action is Action.SEND

    def _is_on_hold(self, tried: Outcome) -> bool:
        """Whether a failed row stays failed: its request may have been billed, and must not be paid for twice."""
        # promise: M5 with `hold`, a row in doubt is not sent again by a later run
        return self.job.retry.in_doubt == "hold" and tried.is_in_doubt

    def _kept(self, given: pa.RecordBatch | None, file: SourceFile, rows: Sequence[PlannedRow]) -> PreviousRows | None:
        if self.previous is None:
            return None
        prefix = self.job.column_prefix
        table = self.previous.take(given.num_rows if given is not None else 0)
        if given is not None and given.num_rows:
            numbers = table.column(f"{prefix}row_number").to_pylist()
            if numbers != [row.number for row in rows] or set(table.column(f"{prefix}source_file").to_pylist()) != {
                file.name
            }:
                raise OtherRows(NOT_THE_SAME.format("which have other rows or another order"))
            # promise: C9 `--redo` refuses an input whose values differ from the results
            if (other := first_differing_column(given, table)) is not None:
                raise OtherRows(NOT_THE_SAME.format(f"which have other values in {other!r}"))
        self._passed += table.num_rows
        return PreviousRows(table.select(self.previous.own), prefix, self.redo)


def _fields_of_row(schema: pa.Schema) -> frozenset[str]:
    """Return the fields of a column named `row`: only a struct has fields that a template reaches by name."""
    kind = schema.field(ROW).type if ROW in schema.names else pa.null()
    places = range(kind.num_fields) if pa.types.is_struct(kind) else ()
    return frozenset(kind.field(index).name for index in places)


def _cut(batch: pa.RecordBatch, begin: int, end: int, repeats: int) -> tuple[pa.RecordBatch, int]:
    """Return the input rows of some planned rows, and the place of the first planned row among all rows of these."""
    first = begin // repeats
    # promise: input: `for_each` rows that are split between batches keep their own values
    return batch.slice(first, -(-end // repeats) - first), begin - first * repeats


def _characters(row: PlannedRow) -> int:
    contents = [message.get("content") for message in row.messages or ()]
    return sum(len(content) for content in contents if isinstance(content, str))


def _raise_fault(value: Any) -> Any:
    if isinstance(value, RowFault):
        raise value
    return value
