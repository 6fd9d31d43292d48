"""Months in UTC, such as 2026-11."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta

from parquill.tasks.errors import BadJob


def read_month(text: str | None, today: date) -> str:
    """Read a month such as 2026-11; None is this month. Raises BadJob."""
    if text is None:
        return f"{today:%Y-%m}"
    try:
        return f"{datetime.strptime(text, '%Y-%m').replace(tzinfo=UTC):%Y-%m}"
    except ValueError:
        raise BadJob(f"{text!r} is not a month such as 2026-11") from None


def days_of(month: str) -> list[date]:
    """Return the days of a month."""
    year, number = map(int, month.split("-"))
    return [date(year, number, day) for day in range(1, calendar.monthrange(year, number)[1] + 1)]


def month_before(month: str) -> str:
    """Return the month before a month."""
    return f"{days_of(month)[0] - timedelta(days=1):%Y-%m}"
