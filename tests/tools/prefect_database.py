"""The database with which the Prefect servers of tests begin.

A new server runs every migration of Prefect, which takes 5 s of CPU: half of its start. So the first server keeps a
copy of what it has made, and later ones begin with the copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

# Prefect's version decides the tables; nothing else is in the copy.
MIGRATED = Path(__file__).parents[2] / "build" / f"prefect-{importlib.metadata.version('prefect')}.db"


@contextlib.contextmanager
def database_in(home: Path, kept: Path = MIGRATED) -> Iterator[bool]:
    """Put a copy of `kept` into a new PREFECT_HOME, for a server that starts in this block; yield whether there is one.

    Without one, the block makes the database, and a copy is kept if it raises nothing. Other processes wait for it. A
    database that `home` has already stays as it is.
    """
    own = home / "prefect.db"
    with contextlib.ExitStack() as held:
        if not own.exists():
            held.enter_context(_lock(kept.with_suffix(".lock")))
            if not kept.exists():
                yield False
                _copy(own, kept)
                return
    if not own.exists():
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, own)
    yield True


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy(database: Path, kept: Path) -> None:
    """Copy the database of a running server as one file; the copy is whole or not there."""
    partial = kept.with_suffix(f".{os.getpid()}")
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(partial)) as copy:
        source.backup(copy)
    partial.replace(kept)
