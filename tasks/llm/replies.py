"""Reads replies, one class per API: the answer, why it ended, the service's labels, its usage.

What counts as the answer:

- The text, or a refusal in the model's own words. Reasoning next to it is not a part of the answer.
- Calls of tools, as a JSON list. Text next to them is the first item of the list: {type: text, text: ...}.
- The Responses API may send several messages. Those of the phase `final_answer` are the answer, if there are any; those
  of the phase `commentary` never are.
- A text of only white space is no answer (`empty`), and neither is reasoning without text; both are billed.

A reply that reports a failure is none of these, see `failures`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from parquill.tasks.llm.bodies import END, events
from parquill.tasks.llm.failures import BROKEN, Failure, failure_of
from parquill.tasks.llm.finish_reasons import ending_of, named_reason
from parquill.tasks.llm.outcomes import Rule
from parquill.tasks.llm.usage import read_usage
from parquill.tasks.records import Usage

MAX_LABEL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service answered; `code` is the line of the table of outcomes (`ok`, `max_output_tokens`, ...).

    `usage` is None if it is unusable; then `least` is what is known of it. `usage_flag` is a key of `usage.FLAGS`.
    `note` is shown after the sentence of the table's line.
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
    note: str | None = None

    def sentence(self, rule: Rule) -> str:
        """Return the sentence for the row, by a line of the table."""
        return f"{rule.sentence}: {self.note}" if self.note and rule.code == self.code else rule.sentence


class Answer(NamedTuple):
    """The content of a reply: `text` is None if there is none, `reason` is the service's finish reason."""

    text: str | None = None
    reason: Any = None
    native: Any = None  # the model's own finish reason, if a router adds it to its own
    is_refusal: bool = False
    calls: list[Any] | None = None
    has_reasoning: bool = False
    inner: dict[str, Any] | None = None  # the choice

    @property
    def has_text(self) -> bool:
        """Whether there is anything to read."""
        return bool(self.calls) or (self.text is not None and not self.text.isspace() and self.text != "")

    @property
    def shown_reason(self) -> str | None:
        """The finish reason that the service reports, or else the model's own."""
        given = self.reason if isinstance(self.reason, str) else named_reason(self.reason)
        return given or named_reason(self.native)

    @property
    def bad_reason(self) -> str | None:
        """The finish reason, of the two, that says why the answer is not whole."""
        is_native = ending_of(self.reason) in {"ok", None} and ending_of(self.native) not in {"ok", None}
        return clean_label(named_reason(self.native) if is_native else self.shown_reason)

    def whole(self) -> str | None:
        """Return the text, or the calls with the text in front."""
        try:
            return _with_calls(self.text, self.calls) if self.calls else self.text
        except RecursionError:
            return self.text

    def code(self, text: str | None) -> str:
        """Return the line of the table of outcomes; `text` is what is kept of the answer."""
        if self.is_refusal:
            return "refusal"
        ending = ending_of(self.reason, self.native) or "ok"
        if ending != "ok":
            return ending
        # promise: answers: a row with an empty answer is not ok
        if text is not None and text.strip():
            return "ok"
        return "no_answer" if text is None and not self.has_reasoning else "empty"

    def note(self, code: str, usage: Usage | None) -> str | None:
        """Return what to show after the sentence of that line, if anything."""
        has_reasoned = self.has_reasoning or bool(usage and usage.reasoning)
        if code == "empty" and self.has_reasoning:
            return (
                "the reply holds only reasoning. If the reasoning is the answer, start the server without its "
                "reasoning parser; otherwise lower the reasoning effort or raise max_output_tokens"
            )
        if code == "max_output_tokens" and has_reasoned and not self.has_text:
            return "the reasoning used up all tokens before the answer began; raise it or lower the reasoning effort"
        if code in _NAMED:
            return f"finish reason {self.bad_reason}"
        return None


# Lines with more than one finish reason.
_NAMED = frozenset({"context_window", "cut_off", "unusable_answer"})


