"""Parquill adds its own columns to those of the input, and refuses an input that already has one of them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.storage.columns import check_names, result_fields

# DESIGN.md, section 2: the output columns.
CONTRACT = {
    "completion": "string",
    "status": "string",
    "error_code": "string",
    "error_message": "string",
    "finish_reason": "string",
    "model_used": "string",
    "request_id": "string",
    "prompt_tokens": "int64",
    "cached_tokens": "int64",
    "cache_write_tokens": "int64",
    "completion_tokens": "int64",
    "reasoning_tokens": "int64",
    "estimated_prompt_tokens": "int64",
    "cost_usd": "decimal128(18, 9)",
    "in_doubt_usd": "decimal128(18, 9)",
    "lane": "string",
    "endpoint": "string",
    "reused": "bool",
    "run_id": "string",
    "attempts": "int32",
    "latency_s": "double",
    "request_key": "string",
    "source_file": "string",
    "row_number": "int64",
    "finished_at": "timestamp[us, tz=UTC]",
}


def test_the_columns_of_the_contract() -> None:
    """The output has exactly the columns that others rely on, in order, with their types."""
    assert {field.name: str(field.type) for field in result_fields(None)} == CONTRACT
    assert [field.name for field in result_fields(None)] == list(CONTRACT)


def test_parsed_is_there_with_a_schema_only() -> None:
    """`parsed` comes after `completion`, and only if a response_format asks for it."""
    kind = pa.struct([("a", pa.string())])
    fields = result_fields(kind)
    assert [field.name for field in fields][:3] == ["completion", "parsed", "status"]
    assert fields[1].type == kind


@pytest.mark.parametrize("name", CONTRACT)
def test_a_column_of_ours_in_the_input_is_refused(name: str) -> None:
    """A refusal names the column and `column_prefix`, and with a prefix the column is accepted."""
    with pytest.raises(BadInput, match=f"'{name}', as the output has; set `column_prefix`"):
        check_names(["id", name], "", with_parsed=False)
    check_names(["id", name], "llm_", with_parsed=False)
    with pytest.raises(BadInput, match=f"'llm_{name}'"):
        check_names([f"llm_{name}"], "llm_", with_parsed=False)


def test_parsed_collides_only_when_it_is_there() -> None:
    """An input column named `parsed` is refused only for a job with a response_format."""
    check_names(["parsed"], "", with_parsed=False)
    with pytest.raises(BadInput, match="'parsed'"):
        check_names(["parsed"], "", with_parsed=True)
