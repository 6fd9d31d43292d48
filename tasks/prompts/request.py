"""One row's request: its messages, its parameters, its key.

The key is the sha256 of the RFC 8785 canonical JSON of {v, endpoint, api, model, max_output_tokens, parameters,
response_format, messages} and, with `dedupe: false`, the row's identity. Equal keys mean equal requests: resume, dedupe
and nightly increments all depend on it. A request that depends on an earlier answer has a chained key (`chain_key`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
import rfc8785

from parquill.tasks.errors import RowFault
from parquill.tasks.job.parameters import own_parameters, refuse_unwritable
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.prompts.chat_fields import DROPPED, SENT, tell_mapping, tell_role, tell_unknown

KEY_VERSION, CHAINED_KEY_VERSION = 1, 2
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class KeyMaker:
    """Computes request keys; everything but the messages is canonicalized once per job."""

    def __init__(self, job: ResolvedJob) -> None:
        self._rest: dict[str, Any] = {
            "v": KEY_VERSION,
            "endpoint": job.endpoint.identity,
            "api": job.endpoint.api,
            "model": job.model,
            "max_output_tokens": job.max_output_tokens,
            "response_format": job.response_format,
        }
        self._parameters = job.parameters
        self._by_identity = not job.dedupe
        # RFC 8785 sorts members by name: the bytes before and after "messages" are the same for every row
        whole = rfc8785.dumps({**self._rest, "parameters": self._parameters, "messages": 0})
        marker = b'"messages":0'
        cut = whole.index(marker) + len(marker) - 1
        self._before, self._after = whole[:cut], whole[cut + 1 :]

    def key(self, messages: list[dict[str, Any]], parameters: dict[str, Any] | None, identity: list[Any]) -> bytes:
        """Return the 32 bytes of a request's key. Raises RowFault for values that JSON cannot hold."""
        try:
            if parameters is None and not self._by_identity:
                return hashlib.sha256(self._before + canonical_messages(messages) + self._after).digest()
            whole = {**self._rest, "messages": messages, "parameters": {**self._parameters, **(parameters or {})}}
            if self._by_identity:
                whole["row"] = identity
            return hashlib.sha256(rfc8785.dumps(whole)).digest()
        except (rfc8785.CanonicalizationError, UnicodeError, RecursionError, TypeError, ValueError):
            code = "bad_parameters" if parameters else "bad_messages"
            raise RowFault(code, "the request cannot be written as JSON") from None


def chain_key(previous: bytes, template: Mapping[str, Any]) -> bytes:
    """Return the key of a step whose messages depend on the answer of the step before, which has the key `previous`.

    `template` is what the messages are made from, besides that answer. So the key is known while planning, and a change
    of either makes a new request. Raises RowFault for values that JSON cannot hold.
    """
    try:
        whole = rfc8785.dumps({"v": CHAINED_KEY_VERSION, "previous": previous.hex(), "template": dict(template)})
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError, TypeError, ValueError):
        raise RowFault("bad_messages", "the request cannot be written as JSON") from None
    return hashlib.sha256(whole).digest()


def canonical_messages(messages: list[dict[str, Any]]) -> bytes:
    """Return the RFC 8785 bytes of chat messages; if all values are text, orjson writes the same, 30 times faster."""
    if all(type(value) is str for message in messages for value in message.values()):
        return orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)
    return bytes(rfc8785.dumps(messages))


def check_messages(value: Any) -> list[dict[str, Any]]:
    """Turn a cell of `messages_column` (a list of structs, or its JSON text) into messages. Raises RowFault."""
    if value is None:
        raise RowFault("null_value", "the messages are null")
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise RowFault("bad_messages", "the messages are not JSON") from None
    if isinstance(value, dict):
        raise RowFault("bad_messages", tell_mapping(set(value)))
    if not isinstance(value, list) or not value:
        raise RowFault("bad_messages", "the messages are not a list of at least one message")
    messages = [_check_message(number, item) for number, item in enumerate(value)]
    try:
        orjson.dumps(messages)
    except TypeError:
        raise RowFault("bad_messages", "the messages hold a value that JSON cannot hold") from None
    if all(_is_blank(message.get("content")) for message in messages):
        raise RowFault("blank_prompt", "every message is blank")
    return messages


def _check_message(number: int, item: Any) -> dict[str, Any]:
    if isinstance(item, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in item):
        item = dict(item)  # an Arrow map
    if not isinstance(item, dict):
        raise RowFault("bad_messages", f"message {number} is not a mapping")
    # Arrow gives every struct every field: a null field counts as missing
    # promise: input: dataset fields of a message are not sent to the model
    message = {name: field for name, field in item.items() if field is not None and name not in DROPPED}
    if message.get("tool_calls") == []:
        del message["tool_calls"]  # services refuse an empty list
    unknown = message.keys() - SENT
    if unknown:
        raise RowFault("bad_messages", tell_unknown(number, unknown))
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise RowFault("bad_messages", tell_role(number, role))
    if isinstance(message.get("content"), list):
        message["content"] = [_check_part(number, part) for part in message["content"]]
    elif not isinstance(message.get("content"), str) and not (message.get("tool_calls") or message.get("refusal")):
        raise RowFault("bad_messages", _tell_no_text(number, role))
    return message


def _tell_no_text(number: int, role: str) -> str:
    if role == "assistant":
        return f"message {number} has no text: its `content` is null, and it has no tool_calls; leave the message out"
    return f"message {number} has no text: its `content` is null or not text"


def _check_part(number: int, part: Any) -> dict[str, Any]:
    text = part.get("text") if isinstance(part, dict) else None
    if not isinstance(text, str) or part.get("type", "text") != "text":
        raise RowFault("bad_messages", f"message {number} has a part that is not text; only text has a known cost")
    return {"type": "text", "text": text}


def check_prompt(messages: list[dict[str, str]]) -> None:
    """Refuse a rendered row whose user message is blank. Raises RowFault."""
    # promise: input: a row with a blank prompt is rejected and not sent
    if _is_blank(messages[-1]["content"]):
        raise RowFault("blank_prompt", "prompt.user is blank for this row")


def _is_blank(content: Any) -> bool:
    if isinstance(content, list):
        return all(_is_blank(part.get("text")) for part in content)
    return not isinstance(content, str) or not content.strip()


def check_parameters(value: Any) -> dict[str, Any] | None:
    """Turn a cell of `parameters_column` (a struct, or its JSON text) into parameters. Raises RowFault."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise RowFault("bad_parameters", "the parameters are not JSON") from None
    if not isinstance(value, dict):
        raise RowFault("bad_parameters", "the parameters are not a mapping")
    parameters = {name: item for name, item in value.items() if item is not None}
    if "tools" in parameters:
        raise RowFault("bad_parameters", "set 'tools' in the job's `parameters`, where their tokens are counted")
    try:
        # promise: input: row parameters that could raise the row's cost are rejected
        parameters = own_parameters(parameters)
    except ValueError as error:
        raise RowFault("bad_parameters", str(error)) from None
    try:
        # promise: input: row parameters that JSON cannot hold reject the row
        refuse_unwritable(parameters)
        orjson.dumps(parameters)  # refuses deep nesting that rfc8785 accepts
    except (ValueError, TypeError):
        raise RowFault("bad_parameters", "the parameters hold a value that JSON cannot hold") from None
    return parameters or None
