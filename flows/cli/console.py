"""What the terminal shows: the estimate, the progress bar, the summary.

What a command was asked for goes to stdout. Progress, warnings and errors go to stderr. A reader that has closed either
stream ends the output, not the command.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parquill.tasks.errors import ParquillError
from parquill.tasks.job.settings import Job
from parquill.tasks.llm import progress_bar
from parquill.tasks.money.figures import estimate_pairs, three_answers
from parquill.tasks.money.gate import Verdict
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.records import Estimate
from parquill.tasks.results.escaping import one_line
from parquill.tasks.results.figures import (
    cost_of,
    count_figures,
    notable_figures,
    request_figures,
    row_figures,
    source_figures,
    summary_sentences,
    token_figures,
)
from parquill.tasks.results.next_step import NOTHING, next_step
from parquill.tasks.storage.uri import join

PIPE_COLUMNS = 200  # the width of a table that no terminal shows


class _Stream(Console):
    def on_broken_pipe(self) -> None:
        """Go on without a reader; Rich would end the process."""
        self.quiet = True
        # promise: output: a reader that closes stdout does not stop a run
        drop_stream(self.file)


console = _Stream(stderr=True, highlight=False)
result = _Stream(highlight=False)


def drop_stream(stream: IO[str] | None) -> None:
    """Send what is still to be written to a stream nowhere, because nothing reads it any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr]  # None has no fileno
        os.close(null)


def print_line(text: str) -> None:
    """Print one plain line on stderr. Markup and control characters in it have no effect."""
    _print_plain(text, console)


def print_result(text: str) -> None:
    """Print one plain line of what the command was asked for, on stdout."""
    # promise: output: requested output goes to stdout
    _print_plain(text, result)


def _print_plain(text: str, to: Console) -> None:
    # promise: S4 a line printed to the terminal holds no line break or control character
    to.print(escape(one_line(text)), soft_wrap=True)


def print_text(text: str) -> None:
    """Print text on stdout as it is."""
    if sys.stdout is None:  # closed before the command began
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stream(sys.stdout)


def _print_table(pairs: dict[str, str], to: Console) -> None:
    to.print(_pairs(pairs), width=None if to.is_terminal else PIPE_COLUMNS)


class _LineHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        print_line(record.getMessage())


@contextlib.contextmanager
def journal_warnings_to_stderr() -> Iterator[None]:
    """Print warnings about journals in the terminal."""
    log, handler = logging.getLogger("parquill.journal"), _LineHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _pairs(pairs: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in pairs.items():
        table.add_row(escape(one_line(name)), escape(one_line(value)))
    return table


def show_estimate(
    job: Job,
    estimate: Estimate,
    verdict: Verdict,
    price: ModelPrice,
    completed: int = 0,
    *,
    error: ParquillError | None = None,
    is_result: bool = True,
) -> None:
    """Show the estimate; `completed` of its rows already have an outcome. Warnings go to stderr.

    With an `error`, all of it goes to stderr, and what the error says right after this is left out. So it does where
    the estimate is not what the command was asked for (`is_result`), without what the gate says next.
    """
    to, say = (result, print_result) if is_result and error is None else (console, print_line)
    pairs = estimate_pairs(estimate, completed)
    if estimate.rejected:
        pairs["rows that cannot be sent"] = ", ".join(f"{code} {n:,}" for code, n in sorted(estimate.rejected.items()))
    _print_table(pairs, to)
    if estimate.tokens_note:
        say(f"prompt tokens are {estimate.tokens_note}")
    if estimate.first_rejected and error is None:
        say(f"the first of them: {estimate.first_rejected}")
    for note in estimate.input_notes:
        print_line(f"warning: {note}")
    if estimate.reuse_note:
        say(estimate.reuse_note)
    say(f"{estimate.basis_note}; prices: {price.source}, {price.version}")
    answers = three_answers(job, estimate, verdict, datetime.now(UTC))
    for answer in answers if error is None and is_result else answers[: answers.index(verdict.sentence)]:
        say(answer)
    if not is_result and verdict.fits:
        say(verdict.sentence)
    if verdict.warning:
        print_line(f"warning: {verdict.warning}")


def _figures(summary: dict[str, Any]) -> dict[str, str]:
    rows, tokens, requests = row_figures(summary), token_figures(summary), request_figures(summary)
    return {
        "run": f"{summary['run_id']} ({summary['state']})",
        **{
            label: ", ".join(f"{name} {count}" for name, count in figures.items())
            for label, figures in (("rows", rows), ("tokens", tokens), ("requests", requests))
        },
        "cost": cost_of(summary),
        **notable_figures(summary),
        **count_figures(summary),
        **source_figures(summary),
    }


def show_summary(summary: dict[str, Any], output: Path | None, output_uri: str, *, is_result: bool = True) -> None:
    """Show what ran, what it cost, and where the files are; `output` is the local folder of `output_uri`.

    It goes to stdout, or to stderr if something else is the result there.
    """
    to, say = (result, print_result) if is_result else (console, print_line)
    _print_table(_figures(summary), to)
    for sentence in summary_sentences(summary):
        say(sentence)
    if summary["exit_code"] == 0 and summary["message"]:
        say(summary["message"])
    if (step := next_step(summary)) != NOTHING:
        say(f"what to do: {step}")
    for name in ("results", "summary.json", "report.html"):
        if output is None or (output / name).exists():
            say(join(output_uri, name) + ("/" if name == "results" else ""))


def show_bar() -> AbstractContextManager[None]:
    """Show a live bar on stderr while requests are under way: rows done, rate, spent of budget, time left."""
    return progress_bar.show_bar(console, print_line)
