"""The live progress of the run under way, in a terminal or a notebook: rows done, rate, spent of budget, time left.

It reads the figures of the open sender in its own thread, five times a second, so a run need not know that it is shown.
"""

from __future__ import annotations

import contextlib
import contextvars
import html
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from parquill.tasks.money.amounts import format_usd

if TYPE_CHECKING:
    from rich.console import Console

    from parquill.tasks.llm.run_sender import RunSender

PLAIN_INTERVAL_S = 5.0
POLL_INTERVAL_S = 0.2
Say = Callable[[str], object]
_shown = threading.Lock()  # held while a bar is shown: a command that calls a flow shows its own


@contextlib.contextmanager
def show_bar(console: Console, say: Say) -> Iterator[None]:
    """Show a bar while requests are under way; in a stream that is no terminal, a line every five seconds.

    `say` gets the notices of the run: soft limits that are passed, outages, how limits are shared.
    """
    earlier = _latest_sender()
    with _shown_by(partial(_bar, console, say, earlier) if console.is_terminal else partial(_lines, say, earlier)):
        yield


@contextlib.contextmanager
def show_progress_of_python() -> Iterator[None]:
    """Show a bar in a notebook, or if stderr is a terminal; otherwise nothing, since Prefect's log says what happens.

    Nothing either if a bar is shown already, as of the command that calls the flow.
    """
    # promise: api: a flow that a command calls shows no second bar
    target = None if _shown.locked() else _target()
    with contextlib.nullcontext() if target is None else _shown_by(target):
        yield


def _target() -> Callable[[threading.Event], None] | None:
    display = _notebook_display()
    if display is not None:
        return partial(_cell, display)
    if sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console

        return partial(_bar, Console(stderr=True, highlight=False), _to_stderr, _latest_sender())
    return None


def _notebook_display() -> Callable[..., Any] | None:
    """Return IPython's `display` in a notebook; None elsewhere, also in IPython's own terminal."""
    module: Any = sys.modules.get("IPython")  # imported in every notebook
    shell = None if module is None else module.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    found: Callable[..., Any] = module.display.display
    return found


@contextlib.contextmanager
def _shown_by(target: Callable[[threading.Event], None]) -> Iterator[None]:
    over = threading.Event()
    # in the caller's context: a notebook knows by it to which cell the output belongs
    work = partial(contextvars.copy_context().run, target, over)
    thread = threading.Thread(target=work, name="parquill-bar", daemon=True)
    is_first = _shown.acquire(blocking=False)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)
        if is_first:
            _shown.release()


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - the stream of the notebook or the script that called


def spent(run_sender: RunSender) -> str:
    """Return what is spent of the budget."""
    budget = run_sender.budget
    limit = f" of {format_usd(budget.limit_nano)}" if budget.limit_nano is not None else ""
    waiting = f", {format_usd(budget.submitted_nano)} reserved in batches" if budget.submitted_nano else ""
    return f"{format_usd(run_sender.settled_nano)}{limit} spent{waiting}"


def format_rate(per_second: float) -> str:
    """Format a rate of rows for people; a slow one by the minute."""
    return f"{per_second:,.0f} rows/s" if per_second >= 10 else f"{per_second * 60:,.0f} rows/min"


def progress_text(run_sender: RunSender, now: float) -> str:
    """Return rows, rate, money and time left in one line; `now` is of the monotonic clock."""
    progress = run_sender.progress
    line = f"{progress.done:,} of {progress.total:,} rows, {format_rate(progress.rate(now))}, {spent(run_sender)}"
    if (waiting_for := run_sender.lane.waiting_for) is not None:
        return f"{progress.done:,} of {progress.total:,} rows, {spent(run_sender)}, waiting for {waiting_for}"
    left_s = progress.eta_s(now)
    return line if left_s is None or progress.done >= progress.total else f"{line}, {left_s:,.0f} s left"


def _active_sender() -> RunSender | None:
    module = sys.modules.get("parquill.tasks.llm.open_senders")
    run_sender: list[RunSender] = module.open_senders() if module else []
    return run_sender[0] if run_sender else None


def _latest_sender() -> RunSender | None:
    module = sys.modules.get("parquill.tasks.llm.open_senders")
    return next(iter(module.latest), None) if module else None


def _looks(over: threading.Event, earlier: RunSender | None) -> Iterator[tuple[RunSender, bool]]:
    """Yield the open sender at each look, with False; at the end the latest one once more, with True.

    A run may be over between two looks, and its notices must not be lost. `earlier` is the sender of the run before.
    """
    while not over.wait(POLL_INTERVAL_S):
        if (run_sender := _active_sender()) is not None:
            yield run_sender, False
    last = _latest_sender()
    # promise: ui: the notices of a short run are shown
    if last is not None and last is not earlier:
        yield last, True


class _NoticePrinter:
    """Says each notice of a run once: soft limits that are passed, outages, how limits are shared."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._warned = self._shared = self._of_service = 0

    def print_new(self, run_sender: RunSender) -> None:
        """Say the notices that are new."""
        # copies: other threads append to these lists
        warnings, messages, service = (
            list(run_sender.soft_limits.messages),
            run_sender.limit_messages,
            list(run_sender.lane.warnings),
        )
        warned = [*warnings[self._warned :], *service[self._of_service :]]
        for text in [*(f"warning: {text}" for text in warned), *messages[self._shared :]]:
            self._say(text)
        self._warned, self._shared, self._of_service = len(warnings), len(messages), len(service)


def _bar(console: Console, say: Say, earlier: RunSender | None, over: threading.Event) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
        news = _NoticePrinter(say)
        for run_sender, is_last in _looks(over, earlier):
            news.print_new(run_sender)
            if is_last:
                break
            progress = run_sender.progress
            rate = format_rate(progress.rate(time.monotonic()))
            if task is None:
                task = bar.add_task("completing", total=progress.total, rate=rate, spent="")
            waiting_for = run_sender.lane.waiting_for
            what = "completing" if waiting_for is None else f"waiting for {waiting_for}"
            bar.update(task, description=what, completed=progress.done, rate=rate, spent=spent(run_sender))


def _lines(say: Say, earlier: RunSender | None, over: threading.Event) -> None:
    news, printed, line = _NoticePrinter(say), time.monotonic(), ""
    for run_sender, is_last in _looks(over, earlier):
        news.print_new(run_sender)
        if is_last or time.monotonic() - printed < PLAIN_INTERVAL_S:
            continue
        printed, before = time.monotonic(), line
        line = progress_text(run_sender, printed)
        if line != before:  # a batch may take a day
            say(line)


def _cell(display: Callable[..., Any], over: threading.Event) -> None:
    """Show a bar of HTML below a notebook's cell, which needs no widgets; it stays there when the run ends."""
    news = _NoticePrinter(_to_stderr)
    run_sender: RunSender | None = None
    handle: Any = None
    is_last = False
    while not is_last:
        is_last = over.wait(POLL_INTERVAL_S)
        run_sender = _active_sender() or run_sender  # after the end, the last figures once more
        if run_sender is None:
            continue
        news.print_new(run_sender)
        shown = cell_of(run_sender, time.monotonic())
        if handle is None:
            handle = display(shown, raw=True, display_id=True)
        else:
            handle.update(shown, raw=True)


def cell_of(run_sender: RunSender, now: float) -> dict[str, str]:
    """Return the output of a notebook's cell, by media type."""
    text, progress = progress_text(run_sender, now), run_sender.progress
    bar = f'<progress value="{progress.done}" max="{max(1, progress.total)}"></progress>'
    return {"text/plain": text, "text/html": f"{bar} {html.escape(text)}"}
