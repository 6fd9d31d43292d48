"""The planner renders, counts and keys every input row and gives each row an action."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput, BadJob
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.money.prices import price_of
from parquill.tasks.prompts.planner import Planner
from parquill.tasks.prompts.shards import PREFIX
from parquill.tasks.prompts.source import find_source
from parquill.tasks.records import REUSABLE, STATUSES, Action, Estimate, Outcome
from parquill.tasks.storage.answer_index import AnswerIndex
from parquill.tasks.storage.columns import result_fields
from parquill.tasks.storage.journal import Journal
from tests.tools.small_jobs import resolved_job

DAY = date(2026, 11, 23)
LEAST: dict[str, Any] = {
    "name": "x",
    "output": "out",
    "prompt": {"user": "{{ text }}"},
    "model": "gpt-4o-mini",
    "max_output_tokens": 100,
}
MESSAGES = {"prompt": None, "messages_column": "messages"}


class Rows:
    """A sink that keeps the batches it gets."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []
        self.to_send = 0

    def write(self, batch: pa.RecordBatch, to_send: int) -> None:
        self.batches.append(batch)
        self.to_send += to_send

    @property
    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches)

    def plan(self, name: str) -> list[Any]:
        return list(self.table.column(PREFIX + name).to_pylist())

    @property
    def texts(self) -> list[str | None]:
        """Return the user's text of each row, or None if the row is not sent."""
        return [orjson.loads(cell)[-1]["content"] if cell else None for cell in self.plan("messages")]


def _job(location: Path, **changes: Any) -> ResolvedJob:
    return resolved_job({**LEAST, "input": str(location), **changes})


def _plan_files(location: Path, limit: int | None = None, day: date = DAY, **changes: Any) -> tuple[Rows, Estimate]:
    job, rows = _job(location, **changes), Rows()
    scratch = location.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    total = Planner(job, find_source(str(location)), price_of(job, day), scratch).plan(rows, limit)
    assert list(scratch.iterdir()) == []
    return rows, total.result()


def _plan(folder: Path, table: pa.Table | dict[str, Any], **changes: Any) -> tuple[Rows, Estimate]:
    path = folder / "in.parquet"
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
    return _plan_files(path, **changes)


def _bad_utf8(kind: pa.DataType) -> pa.Array:
    """Return three texts, of which the middle one is not UTF-8."""
    return pa.array([b"first", b"\xff\xfe", b"third"], pa.binary()).view(pa.string()).cast(kind, safe=False)


def test_rows_become_requests(tmp_path: Path) -> None:
    """Each row is rendered, counted and keyed, with its file and number."""
    rows, estimate = _plan(
        tmp_path, {"id": [7, 8], "text": ["one", "two"]}, prompt={"system": "S", "user": "{{ text }}!"}
    )
    assert rows.table.column_names[:2] == ["id", "text"]
    assert [orjson.loads(cell) for cell in rows.plan("messages")] == [
        [{"role": "system", "content": "S"}, {"role": "user", "content": f"{text}!"}] for text in ("one", "two")
    ]
    assert rows.plan("source_file") == ["in.parquet", "in.parquet"]
    assert rows.plan("row_number") == [0, 1]
    assert rows.plan("action") == [Action.SEND, Action.SEND]
    assert len({bytes(key) for key in rows.plan("request_key")}) == 2
    assert all(len(key) == 32 for key in rows.plan("request_key"))
    assert rows.plan("error_code") == [None, None]
    assert (estimate.rows, estimate.to_send, rows.to_send) == (2, 2, 2)
    assert estimate.prompt_tokens == sum(rows.plan("prompt_tokens"))


@pytest.mark.parametrize("bound", ["MAX_AT_ONCE", "MAX_ROWS_AT_ONCE"])
def test_rows_that_grow_are_planned_a_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """Rows that templates and `for_each` make are planned a few at a time, and the plan is the same."""
    table = pa.table({"id": list(range(9)), "text": ["one", "two", None] * 3})
    changes: dict[str, Any] = {
        "id_column": "id",
        "for_each": {"to": ["fr", "de"]},
        "prompt": {"user": "{{ text }}{{ to }}"},
    }
    at_once, _ = _plan(tmp_path, table, **changes)
    assert len(at_once.batches) == 1
    monkeypatch.setattr(f"parquill.tasks.prompts.planner.{bound}", 3)
    few, _ = _plan(tmp_path, table, **changes)
    assert max(batch.num_rows for batch in few.batches) <= 4
    assert few.table.equals(at_once.table)


