"""The runs that this process sends for at the moment: opened, joined by its tasks, stopped together by a signal."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from parquill.tasks.job.api_key import read_key
from parquill.tasks.job.settings import Job
from parquill.tasks.limits.shared import ALONE, Sharing
from parquill.tasks.llm.client import aiohttp_transport
from parquill.tasks.llm.run_sender import GRACE_TIMEOUT_S, RunSender
from parquill.tasks.prompts.run import Run, load_run
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.run_lock import RunLock, RunMember

_open: dict[str, RunSender] = {}
_guard = threading.Lock()
stop_requested = threading.Event()


@contextlib.contextmanager
def open_sender(
    run: Run,
    transport: Callable[[], httpx.AsyncBaseTransport] = aiohttp_transport,
    disk: Disk = DISK,
    sharing: Sharing = ALONE,
) -> Iterator[RunSender]:
    """Open the sender of a run for this process; on an error or a cancellation what is under way gets its grace.

    Raises BadJob when the key cannot be read, or when a request is too large for a limit that is shared.
    """
    key = read_key(run.job.endpoint)
    with contextlib.closing(RunLock(run.folder)):
        run_sender = RunSender(run, key, transport, disk, sharing)
        with _guard:
            _open[run.run_id] = run_sender
        with _closed_at_the_end(run.run_id, run_sender):
            yield run_sender


@contextlib.contextmanager
def _closed_at_the_end(run_id: str, run_sender: RunSender) -> Iterator[None]:
    try:
        if stop_requested.is_set():
            run_sender.request_stop(0)
        yield
    except BaseException:
        # whoever was asked to stop already and is asked again stops at once
        try:
            run_sender.close(grace_s=0 if stop_requested.is_set() else GRACE_TIMEOUT_S)
        except BaseException:  # Prefect turns the second SIGTERM into an exception, in the midst of the grace
            run_sender.close(grace_s=0)
            raise
        raise
    else:
        run_sender.close()
    finally:
        with _guard:
            _open.pop(run_id, None)


def sender_for(state: Path, run_id: str, sharing_of: Callable[[Job], Sharing] = lambda _: ALONE) -> RunSender:
    """Give the open sender of a run in this process; a process that has none yet (another worker) joins the run.

    The sender of a process that joined closes itself when the process that leads the run has ended it, is gone, or is
    another one. Raises Interrupted when no process leads the run.
    """
    with _guard:
        if run_id not in _open or _open[run_id].is_closed:
            run = load_run(state, run_id)
            _open[run_id] = _join(run, sharing_of(run.job))
        return _open[run_id]


def _join(run: Run, sharing: Sharing) -> RunSender:
    key, member = read_key(run.job.endpoint), RunMember(run.folder)
    try:
        return RunSender(run, key, aiohttp_transport, sharing=sharing, member=member)
    except BaseException:
        member.close()
        raise


def _forget_in_child() -> None:
    """Have a forked child join the runs of its parent: the threads of the parent's senders are not in it."""
    global _guard  # noqa: PLW0603 - another thread may have held it at the fork
    _guard = threading.Lock()
    _open.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def request_stop_all() -> None:
    """Ask every open run of this process to stop; for signal handlers."""
    stop_requested.set()
    for run_sender in list(_open.values()):
        run_sender.request_stop()


def open_senders() -> list[RunSender]:
    """The senders that are open now, for whoever shows progress."""
    return list(_open.values())
