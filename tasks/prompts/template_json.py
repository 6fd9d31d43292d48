"""What `| tojson` writes for values of a cell for which JSON has no type.

A date, a time and a timestamp are ISO 8601 strings, a duration is an ISO 8601 duration (`P1DT2H0.5S`), a UUID is its
usual string. A decimal is a JSON number with all its digits: a string would look like text to the model, and binary
floating point would change it. Bytes and all other values have no obvious form in a prompt, so they are refused.
"""

from __future__ import annotations

import json
import re
import secrets
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from parquill.tasks.prompts.template_nulls import is_json_null

_NS = 1_000_000_000


class NotJson(Exception):
    """A value that has no form in JSON; the text is the name of its type."""


def dumps(value: Any, **options: Any) -> str:
    """`json.dumps` for Jinja2's `tojson`, which passes `indent`. Raises NotJson, NullValue, ValueError.

    NullValue is for a cell that is null as a whole; inside a document a null is a value.
    """
    decimals: list[str] = []
    # json writes only its own number types, so a decimal replaces a mark afterwards. No cell can guess the mark.
    mark = secrets.token_hex(16)

    def default(item: Any) -> Any:
        if isinstance(item, Decimal) and item.is_finite():
            # promise: input: `tojson` writes a decimal with all its digits
            decimals.append(format(item, "f"))
            return f"{mark}{len(decimals) - 1}"
        return _plain(item)

    text = json.dumps(value, sort_keys=True, default=default, **options)
    return re.sub(rf'"{mark}(\d+)"', lambda match: decimals[int(match[1])], text) if decimals else text


def _plain(item: Any) -> str | None:
    """Return a value in the form of JSON. Raises NotJson, NullValue."""
    if is_json_null(item):
        return None
    if isinstance(item, datetime | date | time):
        # promise: input: `tojson` writes dates in ISO 8601
        return item.isoformat()
    if isinstance(item, timedelta):
        return iso_duration(item)
    if isinstance(item, UUID):
        return str(item)
    raise NotJson(type(item).__name__)


def iso_duration(length: timedelta) -> str:
    """Return an ISO 8601 duration in days, hours, minutes and seconds, exact to the nanosecond."""
    # a timedelta of pandas also has nanoseconds
    # promise: input: `tojson` writes durations exact to the nanosecond
    nanoseconds: int = getattr(length, "nanoseconds", 0)
    total = ((length.days * 86_400 + length.seconds) * 1_000_000 + length.microseconds) * 1_000 + nanoseconds
    seconds, fraction = divmod(abs(total), _NS)
    days, seconds = divmod(seconds, 86_400)
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    rest = f".{fraction:09d}".rstrip("0") if fraction else ""
    parts = (
        f"{hours}H" * (hours > 0) + f"{minutes}M" * (minutes > 0) + f"{seconds}{rest}S" * (seconds > 0 or rest != "")
    )
    text = f"{days}D" * (days > 0) + (f"T{parts}" if parts else "")
    return ("-" if total < 0 else "") + "P" + (text or "T0S")