def test_row_numbers_start_anew_in_each_file(tmp_path: Path) -> None:
    """A row has its file and its number in that file, across batches and files."""
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": [f"a{n}" for n in range(1500)]}), folder / "a.parquet")
    pq.write_table(pa.table({"text": ["b0", "b1"]}), folder / "b.parquet")
    rows, _ = _plan_files(folder)
    assert rows.plan("row_number") == [*range(1500), 0, 1]
    assert rows.plan("source_file") == ["a.parquet"] * 1500 + ["b.parquet"] * 2
    assert rows.texts == rows.table.column("text").to_pylist()


ZONE = timezone(timedelta(hours=2))
COLUMNS: dict[str, pa.Array] = {
    "large_string": pa.array(["\u00e9", None, ""], pa.large_string()),
    "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
    "large_dictionary": pa.array(["x", None, "y"], pa.dictionary(pa.int32(), pa.large_string())),
    "list": pa.array([["a", None], None, []], pa.list_(pa.string())),
    "large_list": pa.array([[1], None, []], pa.large_list(pa.int8())),
    "fixed_list": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)),
    "struct": pa.array(
        [{"a": 1, "b": None}, None, {"a": None, "b": "x"}], pa.struct([("a", pa.int32()), ("b", pa.string())])
    ),
    "nested": pa.array([[{"a": [1]}], None, []], pa.list_(pa.struct([("a", pa.list_(pa.int64()))]))),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "decimal": pa.array([Decimal("1.20"), None, Decimal("-0.01")], pa.decimal128(18, 2)),
    "wide_decimal": pa.array([Decimal(10) ** 50, None, Decimal(-1)], pa.decimal256(60, 0)),
    "timestamp_zone": pa.array([datetime(2026, 3, 29, 1, tzinfo=ZONE), None, None], pa.timestamp("us", "Europe/Paris")),
    "timestamp_offset": pa.array([0, None, 1], pa.timestamp("ms", "+02:00")),
    "timestamp_ns": pa.array([1, None, -1], pa.timestamp("ns")),
    "timestamp_far": pa.array([2**62, None, -(2**62)], pa.timestamp("us")),
    "binary": pa.array([b"\xff\0", None, b""], pa.binary()),
    "large_binary": pa.array([b"\xff", None, b""], pa.large_binary()),
    "fixed_binary": pa.array([b"ab", None, b"\xff\xff"], pa.binary(2)),
    "duration": pa.array([timedelta(1), None, timedelta(-1)], pa.duration("us")),
    "date": pa.array([date(2026, 1, 1), None, date(1, 1, 1)], pa.date32()),
    "time": pa.array([1, None, 2], pa.time64("us")),
    "null": pa.nulls(3),
    "bool": pa.array([True, None, False]),
    "int8": pa.array([1, None, -1], pa.int8()),
    "uint64": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "int64": pa.array([2**63 - 1, None, -(2**63)], pa.int64()),
    "float32": pa.array([0.1, None, -0.0], pa.float32()),
    "float16": pa.array([0.5, None, 1.5], pa.float16()),
    "not_utf8": _bad_utf8(pa.string()),
}
VIEWS: dict[str, pa.Array] = {
    "string_view": pa.array(["a text longer than twelve bytes", None, ""], pa.string_view()),
    "binary_view": pa.array([b"bytes longer than twelve \xff", None, b""], pa.binary_view()),
    "list_of_views": pa.array([["a text longer than twelve bytes"], None, []], pa.list_(pa.string_view())),
    "struct_of_views": pa.array(
        [{"a": "a text longer than twelve bytes"}, None, {"a": ""}], pa.struct([("a", pa.string_view())])
    ),
}


@pytest.mark.parametrize("name", [*COLUMNS, *VIEWS])
def test_every_type_comes_through_unchanged(tmp_path: Path, name: str) -> None:
    """A column that the prompt does not use keeps its type and all its values, for every type."""
    rows, _ = _plan(tmp_path, {"text": ["a", "b", "c"], "other": {**COLUMNS, **VIEWS}[name]})
    read = pq.read_table(tmp_path / "in.parquet").column("other")
    found = rows.table.column("other")
    assert found.type == read.type
    assert found.combine_chunks().equals(read.combine_chunks())
    assert rows.texts == ["a", "b", "c"]


