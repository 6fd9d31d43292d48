"""A signal before anything is sent: it ends the run, wherever its exception comes up and whatever becomes of it there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from parquill.flows.run import interrupted_by_signals
from parquill.tasks.errors import BadInput, Interrupted

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def _swallow(number: signal.Signals) -> None:
    """What a library does that takes any error for a failed import."""
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
    """Ctrl-C and SIGTERM end what goes on before the first request as an interruption, whatever a library makes of them."""
    error: BaseException | None = None
    try:
        with interrupted_by_signals():
            how(number)
    except BaseException as raised:  # noqa: BLE001 - a KeyboardInterrupt would end the tests, and not fail this one
        error = raised
    assert isinstance(error, Interrupted)
    assert "before anything was sent" in str(error)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_swallowed_signal_is_remembered(number: signal.Signals) -> None:
    """A signal whose exception was lost keeps the first request from being sent."""
    with interrupted_by_signals() as refuse_if_asked:
        refuse_if_asked()
        _swallow(number)
        with pytest.raises(Interrupted):
            refuse_if_asked()


def test_other_errors_and_handlers_are_as_before() -> None:
    """Without a signal an error is what it was, and afterwards signals go where they went before."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(BadInput), interrupted_by_signals():
        raise BadInput("missing")
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_command_is_imported(number: signal.Signals) -> None:
    """The console script ends with 130, in silence, when it is asked to stop before it has begun."""
    code = (
        "import os, sys, types\n"
        "class Importing(types.ModuleType):\n"
        f"    def __getattr__(self, name): os.kill(os.getpid(), {int(number)})\n"
        "sys.modules['parquill.flows.cli'] = Importing('parquill.flows.cli')\n"
        "from parquill.flows.command import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