class ChatReplies:
    """Reads replies to POST /chat/completions."""

    def document(self, data: bytes, *, is_stream: bool = False) -> dict[str, Any] | None:
        """Return the object of a 2xx reply, also if it came as a stream that was not asked for; else None."""
        found = self._join(events(data)) if is_stream else parse_json(data)
        return _of_list(found)

    def read(self, data: bytes, *, is_stream: bool = False) -> Reply | Failure | None:
        """Read a 2xx reply: an answer or the failure that it reports; None if it is no reply of this API."""
        document = self.document(data, is_stream=is_stream)
        if document is None:
            return None
        answer = self._answer(document)
        tier = clean_label(document.get("service_tier"))
        found = Answer() if answer is None else answer
        ending = ending_of(found.reason, found.native)
        failure = failure_of(
            document,
            inner=found.inner,
            ending=ending,
            reason=found.bad_reason if ending in BROKEN else None,
            has_text=found.has_text,
            service_tier=tier,
        )
        if failure is not None or answer is None:
            return failure
        usage, flag, least = read_usage(document)
        text = answer.whole()
        text = None if text is None else _repair(text)
        if usage is not None and usage.completion == 0 and text:
            usage, flag, least = None, None, usage  # a text of no tokens: the figures cannot be trusted
        code = answer.code(text)
        return Reply(
            code,
            text,
            clean_label(answer.shown_reason),
            clean_label(document.get("model")),
            clean_label(document.get("id")),
            usage,
            flag,
            least,
            tier,
            answer.note(code, usage),
        )

    def _join(self, parts: Iterable[Any]) -> dict[str, Any] | None:
        """Join the parts of a stream into one reply: texts are joined, for all else the last value counts."""
        joined: dict[str, Any] = {}
        choice: dict[str, Any] = {}
        texts: dict[str, list[str]] = {}
        calls: dict[int, dict[str, Any]] = {}
        is_whole = False
        for part in parts:
            if not isinstance(part, dict):
                is_whole |= part == END
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
        # promise: M2 a stream with its end mark counts as complete
        if choice.get("finish_reason") is None and "usage" not in joined and not is_whole:
            choice["finish_reason"] = "aborted"  # a stream without its end
        whole = choice.get("message")
        choice |= {"message": whole if isinstance(whole, dict) else message, "text": message.get("text")}
        return {**joined, "choices": [choice]}

    def _answer(self, reply: dict[str, Any]) -> Answer | None:
        """Return the content of a reply; None if it is no reply of this API."""
        choice = _choice(reply)
        if choice is None:
            return None
        found = choice.get("message")
        message: dict[str, Any] = found if isinstance(found, dict) else {}
        reason, native = choice.get("finish_reason"), choice.get("native_finish_reason")
        if isinstance(message.get("refusal"), str) and message["refusal"]:
            return Answer(message["refusal"], reason, native, is_refusal=True, inner=choice)
        calls, single = message.get("tool_calls"), message.get("function_call")
        if not calls and isinstance(single, dict) and single:  # the predecessor of `tool_calls`
            calls = [{"type": "function", "function": single}]
        return Answer(
            _text(message.get("content")),
            reason,
            native,
            calls=calls if isinstance(calls, list) else None,
            has_reasoning=_has_reasoning(message),
            inner=choice,
        )


class CompletionsReplies(ChatReplies):
    """Reads replies to POST /completions."""

    def _answer(self, reply: dict[str, Any]) -> Answer | None:
        choice = _choice(reply)
        if choice is None:
            return None
        reason, native = choice.get("finish_reason"), choice.get("native_finish_reason")
        return Answer(_text(choice.get("text")), reason, native, has_reasoning=_has_reasoning(choice), inner=choice)