@pytest.mark.parametrize("name", [*COLUMNS, *VIEWS])
def test_every_type_is_repeated_for_each_value(tmp_path: Path, name: str) -> None:
    """With `for_each`, a column of any type is repeated unchanged for each value, even views, which Arrow's `take` does
    not support.
    """
    columns = {"text": ["a", "b", "c"], "other": {**COLUMNS, **VIEWS}[name]}
    rows, _ = _plan(tmp_path, columns, for_each={"language": ["fr", "de"]})
    read = pq.read_table(tmp_path / "in.parquet").column("other").combine_chunks()
    found = rows.table.column("other")
    assert found.type == read.type
    assert found.combine_chunks().equals(pa.concat_arrays([read.slice(n, 1) for n in (0, 0, 1, 1, 2, 2)]))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_kind_of_text_can_be_a_prompt(tmp_path: Path, kind: pa.DataType) -> None:
    """A prompt column may have any text type of Arrow."""
    values = pa.array(["\u00e9t\u00e9", "{{ 7*7 }}", "a text longer than twelve bytes"]).cast(kind)
    assert _plan(tmp_path, {"text": values})[0].texts == values.to_pylist()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_invalid_utf8_rejects_its_row_only(tmp_path: Path, kind: pa.DataType) -> None:
    """A cell that is not UTF-8 rejects its row, its bytes are kept, and the other rows are sent."""
    rows, estimate = _plan(tmp_path, {"text": _bad_utf8(kind)})
    assert rows.texts == ["first", None, "third"]
    assert rows.plan("error_code") == [None, "invalid_utf8", None]
    assert rows.plan("action") == [Action.SEND, Action.REJECT, Action.SEND]
    assert rows.table.column("text").cast(pa.binary()).to_pylist() == [b"first", b"\xff\xfe", b"third"]
    assert estimate.rejected == {"invalid_utf8": 1}


@pytest.mark.parametrize("nested", ["list", "struct"])
def test_invalid_utf8_inside_a_cell_rejects_its_row_only(tmp_path: Path, nested: str) -> None:
    """A text in a list or a struct that is not UTF-8 rejects only its row."""
    texts = _bad_utf8(pa.string())
    cells = (
        pa.ListArray.from_arrays([0, 1, 2, 3], texts)
        if nested == "list"
        else pa.StructArray.from_arrays([texts], ["a"])
    )
    template = "{{ cell[0] }}" if nested == "list" else "{{ cell.a }}"
    rows, _ = _plan(tmp_path, {"cell": cells}, prompt={"user": template})
    assert rows.texts == ["first", None, "third"]
    assert rows.plan("error_code") == [None, "invalid_utf8", None]


def test_strange_values_are_sent_byte_for_byte(tmp_path: Path) -> None:
    """Text that looks like a template, a format, a special token or a control is sent unchanged."""
    texts = [
        "{{ 7*7 }}",
        "{0} %s",
        "<|endoftext|>",
        "\0\x1b[31m",
        "\ufeffa",
        "\u202eb",
        "e\u0301",
        "\u200d",
        'a"b\\',
        "a\r\nb",
    ]
    rows, _ = _plan(tmp_path, {"text": texts})
    assert rows.texts == texts
    assert rows.plan("error_code") == [None] * len(texts)


def test_nulls_and_blanks_reject_their_rows(tmp_path: Path) -> None:
    """A null or a blank is rejected with its code and not sent, and the estimate names the first."""
    rows, estimate = _plan(tmp_path, {"text": ["a", None, " \n", "", "b"]})
    assert rows.texts == ["a", None, None, None, "b"]
    assert rows.plan("error_code") == [None, "null_value", "blank_prompt", "blank_prompt", None]
    assert rows.plan("request_key")[1:4] == [None] * 3
    assert (estimate.rows, estimate.to_send) == (5, 2)
    assert estimate.rejected == {"null_value": 1, "blank_prompt": 2}
    assert str(estimate.first_rejected).startswith("in.parquet, row 1: 'text' is null")


def test_a_million_blanks_do_not_stop_the_plan(tmp_path: Path) -> None:
    """A text that makes tiktoken panic is counted like any other text."""
    rows, _ = _plan(tmp_path, {"text": [" " * 1_000_000 + "x", "b"]})
    assert rows.plan("error_code") == [None, None]
    assert rows.plan("prompt_tokens")[0] > 1000


