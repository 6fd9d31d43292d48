"""What a terminal and a notebook show while a run is under way."""

from __future__ import annotations

import io
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from parquill.tasks.llm import progress_bar
from parquill.tasks.llm.progress import Progress
from parquill.tasks.llm.progress_bar import cell_of, format_rate, progress_text, show_bar, show_progress_of_python


def _sender() -> Any:
    """Return a sender that has done 30 of 40 rows since second 0."""
    budget = SimpleNamespace(submitted_nano=0, limit_nano=100_000_000)
    progress = Progress(total=40, done=30, started=0.0)
    return SimpleNamespace(
        lane=SimpleNamespace(warnings=["the service <is> slow"], waiting_for=None),
        progress=progress,
        budget=budget,
        settled_nano=240_000,
        soft_limits=SimpleNamespace(messages=[]),
        limit_messages=[],
    )


@pytest.mark.parametrize(
    ("per_second", "shown"),
    [(0.0, "0 rows/min"), (0.27, "16 rows/min"), (9.9, "594 rows/min"), (10.0, "10 rows/s"), (2321.4, "2,321 rows/s")],
)
def test_a_slow_rate_is_shown_by_the_minute(per_second: float, shown: str) -> None:
    """If a model completes a row every few seconds, its rate is shown per minute and not as 0 rows/s."""
    assert format_rate(per_second) == shown


def test_one_line_says_what_a_run_waits_for() -> None:
    """While a run waits for its batches, the line says so, with the money that is reserved in them."""
    sender: Any = _sender()
    sender.lane.waiting_for, sender.budget.submitted_nano = "2 batches", 30_000_000
    shown = progress_text(sender, 10.0)
    assert shown == "30 of 40 rows, $0.00024 of $0.10 spent, $0.03 reserved in batches, waiting for 2 batches"


def test_one_line_says_how_far_a_run_is() -> None:
    """The line of a pipe and of a notebook has rows, rate, money and the time that is left, until there is none."""
    sender = _sender()
    line = "30 of 40 rows, 180 rows/min, $0.00024 of $0.10 spent"
    assert progress_text(sender, 10.0) == f"{line}, 3 s left"
    assert cell_of(sender, 10.0) == {
        "text/plain": f"{line}, 3 s left",
        "text/html": f'<progress value="30" max="40"></progress> {line}, 3 s left',
    }
    sender.progress.done = 40
    sender.budget.limit_nano = None
    assert progress_text(sender, 10.0) == "40 of 40 rows, 240 rows/min, $0.00024 spent"


class _Output:
    """The output of a notebook's cell; `shown` has each of its states."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []
        self.begun = threading.Event()

    def display(self, shown: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert (raw, display_id) == (True, True)
        self.shown.append(shown)
        self.begun.set()
        return SimpleNamespace(update=lambda shown, raw: self.shown.append(shown) if raw else None)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the process into a notebook in which a run is under way."""
    output = _Output()
    shell = SimpleNamespace(kernel=True)
    module: Any = SimpleNamespace(get_ipython=lambda: shell, display=output)
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setattr(progress_bar, "POLL_INTERVAL_S", 0.001)
    sender = _sender()
    monkeypatch.setattr(progress_bar, "_active_sender", lambda: sender)
    return SimpleNamespace(output=output, sender=sender)


def test_a_notebook_shows_a_bar(notebook: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A cell has one output that follows the run and shows its last figures, and each warning once."""
    with show_progress_of_python():
        assert notebook.output.begun.wait(30)
        notebook.sender.progress.done = 40
    assert notebook.output.shown[0]["text/plain"].startswith("30 of 40 rows")
    assert notebook.output.shown[-1]["text/plain"].startswith("40 of 40 rows")
    assert capsys.readouterr().err == "warning: the service <is> slow\n"


def test_a_command_shows_one_bar(notebook: Any) -> None:
    """A flow shows no bar within a command that shows its own, and does so again afterwards."""
    out = io.StringIO()
    with show_bar(Console(file=out), out.write), show_progress_of_python():
        pass
    assert notebook.output.shown == []
    with show_progress_of_python():
        assert notebook.output.begun.wait(30)


def test_a_script_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """If stderr is no terminal and there is no notebook, only Prefect's log says how far a run is."""
    with show_progress_of_python():
        assert not [thread for thread in threading.enumerate() if thread.name == "parquill-bar"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_notices_of_a_short_run_are_shown(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:  # noqa: FBT001 - parametrized
    """If a run is over before the first look at it, its warnings are shown all the same, and those of the run before
    are not shown again.
    """
    said: list[str] = []
    latest = [_sender()]
    monkeypatch.setattr(progress_bar, "_active_sender", lambda: None)
    monkeypatch.setattr(progress_bar, "_latest_sender", lambda: latest[0])
    console = Console(file=io.StringIO(), force_terminal=is_terminal)
    with show_bar(console, said.append):
        latest[0] = _sender()
    assert said == ["warning: the service <is> slow"]
    with show_bar(console, said.append):
        pass
    assert len(said) == 1
