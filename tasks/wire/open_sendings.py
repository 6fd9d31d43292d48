"""The runs that this process sends for at the moment: opened, joined by its tasks, stopped together by a signal."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from parquill.tasks.disk.files import DISK, Disk
from parquill.tasks.disk.run import Run, load_run
from parquill.tasks.errors import Interrupted
from parquill.tasks.job import Job
from parquill.tasks.wire.client import aiohttp_transport
from parquill.tasks.wire.secrets import read_key
from parquill.tasks.wire.sending import GRACE_S, STOPPED, Sending
from parquill.tasks.wire.shared_limits import ALONE, Sharing

_open: dict[str, Sending] = {}
_ended: set[str] = set()  # runs that this process led: a task that comes late must not open one of them anew
_guard = threading.Lock()
stop_requested = threading.Event()


@contextlib.contextmanager
def sending(
    run: Run,
    transport: Callable[[], httpx.AsyncBaseTransport] = aiohttp_transport,
    disk: Disk = DISK,
    sharing: Sharing = ALONE,
) -> Iterator[Sending]:
    """Open the sender of a run for this process; on an error or a cancellation what is under way gets its grace.

    Raises BadJob when the key cannot be read, or when a request is too large for a limit that is shared.
    """
    opened = Sending(run, read_key(run.job.endpoint), transport, disk, sharing)
    with _guard:
        _open[run.run_id] = opened
        _ended.discard(run.run_id)
    try:
        if stop_requested.is_set():
            opened.request_stop(0)
        yield opened
    except BaseException:
        # whoever was asked to stop already and is asked again stops at once
        try:
            opened.close(grace_s=0 if stop_requested.is_set() else GRACE_S)
        except BaseException:  # Prefect turns the second SIGTERM into an exception, in the midst of the grace
            opened.close(grace_s=0)
            raise
        raise
    else:
        opened.close()
    finally:
        with _guard:
            _open.pop(run.run_id, None)
            _ended.add(run.run_id)


def sending_of(state: Path, run_id: str, sharing_of: Callable[[Job], Sharing] = lambda _: ALONE) -> Sending:
    """The open sender of a run in this process. A process that has none yet (another worker) opens one for its life."""
    with _guard:
        if run_id in _ended:
            raise Interrupted(STOPPED)
        if run_id not in _open:
            run = load_run(state, run_id)
            # it joins: the run was opened by the process that holds its folders
            sharing, key = sharing_of(run.job), read_key(run.job.endpoint)
            _open[run_id] = Sending(run, key, aiohttp_transport, sharing=sharing, is_first=False)
        return _open[run_id]


def request_stop_all() -> None:
    """Ask every open run of this process to stop; for signal handlers."""
    stop_requested.set()
    for opened in list(_open.values()):
        opened.request_stop()


def open_sendings() -> list[Sending]:
    """The senders that are open now, for whoever shows progress."""
    return list(_open.values())