def test_no_rows(tmp_path: Path) -> None:
    """An empty input gives an empty plan with all its columns, so that the results have them too."""
    rows, estimate = _plan(tmp_path, {"text": pa.array([], pa.string())}, for_each={"language": ["fr"]})
    assert rows.table.num_rows == 0
    assert rows.table.column_names[:2] == ["text", "language"]
    assert (estimate.rows, estimate.to_send, estimate.worst_nano) == (0, 0, 0)


def test_for_each_makes_every_product_in_order(tmp_path: Path) -> None:
    """Each input row is followed by all its combinations, one column a name, and the last name varies fastest."""
    each: dict[str, list[Any]] = {"language": ["fr", "no"], "year": [1, 2, 3], "formal": [True, False]}
    rows, estimate = _plan(
        tmp_path,
        {"text": ["a", "b"]},
        for_each=each,
        prompt={"user": "{{ text }} {{ language }} {{ year }} {{ formal }}"},
    )
    products = [(text, *values) for text in ("a", "b") for values in itertools.product(*each.values())]
    found = zip(*(rows.table.column(name).to_pylist() for name in ("text", *each)), strict=True)
    assert list(found) == products
    assert rows.texts == [" ".join(map(str, product)) for product in products]
    assert rows.plan("row_number") == [0] * 12 + [1] * 12
    assert [rows.table.schema.field(name).type for name in each] == [pa.string(), pa.int64(), pa.bool_()]
    assert (estimate.rows, rows.to_send) == (24, 24)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([7]), "y"),
        (pa.array(["x"]), "y"),
        (pa.array([{"b": "x"}]), "y"),
        (pa.array([{"a": "x"}]), "x"),
        (pa.array([[("a", "x")]], pa.map_(pa.string(), pa.string())), "y"),  # a list of pairs
        (pa.array(["x"]).dictionary_encode(), "y"),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_column_called_row_beside_a_lookup(tmp_path: Path, column: pa.Array, text: str) -> None:
    """`row["a"]` is the column `a`, unless a column called `row` has such a field."""
    rows, _ = _plan(tmp_path, pa.table({"row": column, "a": ["y"]}), prompt={"user": '{{ row["a"] }}'})
    assert rows.texts == [text]


def test_a_rejected_row_is_rejected_for_each_value(tmp_path: Path) -> None:
    """Each input row has one row for each value, even if the input row is rejected."""
    rows, estimate = _plan(
        tmp_path,
        {"text": [None, "b"]},
        for_each={"language": ["fr", "de"]},
        prompt={"user": "{{ text }}{{ language }}"},
    )
    assert rows.plan("error_code") == ["null_value", "null_value", None, None]
    assert estimate.rejected == {"null_value": 2}


def test_for_each_may_not_hide_a_column(tmp_path: Path) -> None:
    """A `for_each` name that is already a column is refused."""
    with pytest.raises(BadJob, match="'text', which is already a column"):
        _plan(tmp_path, {"text": ["a"]}, for_each={"text": ["b"]})


def test_a_for_each_value_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    """A `for_each` value that no column can hold is refused."""
    with pytest.raises(BadJob, match="for_each"):
        _plan(tmp_path, {"text": ["a"]}, for_each={"n": [10**30]})


@pytest.mark.parametrize("as_text", [True, False])
def test_a_column_of_messages(tmp_path: Path, as_text: bool) -> None:  # noqa: FBT001
    """Messages may be structs or JSON text, and a bad cell rejects only its row."""
    good = [{"role": "system", "content": "S"}, {"role": "user", "content": "{{ 7*7 }}"}]
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())]))
    cells: list[Any] = [
        good,
        None,
        [{"role": "robot", "content": "x"}],
        [],
        [{"role": "user", "content": " "}],
        good[:1],
    ]
    column = (
        pa.array([None if c is None else orjson.dumps(c).decode() for c in cells]) if as_text else pa.array(cells, kind)
    )
    rows, _ = _plan(tmp_path, {"messages": column}, **MESSAGES)
    sent = [orjson.loads(cell) if cell else None for cell in rows.plan("messages")]
    assert sent == [good, None, None, None, None, good[:1]]
    assert rows.plan("error_code") == [None, "null_value", "bad_messages", "bad_messages", "blank_prompt", None]


