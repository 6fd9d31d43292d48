"""When a failed request is sent again: after the service's Retry-After, else after a wait that doubles each time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 60.0
# Limits are counted per minute, so a longer wait is a mistake or a daily quota. A request that meets 429 again after a
# minute loses nothing, and a run that meets only 429 stops once its patience is used up.
# promise: service: Retry-After is capped at one minute
MAX_RETRY_AFTER_S = 60.0


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds to wait, by `retry-after-ms` or Retry-After (seconds or a date); None without either.

    Negative and past times count as 0, times over a minute as a minute.
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
        return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
    return None


def backoff_s(attempt: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return the exponential wait in seconds before attempt `attempt` + 1: half of it is fixed, half is random."""
    most = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt, 20))
    return uniform(most / 2, most)
