"""Measure how long the real meters take to let requests through, with a clock that is set forward."""

from __future__ import annotations

from parquill.tasks.limits.meters import RateMeter


def time_by_meters(limit: int, rows: int, tokens: int, *, by_tokens: bool) -> float:
    """Return the seconds until the last of `rows` requests of `tokens` tokens has left, if all wait from the start."""
    meter, now = RateMeter(limit, by_tokens=by_tokens, now=0.0), 0.0
    for _ in range(rows):
        while (wait := meter.wait_s(now, tokens)) > 0:
            now += wait
        meter.take(now, tokens)
    return now