def test_a_column_of_maps(tmp_path: Path) -> None:
    """A list of maps is a list of messages."""
    cells = pa.array([[[("role", "user"), ("content", "Hi")]]], pa.list_(pa.map_(pa.string(), pa.string())))
    rows, _ = _plan(tmp_path, {"messages": cells}, **MESSAGES)
    assert orjson.loads(rows.plan("messages")[0]) == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "column", [pa.array([1, 2]), pa.array([b"[]", b"x"]), pa.array([["a"], ["b"]]), pa.array([{"role": "user"}] * 2)]
)
def test_a_column_of_anything_else_holds_no_messages(tmp_path: Path, column: pa.Array) -> None:
    """Rows whose messages are numbers, bytes or lists of words are rejected."""
    rows, _ = _plan(tmp_path, {"messages": column}, **MESSAGES)
    assert rows.plan("error_code") == ["bad_messages"] * 2


@pytest.mark.parametrize("as_text", [True, False])
def test_parameters_of_a_row(tmp_path: Path, as_text: bool) -> None:  # noqa: FBT001
    """A row's parameters are sent with its request, and refused or out-of-range ones reject the row."""
    cells: list[Any] = [{"temperature": 1.0}, None, {"n": 2}, {"temperature": 3.0}, {"temperature": None}]
    column = pa.array([None if c is None else orjson.dumps(c).decode() for c in cells]) if as_text else pa.array(cells)
    rows, _ = _plan(tmp_path, {"text": list("abcde"), "p": column}, parameters_column="p")
    sent = [orjson.loads(cell) if cell else None for cell in rows.plan("parameters")]
    assert sent == [{"temperature": 1.0}, None, None, None, None]
    assert rows.plan("error_code") == [None, None, "bad_parameters", "bad_parameters", None]


def test_parameters_make_another_request(tmp_path: Path) -> None:
    """The same text with other parameters is another request, which is paid for."""
    cells = pa.array([{"temperature": 1.0}, {"temperature": 0.5}, {"temperature": 1.0}])
    rows, _ = _plan(tmp_path, {"text": ["a"] * 3, "p": cells}, parameters_column="p")
    assert rows.plan("action") == [Action.SEND, Action.SEND, Action.SAME]


def test_bad_ids_reject_their_rows(tmp_path: Path) -> None:
    """A null id and the second of two equal ids are rejected, across files and batches."""
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["a", None, "a", "b"], "text": list("wxyz")}), folder / "1.parquet")
    pq.write_table(pa.table({"id": ["c", "b"], "text": ["u", "v"]}), folder / "2.parquet")
    rows, estimate = _plan_files(folder, id_column="id")
    assert rows.plan("error_code") == [None, "bad_id", "bad_id", None, None, "bad_id"]
    assert rows.texts == ["w", None, None, "z", "u", None]
    assert estimate.first_rejected == "1.parquet, row 1: id is null"


def test_an_id_is_unique_before_for_each(tmp_path: Path) -> None:
    """All output rows of an input row may have its id."""
    rows, _ = _plan(
        tmp_path,
        {"id": [1, 2], "text": ["a", "b"]},
        id_column="id",
        for_each={"language": ["fr", "de"]},
        prompt={"user": "{{ text }}{{ language }}"},
    )
    assert rows.plan("error_code") == [None] * 4


def test_the_first_row_pays_for_equal_requests(tmp_path: Path) -> None:
    """Equal requests are sent once: the first row pays, and the others share its answer."""
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["a", "b", "a"]}), folder / "1.parquet")
    pq.write_table(pa.table({"text": ["b", "c"]}), folder / "2.parquet")
    rows, estimate = _plan_files(folder)
    send, same = Action.SEND, Action.SAME
    assert rows.plan("action") == [send, send, same, same, send]
    assert rows.plan("carries_cost") == [True, True, False, False, True]
    assert rows.texts == ["a", "b", None, None, "c"]
    assert rows.plan("request_key")[0] == rows.plan("request_key")[2]
    assert (estimate.rows, estimate.to_send) == (5, 3)
    assert estimate.prompt_tokens == sum(rows.plan("prompt_tokens")[index] for index in (0, 1, 4))


def test_without_dedupe_every_row_pays(tmp_path: Path) -> None:
    """With `dedupe: false`, each row with an equal text is sent, and ids keep the rows' keys apart."""
    rows, _ = _plan(tmp_path, {"text": ["a", "a"]}, dedupe=False)
    assert rows.plan("action") == [Action.SEND, Action.SEND]
    again, _ = _plan(tmp_path, {"id": [2, 1], "text": ["a", "a"]}, dedupe=False, id_column="id")
    turned, _ = _plan(tmp_path, {"id": [1, 2], "text": ["a", "a"]}, dedupe=False, id_column="id")
    assert again.plan("request_key") == turned.plan("request_key")[::-1]


