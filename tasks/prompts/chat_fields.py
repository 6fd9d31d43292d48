"""The fields of chat messages in data sets that are not sent: they are dropped, or refused with advice.

Fields that describe a message, but say nothing to the model, are dropped. One closed list, which
docs/reference/requests.md shows.
"""

from __future__ import annotations

import re

SENT = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal"})
DROPPED = frozenset(
    # of fine-tuning data, of stored answers, and of logs
    "weight loss train mask id object index status finish_reason logprobs usage model annotations citations reasoning "
    "reasoning_content reasoning_details thinking created created_at timestamp date metadata token_count num_tokens "
    "language lang".split()
)
_SHAREGPT = (
    "this looks like ShareGPT: rename `from` to `role` (human is user, gpt is assistant) and `value` to `content`, and "
    "drop a final answer that the model is to write itself"
)
_ADVICE = {
    "from": _SHAREGPT,
    "value": _SHAREGPT,
    "conversations": _SHAREGPT,
    "parts": "this looks like Gemini's format: write the text of `parts` as `content`, the role `model` as assistant",
    "text": "write it as `content`",
    "message": "write it as `content`",
    "speaker": "write it as `role`",
    "author": "write it as `role`",
    "function_call": "this is the older form of `tool_calls`: write it in the new form, or leave the message out",
    "instruction": "this looks like Alpaca: use `prompt` with {{ instruction }} instead of `messages_column`",
    "images": "a picture's cost is not known before it is sent, so only text can be sent",
    "audio": "the cost of sound is not known before it is sent, so only text can be sent",
}
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "observation": "tool",
}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")


def tell_unknown(number: int, names: set[str]) -> str:
    """Say why a message with these fields cannot be sent, by the field with the most specific advice."""
    name = min(names, key=lambda each: (each not in _ADVICE, list(_ADVICE).index(each) if each in _ADVICE else 0, each))
    # a name may come from a cell's JSON, so only words are shown
    # promise: S3 a field name that is not a plain word is not shown
    shown = f"the field `{name}`" if _WORD.fullmatch(name) else "a field whose name is not a word"
    advice = _ADVICE.get(name, f"a message can have {', '.join(sorted(SENT))}")
    return f"message {number} has {shown}, which chat messages do not have; {advice}"


def tell_role(number: int, role: object) -> str:
    """Say why a message with this role cannot be sent."""
    known = _ROLES.get(role.casefold()) if isinstance(role, str) else None
    if known is not None and isinstance(role, str):
        return f"message {number} has the role {role.casefold()}, which no chat API knows; write it as {known}"
    return f"message {number} has no known role; roles are system, developer, user, assistant and tool"


def tell_mapping(names: set[str]) -> str:
    """Say why a cell with a single mapping cannot be sent."""
    inner = next((name for name in ("messages", "conversations", "conversation") if name in names), None)
    if inner is not None:
        return f"the messages are a mapping, not a list of messages: name a column that holds its `{inner}`"
    return "the messages are a mapping, not a list of at least one message"
