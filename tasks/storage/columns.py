"""The columns that Parquill adds to those of the input."""

from __future__ import annotations

import pyarrow as pa

from parquill.tasks.errors import BadInput

USD = pa.decimal128(18, 9)


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
        pa.field("lane", pa.string()),
        pa.field("endpoint", pa.string()),
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
    "lane": "how the answer was bought, `live` or `flex`, by the service tier that the reply names; null without an "
    "answer",
    "endpoint": "where the answer was bought: the endpoint's `name`, or its host; null without an answer",
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