class ResponsesReplies(ChatReplies):
    """Reads replies to POST /responses."""

    def _join(self, parts: Iterable[Any]) -> dict[str, Any] | None:
        """Return the reply from the last event of a stream that holds it whole; an `error` event is an end too."""
        whole = None
        for part in parts:
            if isinstance(part, dict) and isinstance(part.get("response"), dict):
                whole = part["response"]
            elif isinstance(part, dict) and part.get("type") == "error":
                whole = {**(whole or {}), "error": part.get("error") or part}
        return whole

    def _answer(self, reply: dict[str, Any]) -> Answer | None:
        output, status = reply.get("output"), reply.get("status")
        if not isinstance(output, list):
            # a reply without an answer (yet) may have no output
            return Answer(reason=status) if ending_of(status) in {"broken_answer", "not_ready"} else None
        items = [item for item in output if isinstance(item, dict)]
        contents = [part for item in _messages(items) for part in item["content"] if isinstance(part, dict)]
        texts = [part["text"] for part in contents if isinstance(part.get("text"), str)]
        refusals = [part["refusal"] for part in contents if isinstance(part.get("refusal"), str)]
        details = reply.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        if refusals:
            return Answer(refusals[0], reason, status, is_refusal=True)
        return Answer(
            "".join(texts) if texts else None,
            reason,
            status,
            calls=[item for item in items if _is(item, _CALLS)],
            has_reasoning=any(_is(item, _REASONING) for item in items),
        )


_CALLS = frozenset({"function_call", "custom_tool_call"})
_REASONING = frozenset({"reasoning", "thinking"})


def _is(part: dict[str, Any], kinds: frozenset[str]) -> bool:
    kind = part.get("type")
    return isinstance(kind, str) and kind in kinds


def _messages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages of a Responses reply that are its answer."""
    found = [i for i in items if i.get("type") == "message" and isinstance(i.get("content"), list)]
    final = [item for item in found if item.get("phase") == "final_answer"]
    # promise: answers: commentary is never part of the answer
    return final or [item for item in found if item.get("phase") != "commentary"]


def _of_list(document: Any) -> dict[str, Any] | None:
    """Return the reply, also out of the list into which Gemini wraps an error."""
    if isinstance(document, list) and len(document) == 1 and isinstance(document[0], dict) and "error" in document[0]:
        return document[0]
    return document if isinstance(document, dict) else None


def _choice(reply: dict[str, Any]) -> dict[str, Any] | None:
    """Return the first choice; empty if the list has none, None without a list."""
    choices = reply.get("choices")
    if not isinstance(choices, list):
        return None
    return choices[0] if choices and isinstance(choices[0], dict) else {}


def _has_reasoning(message: dict[str, Any]) -> bool:
    """Whether a message holds reasoning: in its own field, or as parts of the content (Mistral)."""
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    if any(_is(part, _REASONING) for part in parts):
        return True
    found = [message.get(name) for name in ("reasoning_content", "reasoning", "thinking", "reasoning_details")]
    texts = [value.strip() if isinstance(value, str) else value for value in found]
    return any(isinstance(value, str | list | dict) and bool(value) for value in texts)


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


def _text(value: Any) -> str | None:
    if isinstance(value, list):  # some services send the text in parts
        parts = [part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)]
        value = "".join(parts) if parts else None
    return value if isinstance(value, str) else None


def _with_calls(text: str | None, calls: list[Any]) -> str:
    """Return the calls of tools as JSON, with the text next to them in front. Raises RecursionError."""
    beside = [{"type": "text", "text": text}] if text is not None and text.strip() else []
    return json.dumps([*beside, *calls], ensure_ascii=False)


def _repair(text: str) -> str:
    # a lone surrogate cannot be written as UTF-8, and would make its whole part of the results fail
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_label(value: Any) -> str | None:
    """Return a service's label in a safe form: at most 200 characters, without control characters for terminals."""
    if not isinstance(value, str):
        return None
    if len(value) <= MAX_LABEL_CHARACTERS and value.isprintable():  # as nearly every label
        return value
    return "".join(c if c.isprintable() else "?" for c in _repair(value[:MAX_LABEL_CHARACTERS]))


def parse_json(data: bytes) -> Any:
    """Parse JSON, also what RFC 8259 forbids but services send (lone surrogates, NaN); None if it is not JSON.

    Surrogates are repaired later, and usage that is NaN is not used: the answer next to it is billed, so it is kept.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
