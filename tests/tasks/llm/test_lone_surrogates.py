"""Parquill repairs a lone surrogate in every text of a reply: `refusal` of chat and each text of the Responses API."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.replies import Reply
from tests.tools.small_jobs import LEAST, resolved_job

LONE = "a\ud800b"


@pytest.mark.parametrize(
    ("api", "reply"),
    [
        ("chat", {"choices": [{"message": {"content": None, "refusal": LONE}, "finish_reason": "stop"}]}),
        ("responses", {"output": [{"type": "message", "content": [{"type": "output_text", "text": LONE}]}]}),
        ("responses", {"output": [{"type": "message", "content": [{"type": "refusal", "refusal": LONE}]}]}),
    ],
)
def test_lone_surrogates_are_repaired_wherever_text_comes_from(api: str, reply: dict[str, Any]) -> None:
    """Any text in a reply can be written as UTF-8 into the journal and Parquet."""
    found = APIS[api](resolved_job({**LEAST, "endpoint": {"api": api}})).read(json.dumps(reply).encode())
    assert isinstance(found, Reply)
    assert found.text == "a\N{REPLACEMENT CHARACTER}b"
    orjson.dumps(found.text)  # as the journal writes it
