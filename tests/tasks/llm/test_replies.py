"""Parquill takes the final message and the tool calls of a reply as its answer, and nothing where there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from parquill.tasks.llm.outcomes import TABLE
from parquill.tasks.llm.protocol import APIS
from parquill.tasks.llm.replies import Reply
from tests.tools.small_jobs import resolved_job

CALL = {"id": "call_1", "type": "function", "function": {"name": "set_label", "arguments": '{"label":"pos"}'}}
ITEM = {"type": "function_call", "call_id": "call_1", "name": "set_label", "arguments": '{"label":"pos"}'}
THOUGHTS = "Guten Tag ist die Antwort"


def _read(reply: Any, api: str = "chat") -> Reply:
    job = resolved_job({
        "name": "x", "input": "i", "output": "o", "prompt": {"user": "x"}, "model": "m", "max_output_tokens": 9,
        "endpoint": {"base_url": "http://localhost:1/v1", "api": api},
    })  # fmt: skip
    found = APIS[api](job).read(json.dumps(reply).encode())
    assert isinstance(found, Reply)
    return found


def _chat(message: Any, reason: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason}], **more}


def _message(text: str, phase: str | None = None) -> dict[str, Any]:
    found = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return found if phase is None else {**found, "phase": phase}


@pytest.mark.parametrize("content", [None, "", " \n", [], [{"type": "text", "text": ""}]])
@pytest.mark.parametrize("reason", ["tool_calls", "stop", None])
def test_calls_without_text_are_the_answer(content: Any, reason: str | None) -> None:
    """If a reply has tool calls and null, empty or blank text, the completion is the list of calls."""
    found = _read(_chat({"content": content, "tool_calls": [CALL]}, reason))
    assert found.code == "ok"
    assert json.loads(found.text or "") == [CALL]


@pytest.mark.parametrize("content", ["I set the label.", [{"type": "text", "text": "I set the label."}]])
def test_calls_beside_text_are_kept_with_it(content: Any) -> None:
    """If a reply has text and tool calls, the completion is a list of the text and the unchanged calls."""
    found = _read(_chat({"content": content, "tool_calls": [CALL, CALL]}, "tool_calls"))
    assert found.code == "ok"
    assert json.loads(found.text or "") == [{"type": "text", "text": "I set the label."}, CALL, CALL]


@pytest.mark.parametrize("calls", [None, [], "x", {}, 5])
def test_no_calls_change_nothing(calls: Any) -> None:
    """If `tool_calls` is empty or not a list, the text is the answer."""
    assert _read(_chat({"content": "Hi", "tool_calls": calls})).text == "Hi"


def test_the_older_form_of_a_call() -> None:
    """`function_call` is kept in the form of `tool_calls`."""
    found = _read(_chat({"content": "", "function_call": CALL["function"]}, "function_call"))
    assert json.loads(found.text or "") == [{"type": "function", "function": CALL["function"]}]


def test_a_call_that_was_cut_is_truncated() -> None:
    """A tool call that was cut off is truncated, not ok."""
    assert _read(_chat({"content": "", "tool_calls": [CALL]}, "length")).code == "max_output_tokens"


def test_calls_of_the_responses_api() -> None:
    """The Responses API puts tool calls among the output items, alone or after the text."""
    other = {"type": "custom_tool_call", "name": "sql", "input": "select 1"}
    alone = _read({"status": "completed", "output": [{"type": "reasoning"}, ITEM, other]}, "responses")
    assert (alone.code, json.loads(alone.text or "")) == ("ok", [ITEM, other])
    both = _read({"status": "completed", "output": [_message("I set it."), ITEM]}, "responses")
    assert json.loads(both.text or "") == [{"type": "text", "text": "I set it."}, ITEM]
    after = _read({"status": "completed", "output": [_message("Let me see.", "commentary"), ITEM]}, "responses")
    assert json.loads(after.text or "") == [ITEM]


@pytest.mark.parametrize(
    ("messages", "code", "text"),
    [
        ([("Let me see.", "commentary"), ("Guten Tag", "final_answer")], "ok", "Guten Tag"),
        ([("Guten Tag", "final_answer"), ("Done.", "commentary")], "ok", "Guten Tag"),
        ([("Let me see.", None), ("Guten Tag", "final_answer")], "ok", "Guten Tag"),
        ([("Let me see.", "commentary"), ("Guten Tag", None)], "ok", "Guten Tag"),
        ([("Guten", "final_answer"), (" Tag", "final_answer")], "ok", "Guten Tag"),
        ([("Guten", None), (" Tag", None)], "ok", "Guten Tag"),
        ([("Let me see.", "commentary")], "no_answer", None),
        ([("Let me see.", "commentary"), ("", "final_answer")], "empty", ""),
    ],
)
def test_the_final_answer_and_not_the_commentary(messages: list[tuple[str, str | None]], code: str, text: Any) -> None:
    """Of several messages those of the phase final_answer count, and commentary never does."""
    output = [_message(*message) for message in messages]
    found = _read({"status": "completed", "output": output}, "responses")
    assert (found.code, found.text) == (code, text)


@pytest.mark.parametrize("text", ["", " ", "\n\n\t", "\u00a0\u2003"])
@pytest.mark.parametrize("api", APIS)
def test_an_empty_answer_is_not_ok(api: str, text: str) -> None:
    """Under any API, an answer of white space is empty, with a good, a missing or an unknown reason."""
    for reason in ("stop", None, "brand_new"):
        replies: dict[str, Any] = {
            "chat": _chat({"content": text}, reason),
            "completions": {"choices": [{"text": text, "finish_reason": reason}]},
            "responses": {"status": "completed", "output": [_message(text)]},
        }
        found = _read(replies[api], api)
        assert (found.code, found.text) == ("empty", text)
        assert found.sentence(TABLE["empty"]) == "the answer was billed but is empty"


@pytest.mark.parametrize("content", ["", None, " ", [], [{"type": "thinking", "thinking": [{"text": THOUGHTS}]}]])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking", "reasoning_details"])
def test_reasoning_alone_is_no_answer(content: Any, name: str) -> None:
    """The row says that the reply holds only reasoning and what to do, and the reasoning is not used as the answer."""
    value = [{"type": "reasoning.text", "text": THOUGHTS}] if name == "reasoning_details" else THOUGHTS
    found = _read(_chat({"content": content, name: value}))
    assert found.code == "empty"
    sentence = found.sentence(TABLE["empty"])
    assert "only reasoning" in sentence
    assert "reasoning parser" in sentence
    assert THOUGHTS not in sentence
    assert _read(_chat({"content": "Hi", name: value})).text == "Hi"


@pytest.mark.parametrize("reasoning", [None, "", " ", [], 5])
def test_no_reasoning_is_no_reason(reasoning: Any) -> None:
    """Without reasoning, null content is `no_answer` and empty content is `empty`."""
    assert _read(_chat({"content": None, "reasoning_content": reasoning})).code == "no_answer"
    assert _read(_chat({"content": "", "reasoning_content": reasoning})).note is None


def test_reasoning_that_uses_up_the_limit_is_told() -> None:
    """If the answer was cut before it began, the row says that the reasoning used all tokens."""
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 9,
        "total_tokens": 18,
        "completion_tokens_details": {"reasoning_tokens": 9},
    }
    rule = TABLE["max_output_tokens"]
    found = _read(_chat({"content": ""}, "length", usage=usage))
    assert found.code == "max_output_tokens"
    assert "the reasoning used up all tokens before the answer began" in found.sentence(rule)
    assert _read(_chat({"content": "H"}, "length", usage=usage)).sentence(rule) == rule.sentence


def test_which_of_several_reasons_is_told() -> None:
    """If a line of the table covers several finish reasons, the message names the one that came."""
    found = _read(
        {"choices": [{"message": {"content": "H"}, "finish_reason": "stop", "native_finish_reason": "OTHER"}]}
    )
    assert found.sentence(TABLE[found.code]) == "the service cut the answer short: finish reason OTHER"
