"""A cap on requests at once by the files that this process may open, since each request has a connection."""

from __future__ import annotations

import contextlib
import os
import resource

# For journals, shards, results and databases, and for Prefect, which opens event loops and connections during sending:
# if it cannot open a loop, a run that has sent everything waits forever.
HEADROOM = 64


def cap_by_open_files(wanted: int) -> int:
    """Return `wanted`, or fewer if the hard limit (`ulimit -Hn`) requires it; increases the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = _open_now() + HEADROOM
    if soft != resource.RLIM_INFINITY and soft < taken + wanted:
        raised = taken + wanted if hard == resource.RLIM_INFINITY else min(taken + wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # a system may have a limit that it does not report
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - taken))


def _open_now() -> int:
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - of Path.iterdir there is no number
    except OSError:
        return HEADROOM
