"""The most memory that a process has needed, as the kernel reports it."""

from __future__ import annotations

from pathlib import Path


def peak_kib(pid: int | str = "self") -> int:
    """Return the peak of a process in KiB, 0 if it is gone.

    `ru_maxrss` does not work here: a process begins with the value of its parent, so a process that needs less shows
    the parent's peak.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
