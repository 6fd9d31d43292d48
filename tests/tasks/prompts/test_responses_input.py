"""Chat messages become items of the Responses API, or their row is rejected with the field named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.flows.cli.preview import preview_rows
from parquill.tasks.errors import BadJob, RowFault
from parquill.tasks.money.tokens import TokenCounter
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.prepare import open_source
from parquill.tasks.prompts.request import check_messages
from parquill.tasks.prompts.responses_input import as_items, as_messages
from tests.tasks.prompts.test_planner import DAY
from tests.tools.small_jobs import resolved_job

HI = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
CALL_ITEM = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'}
OUTPUT_ITEM = {"type": "function_call_output", "call_id": "c1", "output": "42"}


def _items(value: Any) -> Any:
    return as_items(check_messages(as_messages(value)))


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ([HI], [HI]),
        ([{"role": "developer", "content": "Be brief."}, HI], [{"role": "developer", "content": "Be brief."}, HI]),
        ([{"role": "system", "content": "Be brief."}, HI], [{"role": "system", "content": "Be brief."}, HI]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"text": "you"}]}],
            [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_text", "text": "you"}]}],
        ),
        (
            [{"role": "system", "content": [{"type": "text", "text": "x"}]}, HI],
            [{"role": "system", "content": [{"type": "input_text", "text": "x"}]}, HI],
        ),
        (
            [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}, HI],
            [{"role": "assistant", "content": [{"type": "output_text", "text": "x"}]}, HI],
        ),
        ([{"role": "assistant", "content": "x"}, HI], [{"role": "assistant", "content": "x"}, HI]),
        (
            [HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": "42"}],
            [HI, CALL_ITEM, OUTPUT_ITEM],
        ),
        (
            [HI, {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, {**CALL, "id": "c2"}]}],
            [HI, {"role": "assistant", "content": "Let me see."}, CALL_ITEM, {**CALL_ITEM, "call_id": "c2"}],
        ),
        (
            [HI, {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]}],
            [HI, {**OUTPUT_ITEM, "output": [{"type": "input_text", "text": "42"}]}],
        ),
        (
            [HI, {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {"a": 1}}}]}],
            [HI, CALL_ITEM],
        ),
        (
            [HI, {"role": "assistant", "content": "", "refusal": "No."}, HI],
            [HI, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, HI],
        ),
        # messages that already have the form of the Responses API
        ([HI, CALL_ITEM, OUTPUT_ITEM], [HI, CALL_ITEM, OUTPUT_ITEM]),
        ([HI, {**CALL_ITEM, "id": "fc_1", "status": "completed"}, OUTPUT_ITEM], [HI, CALL_ITEM, OUTPUT_ITEM]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
            [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        ),
        (
            [
                HI,
                {
                    "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                    "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": []}],
                },
                HI,
            ],
            [HI, {"role": "assistant", "content": [{"type": "output_text", "text": "x"}]}, HI],
        ),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_each_shape_has_its_item(given: Any, items: Any) -> None:
    """Parts, tool calls and their results get the API's names, also if the cell is JSON text or a map."""
    assert _items(given) == items
    assert _items(orjson.dumps(given).decode()) == items
    assert _items([list(message.items()) for message in given]) == items


