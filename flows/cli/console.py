"""What the terminal shows: the estimate, the progress bar, the summary."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from parquill.tasks.errors import ParquillError
from parquill.tasks.money.amounts import format_usd
from parquill.tasks.money.gate import Verdict
from parquill.tasks.money.prices import ModelPrice
from parquill.tasks.records import Estimate
from parquill.tasks.results.count_figures import counted_line, worst_line
from parquill.tasks.results.escaping import one_line
from parquill.tasks.results.excess import has_excess, money_sentences
from parquill.tasks.results.reply_warnings import reply_sentences
from parquill.tasks.storage.uri import join

if TYPE_CHECKING:
    from parquill.tasks.llm.run_sender import RunSender

PLAIN_INTERVAL_S = 5.0
POLL_INTERVAL_S = 0.2
console = Console(stderr=True, highlight=False)


def print_line(text: str) -> None:
    """Print one plain line. Markup and control characters in it have no effect."""
    console.print(escape(one_line(text)), soft_wrap=True)


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
    estimate: Estimate,
    verdict: Verdict,
    price: ModelPrice,
    completed: int = 0,
    *,
    error: ParquillError | None = None,
    is_refused: bool = False,
) -> None:
    """Show the estimate; `completed` of its rows already have an outcome.

    With an `error`, or if the budget refuses the run (`is_refused`), what the refusal says right after this is left
    out here.
    """
    pairs = {
        "rows": f"{estimate.rows:,}",
        "rows to send": f"{estimate.to_send - completed:,}" + (f" ({completed:,} are completed)" if completed else ""),
        "prompt tokens": f"{estimate.prompt_tokens:,}",
        "completion tokens, expected": f"{estimate.completion_tokens_expected:,}",
        "cost, expected": format_usd(estimate.expected_nano),
        **interval(estimate),
        "cost, p90": format_usd(estimate.p90_nano),
        "cost, worst case": format_usd(estimate.worst_nano),
    }
    if estimate.rejected:
        pairs["rows that cannot be sent"] = ", ".join(f"{code} {n:,}" for code, n in sorted(estimate.rejected.items()))
    console.print(_pairs(pairs))
    if estimate.tokens_note:
        print_line(f"prompt tokens are {estimate.tokens_note}")
    if estimate.first_rejected and error is None:
        print_line(f"the first of them: {estimate.first_rejected}")
    for note in estimate.input_notes:
        print_line(f"warning: {note}")
    if estimate.reuse_note:
        print_line(estimate.reuse_note)
    print_line(f"{estimate.basis}; prices: {price.source}, {price.version}")
    if error is None and not is_refused:
        print_line(verdict.sentence)
    if verdict.warning:
        print_line(f"warning: {verdict.warning}")


def interval(estimate: Estimate) -> dict[str, str]:
    """Return the 90 % interval of the cost; empty if there were no answers to learn from."""
    if estimate.low_nano is None or estimate.high_nano is None:
        return {}
    return {"cost, 90 % interval": f"{format_usd(estimate.low_nano)} to {format_usd(estimate.high_nano)}"}


def _figures(summary: dict[str, Any]) -> dict[str, str]:
    rows, tokens, estimate = summary["rows"], summary["tokens"], summary["estimate"]
    shown = {name: f"{count:,}" for name, count in rows.items() if count or name in {"total", "ok"}}
    pairs = {
        "run": f"{summary['run_id']} ({summary['state']})",
        "rows": ", ".join(f"{name} {count}" for name, count in shown.items()),
        "tokens": ", ".join(f"{name} {count:,}" for name, count in tokens.items()),
        "requests": ", ".join(f"{name} {count:,}" for name, count in summary["requests"].items()),
        "cost": f"${summary['paid_usd']} (expected ${estimate['cost_usd_expected']})",
    }
    if summary["paid_usd"] != summary["cost_usd"]:
        pairs["cost of its rows"] = f"${summary['cost_usd']} (rows that were redone include their earlier cost)"
    if summary["in_doubt_usd"].strip("0") != ".":
        pairs["in doubt"] = f"${summary['in_doubt_usd']}"
    if has_excess(summary):
        pairs["beyond the reservations"] = f"${summary['over_reserved_usd']}"
    if summary["saved_usd"].strip("0") != ".":
        pairs["saved by reuse"] = f"${summary['saved_usd']}"
    if (counted := summary.get("counted")) and counted["answers"]:
        pairs["prompt tokens"] = counted_line(counted)
        pairs |= {"the count farthest off": worst} if (worst := worst_line(counted)) else {}
    if "price_as" in summary:
        other = summary["price_as"]
        pairs[f"the same usage on {other['model']}"] = f"${other['cost_usd']}"
    if prices := summary.get("prices"):
        pairs["prices"] = f"{prices['source']}, {prices['version']}"
    if summary["duration_s"] is not None:
        pairs["time"] = f"{summary['duration_s']:,.1f} s"
    return pairs


def show_summary(summary: dict[str, Any], output: Path | None, output_uri: str) -> None:
    """Show what ran, what it cost, and where the files are; `output` is the local folder of `output_uri`."""
    console.print(_pairs(_figures(summary)))
    counted = summary.get("counted")
    if counted and counted["meaning"]:
        print_line(counted["meaning"])
    for sentence in [*reply_sentences(summary), *money_sentences(summary)]:
        print_line(sentence)
    if summary["exit_code"] == 0 and summary["message"]:
        print_line(summary["message"])
    for place in ("results", "summary.json", "report.html"):
        if output is None or (output / place).exists():
            print_line(join(output_uri, place) + ("/" if place == "results" else ""))


@contextlib.contextmanager
def show_bar() -> Iterator[None]:
    """Show a live bar while requests are under way: rows done, rows per second, spent of budget, time left."""
    over = threading.Event()
    target = _bar if console.is_terminal else _lines
    thread = threading.Thread(target=target, args=(over,), name="parquill-bar", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)


def _spent(run_sender: RunSender) -> str:
    budget = run_sender.budget
    return (
        format_usd(budget.settled) + (f" of {format_usd(budget.limit)}" if budget.limit is not None else "") + " spent"
    )


def _active_sender() -> RunSender | None:
    import sys

    module = sys.modules.get("parquill.tasks.llm.open_senders")
    run_sender: list[RunSender] = module.open_senders() if module else []
    return run_sender[0] if run_sender else None


class _NoticePrinter:
    """Prints each notice of a run once: soft limits that are passed, outages, how limits are shared."""

    def __init__(self) -> None:
        self._warned = self._told = self._of_service = 0

    def print_new(self, run_sender: RunSender) -> None:
        """Print the notices that are new."""
        # copies: other threads append to these lists
        warnings, told, service = (
            list(run_sender.soft_limits.told),
            list(run_sender.shared.messages),
            list(run_sender.sender.told),
        )
        warned = [*warnings[self._warned :], *service[self._of_service :]]
        for text in [*(f"warning: {text}" for text in warned), *told[self._told :]]:
            print_line(text)
        self._warned, self._told, self._of_service = len(warnings), len(told), len(service)


def _bar(over: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[spent]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = None
        news = _NoticePrinter()
        while not over.wait(POLL_INTERVAL_S):
            run_sender = _active_sender()
            if run_sender is None:
                continue
            news.print_new(run_sender)
            progress = run_sender.sender.progress
            rate = f"{progress.rate(time.monotonic()):,.0f} rows/s"
            if task is None:
                task = bar.add_task("completing", total=progress.total, rate=rate, spent="")
            bar.update(task, completed=progress.done, rate=rate, spent=_spent(run_sender))


def _lines(over: threading.Event) -> None:
    news, said = _NoticePrinter(), time.monotonic()
    while not over.wait(POLL_INTERVAL_S):
        run_sender = _active_sender()
        if run_sender is None:
            continue
        news.print_new(run_sender)
        if time.monotonic() - said < PLAIN_INTERVAL_S:
            continue
        said = time.monotonic()
        progress = run_sender.sender.progress
        now = time.monotonic()
        left = progress.eta_s(now)
        told = f"{progress.done:,} of {progress.total:,} rows, {progress.rate(now):,.0f} rows/s, {_spent(run_sender)}"
        print_line(told + ("" if left is None else f", {left:,.0f} s left"))
