"""Kernel locks (flock) on open files.

The kernel releases a lock when the last copy of its descriptor is closed, also after `kill -9`. On a folder that
machines share the locks hold across machines. A forked child would keep its parent's locks after the parent's death, so
it closes its copies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from typing import Final

LOCK_CHECK_INTERVAL_S: Final = 0.05
_descriptors: set[int] = set()  # of this process
_mutex = threading.Lock()


def try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file without waiting; False if another descriptor holds a conflicting lock. Raises OSError."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def register_locked(*descriptors: int) -> None:
    """Register descriptors whose copies a forked child must close."""
    with _mutex:
        _descriptors.update(descriptors)


def close_locked(descriptor: int) -> None:
    """Close a registered descriptor, which releases its lock. Raises OSError."""
    with _mutex:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _forget_in_child() -> None:
    """Close a forked child's copies: a lock lasts until its last copy is closed."""
    global _mutex  # noqa: PLW0603 - another thread may have held it at the fork
    _mutex = threading.Lock()
    # promise: C6 a forked child process does not keep its parent's run locked
    for descriptor in _descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_forget_in_child)
