"""When a failed request is sent again: tenacity keeps the schedule, the service's Retry-After has the last word."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
# Limits are counted by the minute, so longer waits are glitches or a day's quota: who comes back after a minute to be
# told 429 again loses nothing, and a run that hears nothing else stops when its patience is used up.
LONGEST_RETRY_AFTER_S = 60.0


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that a reply asks to wait, by `retry-after-ms` or Retry-After (seconds or a date); None if it asks none.

    Negative and past times count as 0, longer ones than a minute as a minute.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()[:64]
        if not text:
            continue
        try:
            seconds = float(text) * scale
        except ValueError:
            try:
                when = parsedate_to_datetime(text)
            except (ValueError, TypeError, OverflowError):
                continue
            when = when if when.tzinfo else when.replace(tzinfo=UTC)
            seconds = (when - now).total_seconds()
        if seconds != seconds:  # NaN  # noqa: PLR0124
            continue
        return min(max(0.0, seconds), LONGEST_RETRY_AFTER_S)
    return None


def backoff_s(attempt: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Exponential wait with jitter before attempt `attempt` + 1: half of it is fixed, half drawn."""
    most = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt, 20))
    return uniform(most / 2, most)


class Again(Exception):
    """This attempt failed and may be repeated, after `wait_s` if the service asked for it."""

    def __init__(self, wait_s: float | None) -> None:
        super().__init__()
        self.wait_s = wait_s


def wait_for(state: RetryCallState) -> float:
    """Tenacity's wait: what the service asked for, else the backoff."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, Again) and error.wait_s is not None:
        return error.wait_s
    return backoff_s(state.attempt_number)
