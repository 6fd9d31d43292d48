"""Start a command that dies with its parent: `python die_with_parent.py PARENT_PID COMMAND...`, run as a file.

A test run that is killed with SIGKILL cannot stop its services, but the kernel can. This process asks the kernel for it
and then becomes the command (the setting survives exec), because a preexec_fn may deadlock when there are threads. The
kernel's "parent" is the *thread* that started the process: start services in a thread that outlives them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the death signal, check that the parent still lives, become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise SystemExit("the parent died before its service started")
    os.execv(command[0], command)  # noqa: S606 - the command is our own


if __name__ == "__main__":
    main()