def test_too_long_for_the_models_window(tmp_path: Path) -> None:
    """A row over the model's window is rejected with its count and the window, and one that just fits is sent."""
    # the window of gpt-3.5-turbo of 2023 is 4,096 tokens; "a" and " a" are a token each, 7 are the formula and the role
    fits, over = " ".join(["a"] * 3988), " ".join(["a"] * 3990)
    rows, _ = _plan(tmp_path, {"text": [fits, over]}, model="gpt-3.5-turbo", day=date(2023, 4, 1))
    counted = rows.plan("prompt_tokens")
    assert counted[0] + 100 <= 4096 < counted[1] + 100
    assert rows.plan("error_code") == [None, "too_long"]
    assert (
        rows.plan("error_message")[1]
        == f"{counted[1]:,} tokens of input and 100 of output exceed gpt-3.5-turbo's window of 4,096"
    )
    assert rows.plan("request_key")[1] is None


def test_the_window_counts_the_answer_too(tmp_path: Path) -> None:
    """Input and max_output_tokens together must fit into the window."""
    short = _plan(tmp_path, {"text": ["a"]}, model="gpt-3.5-turbo", day=date(2023, 4, 1), max_output_tokens=4088)[0]
    long = _plan(tmp_path, {"text": ["a"]}, model="gpt-3.5-turbo", day=date(2023, 4, 1), max_output_tokens=4089)[0]
    assert (short.plan("error_code"), long.plan("error_code")) == ([None], ["too_long"])


def test_legacy_completions_send_the_text_alone(tmp_path: Path) -> None:
    """For the legacy API the request is one JSON string, counted without the chat formula."""
    rows, _ = _plan(tmp_path, {"text": ["a b"]}, endpoint={"api": "completions"})
    assert rows.plan("messages") == ['"a b"']
    assert rows.plan("prompt_tokens") == [2]


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    """`--limit` counts input rows, and each one keeps all its `for_each` rows."""
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / "in.parquet")
    rows, estimate = _plan_files(
        tmp_path / "in.parquet", 2, for_each={"n": [1, 2]}, prompt={"user": "{{ text }}{{ n }}"}
    )
    assert rows.texts == ["a1", "a2", "b1", "b2"]
    assert estimate.rows == 4


def test_an_estimate_alone_is_the_same(tmp_path: Path) -> None:
    """Counting without keeping the rows gives the same estimate as the plan."""
    texts = ["a", None, "a", "b" * 500]
    _, estimate = _plan(tmp_path, {"text": texts})
    job = _job(tmp_path / "in.parquet")
    alone = Planner(job, find_source(job.input), price_of(job, DAY), tmp_path).plan(None)
    assert alone.result() == estimate


