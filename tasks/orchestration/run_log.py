"""The log of the current flow or task run, for code that works in its own threads."""

from __future__ import annotations

import logging

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

from parquill.tasks.limits.lease_client import LogFn


def run_log() -> LogFn:
    """Return the log function of the current flow or task run; outside a run, that of this process."""
    try:
        return get_run_logger().log
    except MissingContextError:
        return logging.getLogger("parquill").log
