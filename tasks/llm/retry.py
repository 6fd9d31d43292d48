"""When a failed request is sent again: at the service's Retry-After, else after a wait that doubles."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 60.0
# Limits are counted by the minute, so a longer wait is a glitch or a day's quota. A request that comes back after a
# minute and meets 429 again loses nothing, and a run that meets nothing else stops once its patience is used up.
MAX_RETRY_AFTER_S = 60.0


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
        return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
    return None


def backoff_s(attempt: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Exponential wait with jitter before attempt `attempt` + 1: half of it is fixed, half drawn."""
    most = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt, 20))
    return uniform(most / 2, most)
