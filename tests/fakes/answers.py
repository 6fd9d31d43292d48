"""From a request to its answer: what was requested, its tokens, and the text of the answer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from .schemas import document

if TYPE_CHECKING:
    from .options import Options

# Each API and its parameter names for the maximum of output tokens; OpenAI refuses the others.
MAXIMUM_NAMES = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "completions": ("max_tokens",),
}
_ALL_MAXIMUM_NAMES = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_REASONING_MODELS = ("o1", "o3", "o4", "gpt-5")
_FILLER = "lorem ipsum dolor sit amet "


class BadRequestError(ValueError):
    """A request that a genuine service answers with 400 (or `status`)."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


class Usage(NamedTuple):
    """What is billed; cached and cache_write are parts of prompt, reasoning is part of completion."""

    prompt: int
    cached: int
    completion: int
    reasoning: int
    cache_write: int = 0


@dataclass(slots=True)
class Answer:
    """What the model answered; the APIs differ only in how they write it."""

    text: str | None
    finish: str
    usage: Usage
    refusal: str | None = None
    service_tier: str = "default"


@dataclass(slots=True)
class Call:
    """One request, read and checked."""

    api: str
    model: str
    payload: dict[str, Any]
    digest: bytes
    contents: list[str]
    last_user: str
    prompt_tokens: int
    maximum: int | None


def read_call(api: str, body: bytes, options: Options) -> Call:
    """Read the body; `digest` is the sha256 of its JSON with sorted keys and no blanks."""
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequestError("We could not parse the JSON body of your request.") from None
    if not isinstance(payload, dict):
        raise BadRequestError("The body must be a JSON object.")
    model = payload.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequestError("you must provide a model parameter", param="model")
    if options.models is not None and model not in options.models:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise BadRequestError(message, param="model", code="model_not_found", status=404)
    if payload.get("stream") or payload.get("n", 1) != 1:
        raise BadRequestError("This service answers whole, and once: no stream, n is 1.", param="stream")
    if model.startswith(_REASONING_MODELS) and payload.get("temperature", 1) != 1:
        message = (
            f"Unsupported value: 'temperature' does not support {payload['temperature']} with this model. "
            "Only the default (1) value is supported."
        )
        raise BadRequestError(message, param="temperature", code="unsupported_value")
    contents, last_user = _CONTENTS[api](payload)
    digest = sha256(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)).digest()
    maximum = _maximum(api, model, payload)
    return Call(api, model, payload, digest, contents, last_user, _prompt_tokens(api, contents, options), maximum)


