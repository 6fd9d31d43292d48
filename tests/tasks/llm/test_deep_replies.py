"""Reading a reply never raises, however deeply its tool calls are nested."""

from __future__ import annotations

import pytest

from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.replies import Reply
from tests.tools.small_jobs import LEAST, resolved_job

DEEP = b"[" * 1000 + b"]" * 1000


@pytest.mark.parametrize(
    ("api", "data"),
    [
        ("chat", b'{"choices": [{"message": {"content": null, "tool_calls": [' + DEEP + b"]}}]}"),
        ("responses", b'{"output": [{"type": "function_call", "arguments": ' + DEEP + b"}]}"),
    ],
)
def test_reading_a_reply_never_raises(api: str, data: bytes) -> None:
    """A hostile reply gives its row the status of a reply without an answer, and the run continues."""
    reply = APIS[api](resolved_job({**LEAST, "endpoint": {"api": api}})).read(data)
    assert isinstance(reply, Reply)
    assert (reply.code, reply.text) == ("no_answer", None)
