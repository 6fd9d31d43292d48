"""What a person sees in the terminal: the estimate, the bar, the summary."""

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
from parquill.tasks.money.correction import counted_line, worst_line
from parquill.tasks.money.gate import Verdict
from parquill.tasks.money.prices import Price, dollars
from parquill.tasks.records import Estimate
from parquill.tasks.results.escaping import one_line
from parquill.tasks.results.excess import has_excess, money_sentences
from parquill.tasks.results.reply_warnings import reply_sentences
from parquill.tasks.storage.uri import join

if TYPE_CHECKING:
    from parquill.tasks.llm.run_sender import Sending

PLAIN_INTERVAL_S = 5.0
POLL_INTERVAL_S = 0.2
console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One plain line; nothing in it is taken for markup, nor obeyed by the terminal."""
    console.print(escape(one_line(text)), soft_wrap=True)


class _Saying(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        say(record.getMessage())


@contextlib.contextmanager
def journals_are_heard() -> Iterator[None]:
    """Say in the terminal what is reported of journals."""
    log, handler = logging.getLogger("parquill.journal"), _Saying()
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
    price: Price,
    completed: int = 0,
    *,
    error: ParquillError | None = None,
    is_refused: bool = False,
) -> None:
    """The estimate; `completed` rows of it have their outcome already.

    What a refusal says right after it is not said here too: that of an `error`, or, if it `is_refused`, of the budget.
    """
    pairs = {
        "rows": f"{estimate.rows:,}",
        "rows to send": f"{estimate.to_send - completed:,}" + (f" ({completed:,} are completed)" if completed else ""),
        "prompt tokens": f"{estimate.prompt_tokens:,}",
        "completion tokens, expected": f"{estimate.completion_tokens_expected:,}",
        "cost, expected": dollars(estimate.cost_expected),
        **interval(estimate),
        "cost, p90": dollars(estimate.cost_p90),
        "cost, worst case": dollars(estimate.cost_worst),
    }
    if estimate.rejected:
        pairs["rows that cannot be sent"] = ", ".join(f"{code} {n:,}" for code, n in sorted(estimate.rejected.items()))
    console.print(_pairs(pairs))
    if estimate.tokens_note:
        say(f"prompt tokens are {estimate.tokens_note}")
    if estimate.first_rejected and error is None:
        say(f"the first of them: {estimate.first_rejected}")
    for note in estimate.input_notes:
        say(f"warning: {note}")
    if estimate.reuse_note:
        say(estimate.reuse_note)
    say(f"{estimate.basis}; prices: {price.source}, {price.version}")
    if error is None and not is_refused:
        say(verdict.sentence)
    if verdict.warning:
        say(f"warning: {verdict.warning}")


def interval(estimate: Estimate) -> dict[str, str]:
    """The 90 % interval, where there were answers to learn from."""
    if estimate.cost_low is None or estimate.cost_high is None:
        return {}
    return {"cost, 90 % interval": f"{dollars(estimate.cost_low)} to {dollars(estimate.cost_high)}"}


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
        pairs["cost of its rows"] = f"${summary['cost_usd']} (those done anew also carry what they cost before)"
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


def show_summary(summary: dict[str, Any], output: Path | None, named: str) -> None:
    """What ran, what it cost, where the files are; `named` is how people call the output, `output` its local folder."""
    console.print(_pairs(_figures(summary)))
    counted = summary.get("counted")
    if counted and counted["meaning"]:
        say(counted["meaning"])
    for sentence in [*reply_sentences(summary), *money_sentences(summary)]:
        say(sentence)
    if summary["exit_code"] == 0 and summary["message"]:
        say(summary["message"])
    for place in ("results", "summary.json", "report.html"):
        if output is None or (output / place).exists():
            say(join(named, place) + ("/" if place == "results" else ""))


@contextlib.contextmanager
def show_bar() -> Iterator[None]:
    """A live bar while requests are under way: rows done, rows a second, spent of budget, time left."""
    over = threading.Event()
    target = _bar if console.is_terminal else _lines
    thread = threading.Thread(target=target, args=(over,), name="parquill-bar", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)


def _spent(opened: Sending) -> str:
    budget = opened.budget
    return dollars(budget.settled) + (f" of {dollars(budget.limit)}" if budget.limit is not None else "") + " spent"


def _opened() -> Sending | None:
    import sys

    module = sys.modules.get("parquill.tasks.llm.open_senders")
    opened: list[Sending] = module.open_sendings() if module else []
    return opened[0] if opened else None


class _News:
    """Says once what the parts of a run report: soft limits that are passed, outages, how limits are shared."""

    def __init__(self) -> None:
        self._warned = self._told = self._of_service = 0

    def say(self, opened: Sending) -> None:
        """Say what is new."""
        # they grow meanwhile
        warnings, told, service = list(opened.soft_limits.told), list(opened.shared.told), list(opened.sender.told)
        warned = [*warnings[self._warned :], *service[self._of_service :]]
        for text in [*(f"warning: {text}" for text in warned), *told[self._told :]]:
            say(text)
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
        news = _News()
        while not over.wait(POLL_INTERVAL_S):
            opened = _opened()
            if opened is None:
                continue
            news.say(opened)
            progress = opened.sender.progress
            rate = f"{progress.pace(time.monotonic()):,.0f} rows/s"
            if task is None:
                task = bar.add_task("completing", total=progress.total, rate=rate, spent="")
            bar.update(task, completed=progress.done, rate=rate, spent=_spent(opened))


def _lines(over: threading.Event) -> None:
    news, said = _News(), time.monotonic()
    while not over.wait(POLL_INTERVAL_S):
        opened = _opened()
        if opened is None:
            continue
        news.say(opened)
        if time.monotonic() - said < PLAIN_INTERVAL_S:
            continue
        said = time.monotonic()
        progress = opened.sender.progress
        now = time.monotonic()
        left = progress.left_s(now)
        told = f"{progress.done:,} of {progress.total:,} rows, {progress.pace(now):,.0f} rows/s, {_spent(opened)}"
        say(told + ("" if left is None else f", {left:,.0f} s left"))
