"""The log of the flow or task run that is under way, for parts that work in threads of their own."""

from __future__ import annotations

import logging

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

from parquill.tasks.limits.lease_client import LogFn


def run_log() -> LogFn:
    """The log of this flow or task run; outside of one the log of this process."""
    try:
        return get_run_logger().log
    except MissingContextError:
        return logging.getLogger("parquill").log
