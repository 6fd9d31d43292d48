"""`finish_by`: when a run with `lane: auto` is to be done, as a time of day such as 06:00 or a duration such as 8h."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

PATTERN: Final = r"^(([01]?\d|2[0-3]):[0-5]\d|(?=\d)(\d{1,2}d)?(\d{1,3}h)?(\d{1,4}m)?)$"
_TIME = re.compile(r"(\d{1,2}):(\d\d)")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?")


def check_finish_by(text: str) -> None:
    """Raise ValueError unless the text is a time of day, or a duration above zero."""
    if not re.fullmatch(PATTERN, text) or (":" not in text and not _duration(text)):
        raise ValueError(f"{text!r} is neither a time of day such as 06:00 nor a duration such as 8h or 1h30m")


def finish_time(text: str, started_at: datetime, zone: ZoneInfo) -> datetime:
    """Return when a run that started at `started_at` is to be done: at the next such time of day, or so much later."""
    match = _TIME.fullmatch(text)
    if match is None:
        return started_at + _duration(text)
    hour, minute = (int(part) for part in match.groups())
    local = started_at.astimezone(zone)
    found = local.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    if found.timestamp() <= started_at.timestamp():
        # not 24 hours later: a day may have 23 or 25
        found = (found.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
    return found


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    days, hours, minutes = (int(part or 0) for part in match.groups()) if match is not None else (0, 0, 0)
    return timedelta(days=days, hours=hours, minutes=minutes)
