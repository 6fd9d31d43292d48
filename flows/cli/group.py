"""The `parquill` command itself: its help, the order of its commands, and what all of them print as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
import orjson

from parquill.tasks.errors import ParquillError

ORDER = (
    "init",
    "schema",
    "preview",
    "estimate",
    "try",
    "run",
    "report",
    "export",
    "diff",
    "spend",
    "reconcile",
    "doctor",
    "approve",
    "serve-model",
)
EXIT_CODES = """\b
Exit codes: 0 done · 2 bad job or input, nothing sent · 3 refused by the budget or an approval, nothing sent except a
pilot · 4 stopped by a budget on the way · 5 finished, more rows not ok than tolerated · 130 interrupted · 1 anything
else. After 4 and 130 the same command resumes where it stopped."""


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout, escaped in ASCII where the terminal's encoding lacks its characters."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # JSON can escape it in ASCII
        text = json.dumps(orjson.loads(text), indent=2)
    from parquill.flows.cli.console import print_text

    print_text(text + "\n")


class _InOrder(click.Group):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """See click.Group."""
        return sorted(self.commands, key=ORDER.index)


@click.group(
    cls=_InOrder, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="parquill")
def cli() -> None:
    """Bulk LLM completions from Parquet to Parquet, on budget, run by Prefect.

    Start with `parquill init job.yaml`, look at `preview` and `estimate`, then `run`.
    """


class Reported(Exception):
    """An error whose details the command has printed as JSON already."""

    def __init__(self, error: ParquillError) -> None:
        super().__init__(str(error))
        self.error = error