def test_the_estimate_is_the_sum_of_the_worst_cases(tmp_path: Path) -> None:
    """The worst cost and the expected output are exact sums over the rows that are sent."""
    price = {"usd_per_mtok_input": "0.15", "usd_per_mtok_output": "0.6"}
    rows, estimate = _plan(tmp_path, {"text": ["a", "b c", "a", None]}, price=price)
    counts = rows.plan("prompt_tokens")[:2]
    nano = [-(-(count * 150 + 100 * 600) // 1) for count in counts]
    assert estimate.worst_nano == sum(nano)
    assert estimate.completion_tokens_expected == 200
    assert estimate.largest_request == max(counts) + 100


@pytest.mark.parametrize("setting", ["id_column", "messages_column", "parameters_column"])
def test_a_missing_column_names_those_that_are_there(tmp_path: Path, setting: str) -> None:
    """If a setting names no column, the refusal lists the columns, with a hint about letter case."""
    changes = {**({"prompt": None} if setting == "messages_column" else {}), setting: "nothing"}
    with pytest.raises(BadInput, match=f"`{setting}`: the input has no column 'nothing'; the columns are text, Other"):
        _plan(tmp_path, {"text": ["a"], "Other": ["b"]}, **changes)
    with pytest.raises(BadInput, match="it is written 'Other'"):
        _plan(tmp_path, {"text": ["a"], "Other": ["b"]}, **{**changes, setting: "other"})


@pytest.mark.parametrize("name", [field.name for field in result_fields(None)])
def test_a_column_like_ours_is_refused(tmp_path: Path, name: str) -> None:
    """A column that the output also has is refused, and the fix that the message names works."""
    table = {"text": ["a"], name: ["b"]}
    with pytest.raises(BadInput, match=f"'{name}', as the output has; set `column_prefix`"):
        _plan(tmp_path, table)
    assert _plan(tmp_path, table, column_prefix="llm_")[0].texts == ["a"]


def test_a_template_over_folders(tmp_path: Path) -> None:
    """A key=value folder is a column like any other."""
    path = tmp_path / "lang=no" / "n=7"
    path.mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a"]}), path / "a.parquet")
    rows, _ = _plan_files(path / "a.parquet", prompt={"user": "{{ text }} {{ lang }} {{ n + 1 }}"})
    assert rows.texts == ["a no 8"]
    assert rows.table.column("n").to_pylist() == [7]


class Earlier:
    """Results of an earlier run, returned in their order."""

    def __init__(self, table: pa.Table, **given: Any) -> None:
        self.own = table.column_names
        for name, values in given.items():
            table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
        self._table, self._offset = table, 0

    def take(self, rows: int) -> pa.Table:
        part = self._table.slice(self._offset, rows)
        self._offset += rows
        return part


def _earlier(statuses: Sequence[str]) -> pa.Table:
    kinds = {field.name: field.type for field in result_fields(None)}
    values: dict[str, list[Any]] = {name: [None] * len(statuses) for name in kinds}
    values |= {
        "status": list(statuses),
        "source_file": ["in.parquet"] * len(statuses),
        "row_number": list(range(len(statuses))),
        "cost_usd": [Decimal("0.000000005")] * len(statuses),
        "in_doubt_usd": [Decimal("0.000000002")] * len(statuses),
        "attempts": [3] * len(statuses),
        "reused": [False] * len(statuses),
        "prompt_tokens": [9] * len(statuses),
    }
    return pa.table({name: pa.array(values[name], kind) for name, kind in kinds.items()})


def test_redo_sends_the_named_statuses_only(tmp_path: Path) -> None:
    """`--redo` sends rows of the named statuses again, carries their earlier cost, and keeps all other rows."""
    pq.write_table(pa.table({"text": ["a", "b", "c", None]}), tmp_path / "in.parquet")
    job, rows = _job(tmp_path / "in.parquet"), Rows()
    earlier = Earlier(_earlier(["ok", "truncated", "failed", "rejected"]), text=["a", "b", "c", None])
    source = find_source(job.input)
    Planner(job, source, price_of(job, DAY), tmp_path, None, earlier, frozenset({"truncated"})).plan(rows)
    assert rows.plan("action") == [Action.KEEP, Action.SEND, Action.KEEP, Action.KEEP]
    assert rows.texts == [None, "b", None, None]
    charge = {"cost_nano": 5, "in_doubt_nano": 2, "attempts": 3, "usage": [9, 0, 0, 0, 0]}
    assert rows.plan("prior") == [None, charge, None, None]
    kept = rows.plan("kept")
    assert kept[1] is None
    assert [kept[index]["status"] for index in (0, 2, 3)] == ["ok", "failed", "rejected"]


def test_redo_refuses_another_input(tmp_path: Path) -> None:
    """`--redo` refuses results whose rows are not those of the input."""
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / "in.parquet")
    job = _job(tmp_path / "in.parquet")
    planner = Planner(
        job,
        find_source(job.input),
        price_of(job, DAY),
        tmp_path,
        None,
        Earlier(_earlier(["ok"]), text=["a"]),
        frozenset({"ok"}),
    )
    with pytest.raises(BadInput, match="--redo"):
        planner.plan(Rows())


def test_redo_refuses_the_same_rows_of_another_file(tmp_path: Path) -> None:
    """`--redo` refuses an input whose file has another name, even if the row numbers are the same."""
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    job = _job(tmp_path / "other.parquet")
    source, earlier = find_source(job.input), Earlier(_earlier(["ok"]), text=["a"])
    with pytest.raises(BadInput, match="--redo"):
        Planner(job, source, price_of(job, DAY), tmp_path, None, earlier, frozenset({"ok"})).plan(Rows())


NAN = float("nan")


@pytest.mark.parametrize(
    ("table", "given", "other"),
    [
        ({"text": ["b", "a"]}, {"text": ["a", "b"]}, "'text'"),
        ({"text": ["a", "b"], "note": [1, 2]}, {"text": ["a", "b"], "note": [2, 1]}, "'note'"),
        ({"text": ["a", None]}, {"text": ["a", "b"]}, "'text'"),
        ({"text": ["a", "b"]}, {"text": ["a", "b", "c"]}, "more rows"),
        ({"text": ["a", "b"], "x": [NAN, 1.0]}, {"text": ["a", "b"], "x": [NAN, 2.0]}, "'x'"),
    ],
)
def test_redo_knows_rows_by_their_cells(
    tmp_path: Path, table: dict[str, Any], given: dict[str, Any], other: str
) -> None:
    """`--redo` refuses an input with other cells or another order, so no row gets the answer of another row."""
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    job = _job(tmp_path / "in.parquet")
    rows = len(given["text"])
    source, earlier = find_source(job.input), Earlier(_earlier(["ok"] * rows), **given)
    with pytest.raises(BadInput, match=f"not the one of the results, .*{other}"):
        Planner(job, source, price_of(job, DAY), tmp_path, None, earlier, frozenset({"failed"})).plan(Rows())


def test_redo_knows_the_same_cells(tmp_path: Path) -> None:
    """`--redo` accepts the same cells in another type, and cells such as NaN that Arrow does not call equal."""
    table = {
        "text": pa.array(["a", "b"]).dictionary_encode(),
        "x": pa.array([NAN, 1.5]),
        "list": pa.array([[NAN], None]),
        "when": pa.array([1, None], pa.timestamp("s", "UTC")),
    }
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    job, rows = _job(tmp_path / "in.parquet"), Rows()
    given = {**table, "text": pa.array(["a", "b"]), "when": table["when"].cast(pa.timestamp("us", "UTC"))}
    source, earlier = find_source(job.input), Earlier(_earlier(["ok", "failed"]), **given)
    Planner(job, source, price_of(job, DAY), tmp_path, None, earlier, frozenset({"failed"})).plan(rows)
    assert rows.plan("action") == [Action.KEEP, Action.SEND]


def test_vars_reach_the_templates(tmp_path: Path) -> None:
    """A template can look up a job's `vars` by each row's value."""
    prompt = {"user": "{{ text }}: {{ vars.words[text] }}"}
    rows, _ = _plan(tmp_path, {"text": ["fr", "xx"]}, prompt=prompt, vars={"words": {"fr": "Bonjour"}})
    assert rows.texts == ["fr: Bonjour", None]
    assert rows.plan("error_code") == [None, "template_error"]


def _answered(folder: Path, key: bytes, output: str, **outcome: Any) -> AnswerIndex:
    """Make a state folder with one journal, in which one request has this outcome."""
    journal = folder / "state" / "runs" / "earlier" / "journals" / "000000.journal"
    journal.parent.mkdir(parents=True)

    async def write() -> None:
        with ThreadPoolExecutor(1) as threads:
            written = Journal(journal, {"run_id": "earlier", "shard": 0}, threads)
            await written.append(Outcome(row=0, key=key.hex(), **outcome))
            await written.close()

    asyncio.run(write())
    index = AnswerIndex(folder / "state")
    index.add_run("earlier", output)
    index.add_shard("earlier", 0, journal)
    return index


@pytest.mark.parametrize("status", sorted(STATUSES))
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_paid_answer_is_never_paid_again(tmp_path: Path, status: str, elsewhere: bool) -> None:  # noqa: FBT001
    """A request that any job of the state folder has an answer for is not sent, and a failed one is sent again."""
    first, _ = _plan(tmp_path, {"text": ["a", "b", "a"]})
    job = _job(tmp_path / "in.parquet")
    key, output = first.plan("request_key")[0], "elsewhere" if elsewhere else job.output
    outcome = {"status": status, "cost_nano": 7, "in_doubt_nano": 3, "attempts": 2, "usage": (9, 1, 0, 5, 0)}
    answers = _answered(tmp_path, key, output, **outcome)
    rows = Rows()
    try:
        total = Planner(job, find_source(job.input), price_of(job, DAY), tmp_path, answers).plan(rows)
    finally:
        answers.close()
    send, same, reuse = Action.SEND, Action.SAME, Action.REUSE
    if status in REUSABLE:
        assert rows.plan("action") == [reuse, send, reuse]
        # only the output that paid for an answer shows its cost
        assert rows.plan("carries_cost") == [not elsewhere, True, False]
        assert rows.plan("prior") == [None, None, None]
        assert total.result().to_send == 1
    else:
        assert rows.plan("action") == [send, send, same]
        charge = {"cost_nano": 7, "in_doubt_nano": 3, "attempts": 2, "usage": [9, 1, 0, 5, 0]}
        assert rows.plan("prior") == [None if elsewhere else charge, None, None]