@pytest.mark.parametrize(
    ("message", "pattern"),
    [
        ({"role": "user", "content": "x", "name": "Ann"}, "`name`"),
        ({"role": "function", "content": "x"}, "`role: function`"),
        ({"role": "tool", "content": "x"}, "`tool_call_id`"),
        ({"role": "user", "content": "x", "tool_call_id": "c1"}, "`tool_call_id` outside"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "`tool_calls` outside"),
        ({"role": "user", "content": "x", "refusal": "No."}, "`refusal` outside"),
        ({"role": "tool", "content": "x", "tool_call_id": "c1", "tool_calls": [CALL]}, "`tool_calls` outside"),
        ({"role": "assistant", "tool_calls": {"id": "c1"}}, "`tool_calls` is not a list"),
        ({"role": "assistant", "tool_calls": ["x"]}, "not function calls"),
        ({"role": "assistant", "tool_calls": [{"id": "c1", "type": "custom", "custom": {}}]}, "not function calls"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": ""}}]}, r"`tool_calls\[\]\.id`"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "function": {"arguments": ""}}]}, "function.name`"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "x"}}]}, "function.arguments`"),
        ({"role": "assistant", "refusal": 5, "content": "x"}, "`refusal`"),
        ({"type": "reasoning", "summary": []}, "`type`"),
        ({"type": "web_search_call"}, "`type`"),
        ({"type": 5}, "`type`"),
        (
            {"type": "function_call", "name": "x", "arguments": "", "call_id": "c", "x": 1},
            "a field that no function_call",
        ),
        ({"type": "function_call", "name": "x", "arguments": ""}, "`tool_calls"),
        ({"type": "function_call_output", "output": "x"}, "`tool_call_id`"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "a part that is not text"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "a part that is not text"),
        ("x", "not a mapping"),
    ],
    ids=str,
)
def test_what_has_no_counterpart_is_rejected_by_name(message: Any, pattern: str) -> None:
    """A message that the API would refuse or misread is rejected by name before anything is sent."""
    with pytest.raises(RowFault, match=pattern) as caught:
        _items([HI, message])
    assert caught.value.code == "bad_messages"
    assert "message 1" in caught.value.message


def test_tokens_of_parts_are_those_of_their_text() -> None:
    """A message has the same count with plain text, parts of chat or parts of the Responses API."""
    plain = _items([{"role": "user", "content": "some words to count"}])
    parts = _items([{"role": "user", "content": [{"type": "text", "text": "some words to count"}]}])
    assert plain != parts
    counts = TokenCounter("gpt-4o-mini").count_chats([plain, parts])
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_plan_has_the_shapes_of_its_api(tmp_path: Path, api: str) -> None:
    """The preview's request has the form of the job's own API."""
    messages = [
        HI,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    column = pa.array([orjson.dumps(messages).decode()])
    pq.write_table(pa.table({"messages": column}), tmp_path / "in.parquet")
    job = resolved_job({
        "name": "x", "input": str(tmp_path / "in.parquet"), "output": str(tmp_path / "out"),
        "messages_column": "messages", "model": "gpt-4o-mini", "max_output_tokens": 7, "endpoint": {"api": api},
    })  # fmt: skip
    row = preview_rows(job, RunOptions(DAY), 1)[0]
    sent = row["body"]["input" if api == "responses" else "messages"]
    assert sent == ([HI, CALL_ITEM, OUTPUT_ITEM] if api == "responses" else messages)
    assert row["error"] is None


@pytest.mark.parametrize(
    ("base_url", "prompt", "is_sent"),
    [
        ("https://api.openai.com/v1", "Answer in JSON: x", True),
        ("https://api.openai.com/v1", "{{ text }}", False),
        ("https://acme.openai.azure.com/openai/v1", "{{ text }}", False),
        ("http://127.0.0.1:1/v1", "{{ text }}", True),
    ],
)
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_json_mode_at_openai_needs_the_word(
    tmp_path: Path, base_url: str, prompt: str, api: str, *, is_sent: bool
) -> None:
    """OpenAI refuses JSON mode without the word JSON: such a row is rejected before sending, with what to do."""
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "in.parquet")
    job = resolved_job({
        "name": "x", "input": str(tmp_path / "in.parquet"), "output": str(tmp_path / "out"), "prompt": {"user": prompt},
        "model": "gpt-4o-mini", "max_output_tokens": 7, "response_format": {"type": "json_object"},
        "endpoint": {"base_url": base_url, "api": api, "api_key_env": "K"},
    })  # fmt: skip
    row = preview_rows(job, RunOptions(DAY), 1)[0]
    assert (row["body"] is not None) == is_sent
    assert is_sent or "the word JSON" in row["error"]


def test_a_strict_schema_is_checked_before_reading(tmp_path: Path) -> None:
    """A schema that OpenAI would refuse for every row stops the job before its input is read."""
    job = resolved_job({
        "name": "x", "input": str(tmp_path / "none.parquet"), "output": str(tmp_path / "out"), "prompt": {"user": "x"},
        "model": "gpt-4o-mini", "max_output_tokens": 7,
        "response_format": {"type": "object", "properties": {"a": {"type": "string"}}},
    })  # fmt: skip
    with pytest.raises(BadJob, match="OpenAI refuses this schema"):
        open_source(job)
