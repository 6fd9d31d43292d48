"""`unpacked_bytes` counts the size of rows as if each had its own values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.prompts.input_parquet import BATCH_BYTES
from parquill.tasks.prompts.source import find_source, read_batches
from parquill.tasks.prompts.unpacked_size import unpacked_bytes

WORD = "x" * 1_000
SHAPES: dict[str, pa.Array] = {
    "a dictionary": pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int8()), [WORD]),
    "with nulls": pa.DictionaryArray.from_arrays(pa.array([0, None] * 50, pa.int8()), [WORD]),
    "of bytes": pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int8()), [WORD.encode()]),
    "in a list": pa.ListArray.from_arrays(
        pa.array(range(51), pa.int32()), pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int8()), [WORD])
    ),
    "in a struct": pa.StructArray.from_arrays(
        [pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int8()), [WORD])], ["a"]
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_value_of_a_dictionary_counts_in_every_row(name: str) -> None:
    """Fifty rows that share one value of 1,000 bytes count 50,000 bytes."""
    size = unpacked_bytes(pa.record_batch({"value": SHAPES[name]}))
    assert 50_000 <= size < 51_000


@pytest.mark.parametrize(
    "column", [pa.array([], pa.dictionary(pa.int8(), pa.string())), pa.array([1, 2]).dictionary_encode()]
)
def test_small_dictionaries(column: pa.Array) -> None:
    """An empty dictionary and a dictionary of numbers are counted too."""
    assert unpacked_bytes(pa.record_batch({"value": column})) < 100


def test_batches_of_a_dictionary_are_small(tmp_path: Path) -> None:
    """Rows with a large dictionary value are read a few at a time, because all of them become text in memory."""
    options: dict[str, Any] = {"compression": "zstd"}
    value = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), ["x" * 1_000_000])
    pq.write_table(pa.table({"value": value}), tmp_path / "in.parquet", **options)
    batches = [batch for _, _, batch in read_batches(find_source(str(tmp_path / "in.parquet")))]
    assert sum(batch.num_rows for batch in batches) == 200
    assert pa.types.is_dictionary(batches[0].schema.field("value").type)
    assert max(map(unpacked_bytes, batches)) < 3 * BATCH_BYTES
