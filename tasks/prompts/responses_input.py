"""Converts messages of `messages_column` to the form of the Responses API, and back.

The API has items instead of messages: https://platform.openai.com/docs/api-reference/responses/create (input). A
message of plain text is the same in both. Parts have other names, a tool call and its result are separate items, and a
speaker has no name. A row with something that has no counterpart is rejected: the service would refuse it after
sending, or its meaning would change silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from parquill.tasks.errors import RowFault

ITEMS = frozenset({"message", "function_call", "function_call_output"})
_PARTS = {"input_text": "text", "output_text": "text"}
# fields that services return with a message or a call, and a request does not need
_OF_REPLIES = frozenset({"id", "status", "type", "phase"})
_PART_OF_REPLIES = frozenset({"annotations", "logprobs"})


def as_messages(value: Any) -> Any:
    """Convert the messages of a cell from the form of the Responses API to that of chat; leave all else as it is."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return [_as_message(number, item) for number, item in enumerate(value)] if isinstance(value, list) else value


def _as_message(number: int, item: Any) -> Any:
    if isinstance(item, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in item):
        item = dict(item)  # an Arrow map
    if not isinstance(item, Mapping):
        return item
    found = {name: value for name, value in item.items() if value is not None}
    kind = found.get("type", "message")
    if not isinstance(kind, str) or kind not in ITEMS:
        raise _fault(number, "`type`, which is none of message, function_call and function_call_output")
    if kind == "function_call":
        _refuse_others(number, found, {"call_id", "name", "arguments", *_OF_REPLIES})
        call = {"name": found.get("name"), "arguments": found.get("arguments")}
        return {
            "role": "assistant",
            "tool_calls": [{"id": found.get("call_id"), "type": "function", "function": call}],
        }
    if kind == "function_call_output":
        _refuse_others(number, found, {"call_id", "output", *_OF_REPLIES})
        return {"role": "tool", "tool_call_id": found.get("call_id"), "content": _chat_parts(found.get("output"))}
    message = {name: value for name, value in found.items() if "type" not in found or name not in _OF_REPLIES}
    if "content" in message:
        message["content"] = _chat_parts(message["content"])
    return message


def _chat_parts(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type") in _PARTS:
            found = {name: value for name, value in part.items() if name not in _PART_OF_REPLIES}
            parts.append({**found, "type": _PARTS[part["type"]]})
        else:
            parts.append(part)
    return parts


def as_items(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert checked chat messages to items of the Responses API. Raises RowFault for a field without counterpart."""
    items: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        items += _items_of(number, message)
    return items


def _items_of(number: int, message: dict[str, Any]) -> list[dict[str, Any]]:
    role, content = message["role"], message.get("content")
    # promise: input: a `name` that the Responses API lacks is rejected, not dropped
    if "name" in message:
        raise _fault(number, "`name`")
    if role == "function":
        raise _fault(number, "`role: function` (write it as `role: tool` with a tool_call_id)")
    if role == "tool":
        return [_output(number, message)]
    if "tool_call_id" in message:
        raise _fault(number, "`tool_call_id` outside of `role: tool`")
    if role != "assistant":
        for name in ("tool_calls", "refusal"):
            if name in message:
                raise _fault(number, f"`{name}` outside of `role: assistant`")
        return [{"role": role, "content": _parts(content, "input_text")}]
    parts = _parts(content, "output_text")
    if "refusal" in message:
        text_parts = [{"type": "output_text", "text": parts}] if isinstance(parts, str) and parts else parts or []
        parts = [*text_parts, {"type": "refusal", "refusal": _text(number, message["refusal"], "refusal")}]
    spoken = [{"role": role, "content": parts}] if parts or "tool_calls" not in message else []
    return [*spoken, *_calls(number, message.get("tool_calls", []))]


def _parts(content: Any, kind: str) -> Any:
    if isinstance(content, list):
        return [{"type": kind, "text": part["text"]} for part in content]
    return content


def _output(number: int, message: dict[str, Any]) -> dict[str, Any]:
    for name in ("tool_calls", "refusal"):
        if name in message:
            raise _fault(number, f"`{name}` outside of `role: assistant`")
    call = _text(number, message.get("tool_call_id"), "tool_call_id")
    return {"type": "function_call_output", "call_id": call, "output": _parts(message.get("content"), "input_text")}


def _calls(number: int, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise RowFault("bad_messages", f"message {number}: `tool_calls` is not a list")
    items = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or call.get("type") not in {None, "function"}:
            raise _fault(number, "`tool_calls` that are not function calls")
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):  # some data sets have them as mappings
            arguments = orjson.dumps(arguments, default=str).decode()
        items.append(
            {
                "type": "function_call",
                "call_id": _text(number, call.get("id"), "tool_calls[].id"),
                "name": _text(number, function.get("name"), "tool_calls[].function.name"),
                "arguments": _text(number, arguments, "tool_calls[].function.arguments"),
            }
        )
    return items


def _text(number: int, value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RowFault(
            "bad_messages", f"message {number}: `{name}`, which the Responses API needs, is missing or not text"
        )
    return value


def _refuse_others(number: int, found: Mapping[str, Any], known: set[str]) -> None:
    if found.keys() - known:
        raise RowFault("bad_messages", f"message {number} has a field that no {found['type']} has")


def _fault(number: int, what: str) -> RowFault:
    return RowFault("bad_messages", f"message {number} has a {what}: the Responses API does not support it")
