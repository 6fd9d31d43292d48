"""The options that several commands take, and how their values are read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click


class Day(click.ParamType[date]):
    """A day, as `date` writes it."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """See click.ParamType."""
        try:
            return datetime.strptime(value, "%Y-%m-%d").date()  # noqa: DTZ007 - a day has no zone
        except ValueError:
            self.fail(f"{value!r} is not a day such as 2026-11-23", param, ctx)


class Percent(click.ParamType[Decimal]):
    """A percentage from 0 to 100; a percent sign may follow it."""

    name = "PERCENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """See click.ParamType."""
        try:
            percent = Decimal(str(value).strip().removesuffix("%").strip())
        except InvalidOperation:
            percent = Decimal(-1)
        if not (percent.is_finite() and 0 <= percent <= 100):
            self.fail(f"{value!r} is not a percentage from 0 to 100", param, ctx)
        return percent


class Whole(click.ParamType[int]):
    """A whole number in a range."""

    name = "N"

    def __init__(self, least: int, most: int) -> None:
        """Both ends are included."""
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click.ParamType."""
        text = str(value)
        # int() refuses thousands of digits; no range needs 20
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
        if number is None or not self._least <= number <= self._most:
            self.fail(f"{text!r} is not a whole number from {self._least:,} to {self._most:,}", param, ctx)
        return number


class PilotRows(click.ParamType[int]):
    """A number of rows; `auto` is 0."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See click.ParamType."""
        text = str(value)
        rows = 0 if text == "auto" else int(text) if text.isascii() and text.isdecimal() else -1
        if rows < 0 or rows > 1_000_000 or text == "0":
            self.fail(f"{value!r} is neither a number of rows from 1 to 1,000,000 nor auto", param, ctx)
        return rows


# Short forms of `--set`: the option, the setting, and its help.
_SHORT = (
    ("model", "model", "NAME", "Use this model, as --set model=NAME does."),
    ("input", "input", "PATH", "Read this input, as --set input=PATH does."),
    ("output", "output", "PATH", "Write into this output, as --set output=PATH does."),
    ("budget", "budget.run_usd", "USD", "What the run may cost, as --set budget.run_usd=USD does."),
)


def override_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--set` and its short forms; the command gets all of them as `overrides`."""

    @functools.wraps(command)
    def call(overrides: Sequence[str], **given: Any) -> Any:
        short = [(name, setting, given.pop(f"short_{name}")) for name, setting, _, _ in _SHORT]
        return command(overrides=[*overrides, *_from_short(short, overrides)], **given)

    wrapped: Callable[..., Any] = call
    for name, _, value, help_text in reversed(_SHORT):
        wrapped = click.option(f"--{name}", f"short_{name}", metavar=value, help=help_text)(wrapped)
    return click.option(
        "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a setting (YAML value)."
    )(wrapped)


def _from_short(given: Iterable[tuple[str, str, str | None]], overrides: Sequence[str]) -> Iterator[str]:
    settings = {override.partition("=")[0].strip() for override in overrides}
    for name, setting, value in given:
        if value is None:
            continue
        for other in sorted(settings & {name, setting}):
            raise click.UsageError(f"--{name} and --set {other}=... both set `{setting}`; give one of them")
        yield f"{setting}={json.dumps(value)}"  # in quotes: text, whatever it looks like in YAML


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument and the options that every command about one job takes."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(command)
    command = click.option(
        "--date", "day", type=Day(), help="Day for {date} in paths; default today in the job's time zone."
    )(command)
    return click.argument("job", type=click.Path(path_type=Path))(override_options(command))
