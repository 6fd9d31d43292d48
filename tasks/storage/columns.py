"""The columns that Parquill adds to those of the input."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from parquill.tasks.errors import BadInput

USD = pa.decimal128(18, 9)

# As records.Charge; the usage in its order.
CHARGE = pa.struct(
    {
        "cost_nano": pa.int64(),
        "in_doubt_nano": pa.int64(),
        "attempts": pa.int32(),
        "usage": pa.list_(pa.int64()),
    }
)

# What the plan adds to the input's columns in a shard, under names that no input may have.
PLAN = "__parquill_"
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
    "prior": CHARGE,  # what earlier runs of the same output paid for the row; null for most rows
    "newer_than": pa.int64(),  # `--redo`: only an answer from after this time is reused (microseconds since 1970)
}


def result_fields(parsed: pa.DataType | None) -> list[pa.Field]:
    """Return the output columns in order, without prefix; `parsed` is None for a job without a response_format."""
    return [
        pa.field("completion", pa.string()),
        *([pa.field("parsed", parsed)] if parsed is not None else []),
        pa.field("status", pa.string()),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("model_used", pa.string()),
        pa.field("request_id", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("cached_tokens", pa.int64()),
        pa.field("cache_write_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("reasoning_tokens", pa.int64()),
        pa.field("estimated_prompt_tokens", pa.int64()),
        pa.field("cost_usd", USD),
        pa.field("in_doubt_usd", USD),
        pa.field("reused", pa.bool_()),
        pa.field("run_id", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("latency_s", pa.float64()),
        pa.field("request_key", pa.string()),
        pa.field("source_file", pa.string()),
        pa.field("row_number", pa.int64()),
        pa.field("finished_at", pa.timestamp("us", tz="UTC")),
    ]


def check_names(columns: list[str], prefix: str, *, with_parsed: bool) -> None:
    """Refuse an input whose columns would collide with Parquill's. Raises BadInput, which names `column_prefix`."""
    own = {prefix + field.name for field in result_fields(pa.null() if with_parsed else None)}
    taken = [name for name in columns if name in own]
    if taken:
        raise BadInput(
            f"the input (or `for_each`) has a column {taken[0]!r}, as the output has; set `column_prefix` (for example "
            "llm_) to rename Parquill's"
        )
    reserved = [name for name in columns if name.startswith(PLAN)]
    if reserved:
        raise BadInput(f"the input has a column {reserved[0]!r}; rename it, since {PLAN} starts Parquill's own names")


def for_each_field(name: str, values: list[Any]) -> pa.Field:
    """The column of one `for_each` name."""
    kinds: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return pa.field(name, kinds.get(type(values[0]), pa.string()))
