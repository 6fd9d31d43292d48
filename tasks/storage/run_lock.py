"""Which process leads a run, so that the processes that joined it stop when the leader is gone, for whatever reason.

RUN/leader    locked by the process that leads the run while it sends; contains a token of that leadership
RUN/workers   locked, shared, by each process that joined, until it has closed its last journal

These are kernel locks (`file_lock`), like those of the output and state folders. Watching the parent process is not
enough: workers of Dask and Ray have other parents, and PR_SET_PDEATHSIG is bound to the thread that started a process.

A new leader waits for the workers of the previous one: they may still write answers into journals that it must read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from parquill.tasks.errors import DiskFailed, FolderInUse, Interrupted
from parquill.tasks.storage.file_lock import LOCK_CHECK_INTERVAL_S, close_locked, register_locked, try_lock
from parquill.tasks.storage.folders import RunFolder

WORKERS_TIMEOUT_S: Final = 30.0  # longer than a stopped worker waits for its requests in flight
_TOKEN_BYTES: Final = 32


class RunLock:
    """The leadership of a run. `close` it when nothing more will be sent."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the leadership. Raises FolderInUse if workers of an earlier leader do not end in time, DiskFailed."""
        self._folder, self._process, deadline = folder, os.getpid(), clock() + WORKERS_TIMEOUT_S
        workers = _open(folder.workers_lock)
        try:
            # promise: C2 a new leader waits until the workers of the previous one have ended
            while not try_lock(workers, fcntl.LOCK_EX):
                if clock() >= deadline:
                    raise FolderInUse(
                        f"worker processes of an earlier start of run {folder.run_id} are still running; wait until "
                        "they end, or stop them, and run again"
                    )
                sleep(LOCK_CHECK_INTERVAL_S)
            self._leader = _open(folder.leader_lock)
            # only a worker of an earlier leader can hold it, briefly, while it checks for its leader
            while not try_lock(self._leader, fcntl.LOCK_EX):
                sleep(LOCK_CHECK_INTERVAL_S)
            _write(self._leader, folder.leader_lock)
        finally:
            close_locked(workers)

    def close(self) -> None:
        """Give up the leadership, so that remaining workers stop; remove the files if no worker needs them."""
        if self._leader < 0 or os.getpid() != self._process:  # a forked child leads nothing
            return
        descriptor, self._leader = self._leader, -1
        with contextlib.suppress(OSError):
            self._folder.leader_lock.unlink()
        close_locked(descriptor)
        with contextlib.suppress(OSError, DiskFailed):
            workers = _open(self._folder.workers_lock)
            if try_lock(workers, fcntl.LOCK_EX):
                self._folder.workers_lock.unlink()
            close_locked(workers)


class RunMember:
    """The membership of a process in a run that another process leads. `close` it after its journals are closed."""

    def __init__(self, folder: RunFolder) -> None:
        """Join the run. Raises Interrupted if no process leads it."""
        self._leader = self._workers = -1
        try:
            # in this order: a new leader waits for the workers before it begins
            self._workers = os.open(folder.workers_lock, os.O_RDWR | os.O_CLOEXEC)
            self._leader = os.open(folder.leader_lock, os.O_RDONLY | os.O_CLOEXEC)
            register_locked(self._workers, self._leader)
            self._token = os.pread(self._leader, _TOKEN_BYTES, 0)
            is_joined = try_lock(self._workers, fcntl.LOCK_SH) and self.is_led()
        except OSError:
            is_joined = False
        # promise: C7 a task that starts after the stop sends nothing
        if not is_joined:
            self.close()
            raise Interrupted(f"no process leads run {folder.run_id} any more; run the job again to resume it")

    def is_led(self) -> bool:
        """Whether the leader that this process joined still leads. Takes microseconds, so each send checks it."""
        try:
            if not try_lock(self._leader, fcntl.LOCK_SH):
                # promise: C7 a worker accepts no other leader than the one it joined
                return os.pread(self._leader, _TOKEN_BYTES, 0) == self._token
            fcntl.flock(self._leader, fcntl.LOCK_UN)
        except (
            OSError,
            ValueError,
        ):  # closed already, or the shared folder is gone: the leader is unknown, so nothing is sent
            pass
        return False

    def close(self) -> None:
        """Leave the run: a new leader no longer waits for this process."""
        descriptors, self._leader, self._workers = (self._leader, self._workers), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                close_locked(descriptor)


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskFailed(f"cannot open {path}: {error.strerror}") from None
    register_locked(descriptor)
    return descriptor


def _write(descriptor: int, path: Path) -> None:
    try:
        os.pwrite(descriptor, secrets.token_hex(_TOKEN_BYTES // 2).encode(), 0)
    except OSError as error:
        close_locked(descriptor)
        raise DiskFailed(f"cannot write {path}: {error.strerror}") from None
