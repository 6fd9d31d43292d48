"""The most memory that a process has needed, as the kernel tells it."""

from __future__ import annotations

from pathlib import Path


def peak_kib(pid: int | str = "self") -> int:
    """The peak of a process in KiB, 0 if it is gone.

    Not `ru_maxrss`: a process begins with that of the one that started it, so whatever needs less looks like nothing.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
