"""Keeps the metadata of an input's footer that is also true of the results.

Results have more columns than the input, and some with another type. Metadata that describes columns (Spark's row, an
Avro schema, Iceberg's field numbers) would make readers miss the new columns or refuse the file. So it is dropped, by
known keys and wherever JSON names a column. The metadata of pandas is cut down to what is still true. Anything else,
such as a license or an owner, is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson
import pyarrow as pa

PANDAS = b"pandas"
# as writers document them: Spark, Avro, protobuf and thrift in Parquet, Hive, GeoParquet, Arrow's R package, Hugging
# Face, Iceberg, Delta, Hudi, GDAL
_KEYS = frozenset({b"avro.schema", b"geo", b"arrow:schema", b"r", b"huggingface", b"polars.schema"})
_PREFIXES = (
    b"org.apache.spark.",
    b"parquet.avro.",
    b"parquet.proto.",
    b"parquet.thrift.",
    b"thrift.",
    b"iceberg.",
    b"delta.",
    b"hoodie",
    b"org.apache.hudi",
    b"writer.",
    b"gdal:",
)
# column numbers of an Iceberg or Delta table: readers that use them do not find columns without one
_FIELD_KEYS = frozenset({b"PARQUET:field_id", b"field_id"})
_ONE_LEVEL = {
    "name": None,
    "field_name": None,
    "pandas_type": "unicode",
    "numpy_type": "object",
    "metadata": {"encoding": "UTF-8"},
}


def clean(schema: pa.Schema, changed: Collection[str] = ()) -> pa.Schema:
    """Return the schema with the metadata that results may have; `changed` columns differ in type from some file."""
    names = frozenset(schema.names)
    kept: dict[bytes, bytes] = {}
    for key, value in (schema.metadata or {}).items():
        if key == PANDAS:
            if (pandas := _cut_pandas(value, names - frozenset(changed))) is not None:
                kept[key] = pandas
        elif not _describes_columns(key, value, names):
            kept[key] = value
    return pa.schema([_clean_field(field) for field in schema], kept or None)


def _describes_columns(key: bytes, value: bytes, names: frozenset[str]) -> bool:
    low = key.lower()
    # promise: results: footer metadata that describes other columns is not copied
    if low in _KEYS or low.startswith(_PREFIXES):
        return True
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    # promise: results: JSON metadata that names input columns is not copied
    return isinstance(found, dict | list) and _names_one(found, names)


def _names_one(value: Any, names: frozenset[str]) -> bool:
    if isinstance(value, dict):
        return not names.isdisjoint(value) or any(_names_one(inner, names) for inner in value.values())
    if isinstance(value, list):
        return any(_names_one(inner, names) for inner in value)
    return isinstance(value, str) and value in names


def _cut_pandas(value: bytes, same: frozenset[str]) -> bytes | None:
    """Return what pandas needs to restore the index and its types; column names then have one level."""
    try:
        metadata = orjson.loads(value)
        index = [name for name in metadata["index_columns"] if isinstance(name, str) and name in same]
        columns = [column for column in metadata["columns"] if column["field_name"] in same]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    cut: Mapping[str, Any] = {
        "index_columns": index,
        "column_indexes": [_ONE_LEVEL],
        # a name of several levels is written in Python's notation, and is a plain name now
        "columns": [{**c, "name": c["name"] if c["field_name"] in index else c["field_name"]} for c in columns],
        "pandas_version": metadata.get("pandas_version"),
        "creator": metadata.get("creator"),
    }
    return orjson.dumps(cut)


def _clean_field(field: pa.Field) -> pa.Field:
    kept = {key: value for key, value in (field.metadata or {}).items() if key not in _FIELD_KEYS}
    return pa.field(field.name, _clean_type(field.type), field.nullable, kept or None)


def _clean_type(kind: pa.DataType) -> pa.DataType:
    """Return the type with inner fields that have no column numbers either."""
    if pa.types.is_struct(kind):
        return pa.struct([_clean_field(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_clean_field(kind.key_field), _clean_field(kind.item_field), kind.keys_sorted)
    if pa.types.is_large_list(kind):
        return pa.large_list(_clean_field(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_clean_field(kind.value_field), kind.list_size)
    return pa.list_(_clean_field(kind.value_field)) if pa.types.is_list(kind) else kind
