"""The options of the fake service: the same on the command line and in `/_control/configure`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson

from .draws import OutputLaw
from .faults import Rule, read_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class BadOptionError(ValueError):
    """An option is unknown or has an impossible value."""


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BadOptionError(f"a number of at least 0 is wanted, not {value!r}")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadOptionError(f"a whole number of at least 0 is wanted, not {value!r}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadOptionError(f"true or false is wanted, not {value!r}")
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool | list | dict) or value is None:
        raise BadOptionError(f"a text is wanted, not {value!r}")
    return str(value)


def _positive(value: Any) -> float:
    number = _number(value)
    if number == 0:
        raise BadOptionError("a number above 0 is wanted")
    return number


def _ratio(value: Any) -> float:
    number = _number(value)
    if number > 1:
        raise BadOptionError(f"a number from 0 to 1 is wanted, not {value!r}")
    return number


def _law(value: Any) -> str:
    text = _text(value)
    try:
        OutputLaw.read(text)
    except ValueError as error:
        raise BadOptionError(str(error)) from None
    return text


_PROMPT_LAWS = "estimate, fixed:N, tiktoken:ENCODING or scaled:RATIO:OVERHEAD:ENCODING"


def _prompt_law(value: Any) -> str:
    text = _text(value)
    kind, _, rest = text.partition(":")
    if text == "estimate" or (kind == "fixed" and rest.isdigit()) or (kind == "tiktoken" and rest):
        return text
    parts = rest.split(":")
    if kind == "scaled" and len(parts) == 3 and all(part.replace(".", "", 1).isdigit() for part in parts[:2]):
        return text
    raise BadOptionError(f"{_PROMPT_LAWS} is wanted, not {text!r}")


def _count_output(value: Any) -> str:
    if value not in {"reserved", "actual"}:
        raise BadOptionError(f"reserved or actual is wanted, not {value!r}")
    return str(value)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise BadOptionError(f"a list of names is wanted, not {value!r}")
    return tuple(value)


def _rules(value: Any) -> tuple[Rule, ...]:
    try:
        return read_rules(value)
    except (TypeError, ValueError) as error:
        raise BadOptionError(str(error)) from None


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _option(default: Any, read: Callable[[Any], Any], about: str) -> Any:
    return field(default=default, metadata={"read": read, "about": about})


@dataclass(frozen=True, kw_only=True)
class Options:
    """All options; two services with equal options give equal answers."""

    seed: int = _option(0, _whole, "what all draws depend on, in addition to the request's content")
    latency_ms: float = _option(0.0, _number, "mean time before an admitted request is answered")
    latency_sigma: float = _option(0.0, _number, "spread of a lognormal jitter that keeps the mean")
    rpm: int | None = _option(None, _or_none(_whole), "requests admitted in any window")
    tpm: int | None = _option(None, _or_none(_whole), "tokens admitted in any window")
    window_s: float = _option(60.0, _positive, "length of the sliding window of rpm and tpm")
    count_output: str = _option("reserved", _count_output, "reserved: input + max; actual: input + output")
    prompt_tokens: str = _option("estimate", _prompt_law, _PROMPT_LAWS)
    output_tokens: str = _option("fixed:16", _law, "fixed:N, lognormal:MEDIAN:SIGMA, proportional:RATIO:SIGMA")
    reasoning_tokens: int = _option(0, _whole, "thought before the answer, part of the completion tokens")
    cached_ratio: float = _option(0.0, _ratio, "share of the prompt tokens reported as cached, rounded down")
    cache_write_ratio: float = _option(0.0, _ratio, "share of the prompt tokens reported as written to a cache")
    service_tier: str = _option("default", _text, "the tier that replies name, if the API has tiers")
    pad_answers: bool = _option(False, _flag, "answers of four characters for each completion token")
    model_suffix: str = _option("", _text, "what the reply adds to the model's name, such as a date")
    models: tuple[str, ...] | None = _option(None, _or_none(_names), "the only models there are; null: all")
    require_key: str | None = _option(None, _or_none(_text), "the key without which the answer is 401")
    faults: tuple[Rule, ...] = _option((), _rules, "a list of rules, see faults.py")
    remember: bool = _option(True, _flag, "keep attempts and bills by content (200 bytes each)")
    log: int = _option(0, _whole, "how many of the latest requests to keep in the log")
    log_bodies: bool = _option(False, _flag, "keep headers and bodies in the log too")
    arrivals: int = _option(1_000_000, _whole, "how many arrival times to keep (17 bytes each)")

    @cached_property
    def output_law(self) -> OutputLaw:
        """Return the law of completion tokens, read once."""
        return OutputLaw.read(self.output_tokens)

    @cached_property
    def fixed_prompt_tokens(self) -> int | None:
        """Return the N of `prompt_tokens: fixed:N`."""
        kind, _, rest = self.prompt_tokens.partition(":")
        return int(rest) if kind == "fixed" else None

    @cached_property
    def authorization(self) -> bytes:
        """Return the only Authorization header that `require_key` accepts."""
        return b"Bearer " + (self.require_key or "").encode()

    def changed(self, values: Mapping[str, Any]) -> Options:
        """Return these options with some changed; an unknown name or an impossible value is a BadOptionError."""
        readers = {each.name: each.metadata["read"] for each in fields(self)}
        unknown = set(values) - set(readers)
        if unknown:
            raise BadOptionError(f"unknown options {sorted(unknown)}; known are {sorted(readers)}")
        read = {}
        for name, value in values.items():
            try:
                read[name] = readers[name](value)
            except BadOptionError as error:
                raise BadOptionError(f"{name}: {error}") from None
        return replace(self, **read)


def from_command_line(arguments: list[str]) -> tuple[int, Options]:
    """Return the port and the options; each value is read as JSON or, if it is not JSON, as plain text."""
    parser = argparse.ArgumentParser(prog="fake_openai", description="A fake OpenAI-compatible service.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, written to stdout as READY <port>")
    for each in fields(Options):
        flag = "--" + each.name.replace("_", "-")
        parser.add_argument(flag, dest=each.name, default=argparse.SUPPRESS, help=each.metadata["about"])
    given = vars(parser.parse_args(arguments))
    port = given.pop("port")
    try:
        return port, Options().changed({name: _value(text) for name, text in given.items()})
    except BadOptionError as error:
        parser.error(str(error))


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
