"""A chat answer in parts without any text is `no_answer`."""

from __future__ import annotations

import json

from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.replies import Reply
from tests.tools.small_jobs import LEAST, resolved_job


def test_an_answer_without_text_is_no_answer() -> None:
    """A reply without text is billed and `no_answer`, as with `content: null` and `content: []`."""
    reply = {
        "choices": [
            {"message": {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "finish_reason": "stop"}
        ]
    }
    found = APIS["chat"](resolved_job(LEAST)).read(json.dumps(reply).encode())
    assert isinstance(found, Reply)
    assert (found.code, found.text) == ("no_answer", None)
