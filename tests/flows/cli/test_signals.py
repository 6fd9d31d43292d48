"""A signal before the first request ends the run, wherever its exception is raised and even if it is swallowed."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parquill.flows.cli.signals import interrupted_by_signals
from parquill.tasks.errors import BadInput, Interrupted

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def _swallow(number: signal.Signals) -> None:
    """Swallow the signal, like a library that treats any error as a failed import."""
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), number)


def _mistake(number: signal.Signals) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    raise ValueError


def _fail(number: signal.Signals) -> None:
    _swallow(number)
    raise BadInput("half of it was read")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("how", [lambda number: os.kill(os.getpid(), number), _mistake, _fail])
def test_a_signal_is_an_interruption(number: signal.Signals, how: Callable[[signal.Signals], None]) -> None:
    """Ctrl-C and SIGTERM before the first request end the run as an interruption.
    A library that swallows or replaces the exception changes nothing.
    """
    error: BaseException | None = None
    try:
        with interrupted_by_signals():
            how(number)
    except BaseException as raised:  # noqa: BLE001 - a KeyboardInterrupt would end all tests
        error = raised
    assert isinstance(error, Interrupted)
    assert "before anything was sent" in str(error)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_swallowed_signal_is_remembered(number: signal.Signals) -> None:
    """A signal whose exception was swallowed still prevents the first request."""
    with interrupted_by_signals() as refuse_if_asked:
        refuse_if_asked()
        _swallow(number)
        with pytest.raises(Interrupted):
            refuse_if_asked()


def test_other_errors_and_handlers_are_as_before() -> None:
    """Without a signal an error is unchanged, and the earlier signal handlers are restored afterwards."""
    before = [signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)]
    with pytest.raises(BadInput), interrupted_by_signals():
        raise BadInput("missing")
    assert [signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)] == before


@pytest.mark.integration
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_command_is_imported(number: signal.Signals) -> None:
    """A signal during the import of the command ends the console script with 130 and without output."""
    code = (
        "import os, sys, types\n"
        "class Importing(types.ModuleType):\n"
        f"    def __getattr__(self, name): os.kill(os.getpid(), {int(number)})\n"
        "sys.modules['parquill.flows.cli.commands'] = Importing('parquill.flows.cli.commands')\n"
        "from parquill.flows.cli.entry import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.integration
@pytest.mark.parametrize(("ends", "code"), [("sys.exit(5)", 5), ("sys.exit(0)", 0), ("raise ValueError", 1)])
def test_a_command_ends_without_taking_the_interpreter_down(ends: str, code: int) -> None:
    """At its end a command has flushed its output and run all exit handlers, and exits with its code.
    Modules are not torn down, because threads may still use them.
    """
    script = (
        "import atexit, sys, types\n"
        "class Hole:\n"
        "    def __del__(self, write=sys.stdout.write): write('taken down')\n"
        "def run():\n"
        "    atexit.register(print, 'closed', end='')\n"
        "    print('said', end='')\n"
        f"    {ends}\n"
        "from parquill.flows.cli.entry import main\n"
        "hole = Hole()\n"
        "sys.modules['parquill.flows.cli.commands'] = types.SimpleNamespace(main=run)\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (code, b"saidclosed")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("wb") as full:  # output is lost at the very end, so the command must fail
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, stdout=full, stderr=full, env=buffered, timeout=120, check=False)
    assert done.returncode == (code or 1)


@pytest.mark.integration
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_without_streams(closed: str) -> None:
    """A command whose output streams are closed ends with its own code, without a message of the interpreter."""
    script = (
        "import sys, types\n"
        "sys.modules['parquill.flows.cli.commands'] = types.SimpleNamespace(main=lambda: sys.exit(5))\n"
        "from parquill.flows.cli.entry import main\n"
        "main()\n"
    )
    command = ["bash", "-c", f'exec "$@" {closed}', "-", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"", b"")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_end_of_an_import(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that is being imported when a signal comes is imported completely, so that no library is left half
    loaded or prints its own traceback. The run ends right after it.
    """
    monkeypatch.syspath_prepend(tmp_path)
    name = _module(tmp_path, number)
    with pytest.raises(Interrupted), interrupted_by_signals():
        importlib.import_module(name)
        threading.Event().wait(30)  # code after the import
    assert sys.modules.pop(name).whole


def _module(folder: Path, number: signal.Signals) -> str:
    """Write a module that raises the signal and the timer's signal during its import."""
    name = f"interrupted_by_{number.name.lower()}"
    lines = [f"signal.raise_signal({int(each)})" for each in (number, signal.SIGALRM)]
    (folder / f"{name}.py").write_text("\n".join(["import signal", *lines, "whole = True"]))
    return name


@pytest.fixture
def alarms() -> Iterator[list[int]]:
    """Record alarms that reach no other handler: they would end the process."""
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    yield rung
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_no_alarm_is_left(alarms: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check right after an interrupted import raises at once, and no later alarm ends the process."""
    monkeypatch.syspath_prepend(tmp_path)
    name = _module(tmp_path, signal.SIGTERM)
    with pytest.raises(Interrupted), interrupted_by_signals() as refuse_if_asked:
        importlib.import_module(name)
        refuse_if_asked()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert alarms == []
    del sys.modules[name]