def _maximum(api: str, model: str, payload: dict[str, Any]) -> int | None:
    found = None
    for name in _ALL_MAXIMUM_NAMES:
        value = payload.get(name)
        if value is None:
            continue
        if name not in MAXIMUM_NAMES[api]:
            raise BadRequestError(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        if name == "max_tokens" and api == "chat" and model.startswith(_REASONING_MODELS):
            message = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            raise BadRequestError(message, param=name, code="unsupported_parameter")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or found is not None:
            raise BadRequestError(f"Invalid '{name}': one integer of at least 1 is wanted.", param=name)
        found = value
    return found


def _chat_contents(payload: dict[str, Any]) -> tuple[list[str], str]:
    return _message_contents(payload.get("messages"), "messages")


def _responses_contents(payload: dict[str, Any]) -> tuple[list[str], str]:
    asked = payload.get("input")
    contents, last_user = ([asked], asked) if isinstance(asked, str) else _message_contents(asked, "input")
    instructions = payload.get("instructions")
    return ([instructions, *contents] if isinstance(instructions, str) else contents), last_user


def _completions_contents(payload: dict[str, Any]) -> tuple[list[str], str]:
    prompt = payload.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise BadRequestError("Invalid 'prompt': one text is wanted.", param="prompt")
    return [prompt], prompt


def _message_contents(messages: Any, param: str) -> tuple[list[str], str]:
    if not isinstance(messages, list) or not messages:
        raise BadRequestError(f"Invalid '{param}': a list of messages is wanted.", param=param)
    contents: list[str] = []
    last_user = ""
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequestError(f"Invalid '{param}': each message needs a role.", param=param)
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        if not isinstance(content, str):
            raise BadRequestError(f"Invalid '{param}': each message needs a content.", param=param)
        contents.append(content)
        if message["role"] == "user":
            last_user = content
    return contents, last_user


_CONTENTS = {"chat": _chat_contents, "responses": _responses_contents, "completions": _completions_contents}


def _prompt_tokens(api: str, contents: list[str], options: Options) -> int:
    fixed = options.fixed_prompt_tokens
    if fixed is not None:
        return fixed
    if options.prompt_tokens == "estimate":
        size = sum(len(text) if text.isascii() else len(text.encode()) for text in contents)
        return max(1, size // 4) + 3 * len(contents)
    law, *figures, name = options.prompt_tokens.split(":")
    if law == "scaled":  # like a service with its own tokenizer and a template around each prompt
        ratio, overhead = (float(figure) for figure in figures)
        return round(ratio * _counted(api, contents, name) + overhead)
    return _counted(api, contents, name)


def _counted(api: str, contents: list[str], name: str) -> int:
    encoding = _encoding(name)
    counted = sum(len(encoding.encode_ordinary(text)) for text in contents)
    # The public formula for chat: 3 per message, 1 for its role's name, 3 to prime the answer.
    return int(counted) if api == "completions" else int(counted) + 4 * len(contents) + 3


@cache
def _encoding(name: str) -> Any:
    # Imported here: most services never need it, and it must find its vocabularies without the network.
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(Path(__file__).parents[2] / "data" / "encodings"))
    import tiktoken

    return tiktoken.get_encoding(name)


def echo(contents: list[str], last_user: str | None = None) -> str:
    """Return the text that answers a prompt; tests call it to know what to expect."""
    text = contents[-1] if last_user is None else last_user
    prefix = sha256("\0".join(contents).encode()).hexdigest()[:12]
    return f"echo:{prefix}:{text[:40]}"


def make_answer(call: Call, options: Options) -> Answer:
    """Return the answer as a function of the prompt, its tokens drawn and cut at the request's maximum."""
    drawn = options.output_law.draw(options.seed, call.digest, call.prompt_tokens) + options.reasoning_tokens
    cut = call.maximum is not None and drawn > call.maximum
    completion = call.maximum if cut and call.maximum is not None else drawn
    reasoning = min(options.reasoning_tokens, completion)
    cached, written = (int(call.prompt_tokens * ratio) for ratio in (options.cached_ratio, options.cache_write_ratio))
    usage = Usage(call.prompt_tokens, cached, completion, reasoning, written)
    text = echo(call.contents, call.last_user)
    schema = _schema(call)
    if schema is not None:
        text = orjson.dumps(document(schema, text, call.digest)).decode()
    elif options.pad_answers and len(text) < 4 * (completion - reasoning):
        missing = 4 * (completion - reasoning) - len(text)
        text += (_FILLER * (missing // len(_FILLER) + 1))[:missing]
    if cut:
        text = cut_text(text, completion - reasoning, whole_json=schema is not None)
    tier = options.service_tier
    if tier == "asked":
        tier = call.payload.get("service_tier", "default")
    return Answer(text, "length" if cut else "stop", usage, service_tier=tier)


def cut_text(text: str, tokens: int, *, whole_json: bool) -> str:
    """Keep four characters per token; a JSON document always loses its end, as in reality."""
    return text[: min(4 * tokens, len(text) - 1 if whole_json else len(text))]


def _schema(call: Call) -> dict[str, Any] | None:
    """Return the JSON schema that the answer must fit; chat nests it one level deeper than responses."""
    holder = call.payload.get("text") if call.api == "responses" else call.payload
    if not isinstance(holder, dict):
        return None
    wanted = holder.get("format" if call.api == "responses" else "response_format")
    if not isinstance(wanted, dict) or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    inner = wanted if call.api == "responses" else wanted.get("json_schema")
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise BadRequestError("Missing required parameter: the schema of 'response_format'.", param="response_format")
    schema: dict[str, Any] = inner["schema"]
    return schema
