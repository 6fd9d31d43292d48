"""Parquill drops footer metadata that would be wrong for the results and keeps harmless metadata."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from parquill.tasks.prompts.footer_metadata import clean

FIELDS = [pa.field("text", pa.string()), pa.field("stars", pa.int64())]


def _kept(metadata: dict[str, str | bytes], *changed: str) -> dict[str, Any]:
    found = clean(pa.schema(FIELDS, metadata), changed).metadata or {}
    return {key.decode(): value for key, value in found.items()}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("org.apache.spark.sql.parquet.row.metadata", '{"type": "struct", "fields": []}'),
        ("org.apache.spark.version", "3.5.1"),
        ("org.apache.spark.legacyDateTime", ""),
        ("parquet.avro.schema", '{"type": "record"}'),
        ("avro.schema", "{}"),
        ("parquet.proto.descriptor", "name: ..."),
        ("thrift.descriptor", "..."),
        ("iceberg.schema", "{}"),
        ("delta.columnMapping", "id"),
        ("hoodie_bloom_filter_type_code", "x"),
        ("writer.time.zone", "Europe/Paris"),
        ("geo", '{"version": "1.0.0", "primary_column": "geometry"}'),
        ("ARROW:schema", "/////"),
        ("huggingface", '{"info": {"features": {}}}'),
        ("gdal:schema", "x"),
        ("r", "A 3 ..."),
        ("pandas", "no JSON"),
        ("pandas", "{}"),
        ("mine", '{"columns": [{"of": "stars"}]}'),
        ("mine", '[{"text": {"unit": "word"}}]'),
    ],
)
def test_what_describes_columns_is_dropped(key: str, value: str) -> None:
    """The results do not get a writer's known keys or any JSON that names a column."""
    assert _kept({key: value}) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("license", b"CC-BY 4.0"),
        ("owner", b'{"team": "search"}'),
        ("count", b"7"),
        ("bytes", b"\xff\xfe"),
        ("text", b"text"),
    ],
)
def test_what_is_harmless_is_kept(key: str, value: bytes) -> None:
    """Metadata that does not describe columns is kept unchanged."""
    assert _kept({key: value}) == {key: value}


def _pandas(names: list[Any], index: list[Any], levels: int = 1) -> dict[str, str | bytes]:
    entry = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    columns = [{"name": name, "field_name": str(name), **entry} for name in names]
    described = {
        "index_columns": index,
        "column_indexes": [entry] * levels,
        "columns": columns,
        "pandas_version": "3.0.0",
    }
    return {"pandas": json.dumps(described)}


def test_pandas_keeps_its_index() -> None:
    """Index columns and types of pandas stay, a range index is not a column, and several levels of names become one."""
    found = json.loads(_kept(_pandas(["text", "stars"], ["stars"], levels=2))["pandas"])
    assert found["index_columns"] == ["stars"]
    assert [column["field_name"] for column in found["columns"]] == ["text", "stars"]
    assert [level["pandas_type"] for level in found["column_indexes"]] == ["unicode"]
    found = json.loads(
        _kept(_pandas(["text"], [{"kind": "range", "name": None, "start": 0, "stop": 2, "step": 1}]))["pandas"]
    )
    assert found["index_columns"] == []


def test_pandas_says_nothing_of_other_columns() -> None:
    """A column that is gone or has another type is not described and is not an index."""
    found = json.loads(_kept(_pandas(["text", "stars", "gone"], ["gone", "stars"]), "stars")["pandas"])
    assert found["index_columns"] == []
    assert [column["field_name"] for column in found["columns"]] == ["text"]


def test_numbers_of_fields_are_dropped() -> None:
    """The field numbers of Iceberg are dropped at any depth, and the other metadata of a field is kept."""
    number = {"PARQUET:field_id": "1"}
    inner = pa.field("inner", pa.int64(), metadata=number)
    kinds = [
        pa.struct([inner]),
        pa.list_(inner),
        pa.large_list(inner),
        pa.list_(inner, 2),
        pa.map_(pa.field("key", pa.string(), nullable=False, metadata=number), inner),
    ]
    fields = [pa.field(str(index), kind, metadata={**number, "unit": "m"}) for index, kind in enumerate(kinds)]
    found = clean(pa.schema(fields))
    assert "field_id" not in found.to_string(show_field_metadata=True)
    assert [field.metadata for field in found] == [{b"unit": b"m"}] * len(kinds)
    assert found.equals(pa.schema(fields))
