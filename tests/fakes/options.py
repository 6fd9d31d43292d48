"""The options of the fake service: the same on the command line and in `/_control/configure`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson

from .admin_options import AdminOptions
from .batch_options import BatchOptions
from .draws import OutputLaw
from .option_kinds import (
    PROMPT_LAWS,
    BadOptionError,
    changed,
    flag,
    group,
    law,
    names,
    number,
    one_of,
    option,
    or_none,
    positive,
    prompt_law,
    ratio,
    rules,
    text,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .faults import Rule


@dataclass(frozen=True, kw_only=True)
class Options:
    """All options; two services with equal options give equal answers."""

    seed: int = option(0, whole, "what all draws depend on, in addition to the request's content")
    latency_ms: float = option(0.0, number, "mean time before an admitted request is answered")
    latency_sigma: float = option(0.0, number, "spread of a lognormal jitter that keeps the mean")
    rpm: int | None = option(None, or_none(whole), "requests admitted in any window")
    tpm: int | None = option(None, or_none(whole), "tokens admitted in any window")
    window_s: float = option(60.0, positive, "length of the sliding window of rpm and tpm")
    count_output: str = option(
        "reserved", one_of("reserved", "actual"), "reserved: input + max; actual: input + output"
    )
    prompt_tokens: str = option("estimate", prompt_law, PROMPT_LAWS)
    output_tokens: str = option("fixed:16", law, "fixed:N, lognormal:MEDIAN:SIGMA, proportional:RATIO:SIGMA")
    reasoning_tokens: int = option(0, whole, "thought before the answer, part of the completion tokens")
    cached_ratio: float = option(0.0, ratio, "share of the prompt tokens reported as cached, rounded down")
    cache_write_ratio: float = option(0.0, ratio, "share of the prompt tokens reported as written to a cache")
    service_tier: str = option(
        "default", text, "the tier that replies name, if the API has tiers; `asked`: as requests"
    )
    pad_answers: bool = option(False, flag, "answers of four characters for each completion token")
    model_suffix: str = option("", text, "what the reply adds to the model's name, such as a date")
    models: tuple[str, ...] | None = option(None, or_none(names), "the only models there are; null: all")
    require_key: str | None = option(None, or_none(text), "the key without which the answer is 401")
    faults: tuple[Rule, ...] = option((), rules, "a list of rules, see faults.py")
    remember: bool = option(True, flag, "keep attempts and bills by content (200 bytes each)")
    log: int = option(0, whole, "how many of the latest requests to keep in the log")
    log_bodies: bool = option(False, flag, "keep headers and bodies in the log too")
    arrivals: int = option(1_000_000, whole, "how many arrival times to keep (17 bytes each)")
    clock: str = option("still", one_of("still", "running"), "see clock.py")
    clock_start: float | None = option(None, or_none(number), "where the time starts; null: the real time")
    # `group` is a field, which the linter cannot know
    batch: BatchOptions = group(BatchOptions, "files and batches, see batch_options.py")  # noqa: RUF009
    admin: AdminOptions = group(AdminOptions, "the organization's figures, see admin_options.py")  # noqa: RUF009

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
        return changed(self, values)


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
