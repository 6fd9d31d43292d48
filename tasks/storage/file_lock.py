"""Locks of the kernel (flock) on open files.

`kill -9` releases them with the last copy of their descriptor, and on a folder that machines share they hold across
machines. A forked child would keep its parent's locks after the parent's death, so it closes its copies.
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
    """Lock an open file without waiting; False when another descriptor of it has a lock in the way. Raises OSError."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def register_locked(*descriptors: int) -> None:
    """Have forked children close their copies of these descriptors."""
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
    for descriptor in _descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_forget_in_child)
