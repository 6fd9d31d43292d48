"""How a reply is read, one class an API: the answer, why it ended, what the service calls itself, its usage."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from parquill.tasks.money.usage import read_usage
from parquill.tasks.records import Usage
from parquill.tasks.wire.bodies import events


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service answered; `code` is the line of the table of outcomes (`ok`, `max_output_tokens`, ...).

    `usage` is None where it is unusable; then `least` is what is known of it. `usage_flag` is a key of
    `money.usage.FLAGS`.
    """

    code: str
    text: str | None
    finish_reason: str | None
    model: str | None
    request_id: str | None
    usage: Usage | None
    usage_flag: str | None = None
    least: Usage | None = None
    service_tier: str | None = None


class ChatReplies:
    """Of POST /chat/completions."""

    def read(self, data: bytes) -> Reply | None:
        """Read a 2xx reply; None when it is no reply of this API."""
        return self._read_document(parse_json(data))

    def read_stream(self, data: bytes) -> Reply | None:
        """Read a reply that came as a stream although none was asked for; None when nothing in it is an answer."""
        return self._read_document(self._join(events(data)))

    def _read_document(self, reply: Any) -> Reply | None:
        if not isinstance(reply, dict):
            return None
        code, text, reason = self._answer(reply)
        if code is None:
            return None
        usage, flag, least = read_usage(reply)
        text = None if text is None else _repair(text)
        if usage is not None and usage.completion == 0 and text:
            usage, flag, least = None, None, usage  # a text of no tokens: the figures are not to be trusted
        return Reply(
            code,
            text,
            clean_label(reason),
            clean_label(reply.get("model")),
            clean_label(reply.get("id")),
            usage,
            flag,
            least,
            clean_label(reply.get("service_tier")),
        )

    def _join(self, parts: Iterable[Any]) -> dict[str, Any] | None:
        """One reply of the parts of a stream: texts are joined, and the last word on the rest counts."""
        joined: dict[str, Any] = {}
        choice: dict[str, Any] = {}
        texts: dict[str, list[str]] = {}
        calls: dict[int, dict[str, Any]] = {}
        for part in parts:
            if not isinstance(part, dict):
                continue
            joined |= {name: value for name, value in part.items() if name != "choices" and value is not None}
            for found in _first_choices(part):
                choice |= {name: value for name, value in found.items() if value is not None}
                delta = found.get("delta", found)
                for name, value in delta.items() if isinstance(delta, dict) else ():
                    if name == "tool_calls":
                        _join_calls(calls, value)
                    elif isinstance(value, str):
                        texts.setdefault(name, []).append(value)
        if not choice:
            return joined or None
        message: dict[str, Any] = {name: "".join(pieces) for name, pieces in texts.items()}
        if calls:
            message["tool_calls"] = [calls[index] for index in sorted(calls)]
        whole = choice.get("message")
        choice |= {"message": whole if isinstance(whole, dict) else message, "text": message.get("text")}
        return {**joined, "choices": [choice]}

    def _answer(self, reply: dict[str, Any]) -> tuple[str | None, str | None, Any]:
        choices = reply.get("choices")
        if not isinstance(choices, list):
            return None, None, None
        choice = choices[0] if choices and isinstance(choices[0], dict) else {}
        found = choice.get("message")
        message: dict[str, Any] = found if isinstance(found, dict) else {}
        reason = choice.get("finish_reason")
        text = _text(message.get("content"))
        if isinstance(message.get("refusal"), str) and message["refusal"]:
            return "refusal", message["refusal"], reason
        if text is None:
            text = _calls(message.get("tool_calls"))
        return _code(reason, text), text, reason


class CompletionsReplies(ChatReplies):
    """Of POST /completions."""

    def _answer(self, reply: dict[str, Any]) -> tuple[str | None, str | None, Any]:
        choices = reply.get("choices")
        if not isinstance(choices, list):
            return None, None, None
        choice = choices[0] if choices and isinstance(choices[0], dict) else {}
        text = _text(choice.get("text"))
        return _code(choice.get("finish_reason"), text), text, choice.get("finish_reason")


class ResponsesReplies(ChatReplies):
    """Of POST /responses."""

    def _join(self, parts: Iterable[Any]) -> dict[str, Any] | None:
        """The last event of a stream of the Responses API holds the whole reply."""
        whole = None
        for part in parts:
            if isinstance(part, dict) and isinstance(part.get("response"), dict):
                whole = part["response"]
        return whole

    def _answer(self, reply: dict[str, Any]) -> tuple[str | None, str | None, Any]:
        items = reply.get("output")
        if not isinstance(items, list):
            return None, None, None
        contents = [
            part
            for item in items
            if isinstance(item, dict) and item.get("type") == "message" and isinstance(item.get("content"), list)
            for part in item["content"]
            if isinstance(part, dict)
        ]
        texts = [part["text"] for part in contents if isinstance(part.get("text"), str)]
        refusals = [part["refusal"] for part in contents if isinstance(part.get("refusal"), str)]
        details = reply.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else reply.get("status")
        calls = [item for item in items if isinstance(item, dict) and item.get("type") == "function_call"]
        text = "".join(texts) if texts else _calls(calls)
        if refusals:
            return "refusal", refusals[0], reason
        named = {"max_output_tokens": "length", "content_filter": "content_filter"}
        return _code(named.get(reason, "stop") if isinstance(reason, str) else "stop", text), text, reason


def _first_choices(part: dict[str, Any]) -> list[dict[str, Any]]:
    choices = part.get("choices")
    return [c for c in choices[:1] if isinstance(c, dict)] if isinstance(choices, list) else []


def _join_calls(calls: dict[int, dict[str, Any]], pieces: Any) -> None:
    """Add the pieces of tool calls: names and ids come once, arguments in pieces."""
    for piece in pieces if isinstance(pieces, list) else ():
        if not isinstance(piece, dict):
            continue
        index = piece.get("index")
        call = calls.setdefault(index if isinstance(index, int) else len(calls), {"type": "function", "function": {}})
        function = piece.get("function")
        for name, value in function.items() if isinstance(function, dict) else ():
            if isinstance(value, str):
                call["function"][name] = call["function"].get(name, "") + value
        call |= {name: value for name, value in piece.items() if name in {"id", "type"} and value}


def _code(reason: Any, text: str | None) -> str:
    if reason == "content_filter":
        return "content_filter"
    if reason == "length":
        return "max_output_tokens"
    return "no_answer" if text is None else "ok"


def _text(value: Any) -> str | None:
    if isinstance(value, list):  # some services answer in parts
        parts = [part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)]
        value = "".join(parts) if parts else None
    return value if isinstance(value, str) else None


def _calls(calls: Any) -> str | None:
    """The function calls of an answer that has no text, as JSON."""
    try:
        return json.dumps(calls, ensure_ascii=False) if isinstance(calls, list) and calls else None
    except RecursionError:
        return None


def _repair(text: str) -> str:
    # a lone surrogate cannot be written as UTF-8, and one such text would spoil its whole part
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_label(value: Any) -> str | None:
    """A label that the service chose: bounded, and without control characters that a terminal would obey."""
    if not isinstance(value, str):
        return None
    return "".join(c if c.isprintable() else "?" for c in _repair(value[:200]))


def parse_json(data: bytes) -> Any:
    """A document, with what RFC 8259 forbids and services send nevertheless (lone surrogates, NaN); None if it is none.

    Surrogates are repaired, and usage of no number is not believed: the answer beside it is paid and is kept.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
