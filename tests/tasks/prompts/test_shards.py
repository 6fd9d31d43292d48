"""A shard keeps the input's columns and the plan's, and readers get each back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from parquill.tasks.errors import BadInput, DiskFailed, RowFault
from parquill.tasks.prompts.shards import PREFIX, PendingRow, ShardReader, ShardWriter, check_unreserved, shard_batch
from parquill.tasks.records import NO_CHARGE, Action, Charge, PlannedRow, Reservation, ShardRef, Usage
from parquill.tasks.storage.folders import RunFolder

GIVEN = pa.RecordBatch.from_pydict({"id": [1, 2, 3], "text": ["a", "b", "c"]})
PRIOR = Charge(7, 2, 3, Usage(prompt=4, completion=1))
ROWS = [
    PlannedRow("in.parquet", 0, [], [{"role": "user", "content": "a"}], None, b"k" * 32, 5, Reservation(15, 30, 5.5),
               Action.SEND),
    PlannedRow("in.parquet", 1, [], fault=RowFault("blank_prompt", "blank")),
    PlannedRow("in.parquet", 2, [], [{"role": "user", "content": "c"}], {"seed": 1}, b"l" * 32, 6,
               Reservation(16, 32, 6.5), Action.SEND, prior=PRIOR),
]  # fmt: skip


def _written(tmp_path: Path, rows: int = 10, **changes: Any) -> tuple[RunFolder, list[ShardRef]]:
    folder = RunFolder(tmp_path)
    folder.shard(0).parent.mkdir(parents=True)
    writer = ShardWriter(folder, rows)
    for _ in range(2):
        writer.write(shard_batch(GIVEN, "in.parquet", ROWS, None, **{"is_bare": False, **changes}), 2)
    writer.close()
    return folder, writer.shards


def _read(folder: RunFolder, shard: ShardRef) -> ShardReader:
    return ShardReader(folder.shard(shard.number), shard.crc32)


def test_pending_rows_are_those_to_send(tmp_path: Path) -> None:
    """The reader returns each row that is to be sent, with its number, request and reservation, and no other row."""
    folder, (shard,) = _written(tmp_path)
    with _read(folder, shard) as reader:
        rows = [row for batch in reader.pending() for row in batch]
    assert rows[0] == PendingRow(0, b"k" * 32, '[{"role":"user","content":"a"}]', None, 15, 30, 5.5, NO_CHARGE)
    assert rows[1] == PendingRow(2, b"l" * 32, '[{"role":"user","content":"c"}]', '{"seed":1}', 16, 32, 6.5, PRIOR)
    assert [row.number for row in rows] == [0, 2, 3, 5]


def test_only_the_chosen_rows_are_pending(tmp_path: Path) -> None:
    """A pilot gets only the rows that it names and that are to be sent."""
    folder, (shard,) = _written(tmp_path)
    with _read(folder, shard) as reader:
        assert [row.number for batch in reader.pending({1, 2, 5, 99}) for row in batch] == [2, 5]


def test_an_api_of_texts_gets_the_text(tmp_path: Path) -> None:
    """The request of `api: completions` is the content of its one message."""
    folder, (shard,) = _written(tmp_path, is_bare=True)
    with _read(folder, shard) as reader:
        assert [row.messages for batch in reader.pending() for row in batch] == ['"a"', '"c"'] * 2


def test_lengths_of_the_rows_to_send(tmp_path: Path) -> None:
    """`lengths` returns the numbers and prompt tokens of the rows that are to be sent."""
    folder, (shard,) = _written(tmp_path)
    with _read(folder, shard) as reader:
        numbers, tokens = reader.lengths()
    assert (numbers.tolist(), tokens.tolist()) == ([0, 2, 3, 5], [5, 6, 5, 6])


def test_results_get_the_input_without_the_requests(tmp_path: Path) -> None:
    """The parts for the results have the columns of input and plan, without the requests."""
    folder, (shard,) = _written(tmp_path)
    with _read(folder, shard) as reader:
        (given, plan), (_, second) = reader.result_parts()
    assert given.to_pydict() == GIVEN.to_pydict()
    assert "messages" not in plan
    assert plan["action"] == second["action"] == [Action.SEND, Action.REJECT, Action.SEND]
    assert (plan["error_code"], plan["request_key"]) == ([None, "blank_prompt", None], [b"k" * 32, None, b"l" * 32])


def test_kept_results_come_along(tmp_path: Path) -> None:
    """With `--redo`, the results that stay are a column of the plan."""
    kept = pa.StructArray.from_arrays([pa.array(["old", None, None])], ["completion"])
    folder = RunFolder(tmp_path)
    folder.shard(0).parent.mkdir(parents=True)
    writer = ShardWriter(folder, 10)
    writer.write(shard_batch(GIVEN, "in.parquet", ROWS, kept, is_bare=False), 2)
    writer.close()
    with _read(folder, writer.shards[0]) as reader:
        ((given, plan),) = reader.result_parts()
    assert given.column_names == ["id", "text"]
    assert plan["kept"][0] == {"completion": "old"}


def test_an_empty_shard_has_one_part_without_rows(tmp_path: Path) -> None:
    """The results of an empty input have all columns."""
    folder = RunFolder(tmp_path)
    folder.shard(0).parent.mkdir(parents=True)
    writer = ShardWriter(folder, 10)
    writer.write(shard_batch(GIVEN.slice(0, 0), "in.parquet", [], None, is_bare=False), 0)
    writer.close()
    with _read(folder, writer.shards[0]) as reader:
        ((given, plan),) = reader.result_parts()
    assert (given.schema.names, given.num_rows, plan["action"]) == (["id", "text"], 0, [])


def test_shards_are_cut_at_their_rows(tmp_path: Path) -> None:
    """A shard ends with the batch that fills it, and the plan has its rows, its rows to send and its checksum."""
    folder, shards = _written(tmp_path, rows=3)
    assert [(shard.number, shard.rows, shard.to_send) for shard in shards] == [(0, 3, 2), (1, 3, 2)]
    with pytest.raises(DiskFailed, match="is damaged"):
        ShardReader(folder.shard(0), (shards[0].crc32 or 0) ^ 1)


def test_names_of_the_plan_are_reserved() -> None:
    """A column with a name of the plan's own columns is refused, whatever the prefix."""
    with pytest.raises(BadInput, match="Parquill's own"):
        check_unreserved(["id", f"{PREFIX}action"])
