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


# What each column means, for the documentation.
MEANINGS = {
    "completion": "the answer; null unless the status is ok, truncated, invalid or refused",
    "parsed": "only with `response_format`: the answer as data; null if the answer does not match the schema",
    "status": "how the row ended",
    "error_code": "null if ok; otherwise one of a fixed set of reasons, which you can group by",
    "error_message": "null if ok; otherwise the reason in words, without the prompt and without a key",
    "finish_reason": "why the answer ended, in the words of the service",
    "model_used": "the model that the service names in its reply, often with a date",
    "request_id": "the id that the service gave the request; its support asks for it",
    "prompt_tokens": "tokens of the request, as billed",
    "cached_tokens": "the part of `prompt_tokens` that the service read from its cache and bills at a lower price",
    "cache_write_tokens": "the part of `prompt_tokens` that the service wrote to its cache; some models bill more",
    "completion_tokens": "tokens of the answer, as billed, reasoning included",
    "reasoning_tokens": "the part of `completion_tokens` that the model used to think; it is not shown",
    "estimated_prompt_tokens": "what Parquill counted before sending; compare it with `prompt_tokens`",
    "cost_usd": "dollars for this row, all billed attempts included; 0 if another row or run paid for the answer",
    "in_doubt_usd": "dollars reserved for requests that may have been billed",
    "reused": "true if another row or an earlier run paid for the answer",
    "run_id": "the run that paid for the answer",
    "attempts": "requests sent for this row",
    "latency_s": "seconds from the request to the answer, of the attempt that was answered",
    "request_key": "SHA-256 of the request as hexadecimal text; equal requests have equal keys and are paid for once",
    "source_file": "the input file, relative to `input`",
    "row_number": "the number of the row in that file, from 0",
    "finished_at": "when the answer arrived",
}


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
