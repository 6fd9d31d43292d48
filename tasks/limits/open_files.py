"""How many requests may be under way at once, by the files that this process may have open: each has a connection."""

from __future__ import annotations

import contextlib
import os
import resource

# For journals, shards, results and databases, and for Prefect, which opens loops and connections while rows are sent: a
# loop that it cannot make leaves a run that has sent everything waiting for ever.
HEADROOM = 64


def cap_by_open_files(wanted: int) -> int:
    """The number that was wanted, or fewer if the hard limit (`ulimit -Hn`) has it; the soft one is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = _open_now() + HEADROOM
    if soft != resource.RLIM_INFINITY and soft < taken + wanted:
        raised = taken + wanted if hard == resource.RLIM_INFINITY else min(taken + wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # a system may have a limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - taken))


def _open_now() -> int:
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - of Path.iterdir there is no number
    except OSError:
        return HEADROOM
