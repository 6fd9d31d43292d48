"""A failed request is sent again after the wait that the service asks for, or after a growing wait."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.llm.retry import MAX_RETRY_AFTER_S, MAX_WAIT_S, backoff_s, retry_after_s

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def _wait(**headers: str) -> float | None:
    return retry_after_s(httpx.Headers({name.replace("_", "-"): text for name, text in headers.items()}), NOW)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("5", 5),
        ("1.5", 1.5),
        (" 7 ", 7),
        ("-5", 0),
        ("-1e300", 0),
        ("60", 60),
        ("61", MAX_RETRY_AFTER_S),
        ("86400", MAX_RETRY_AFTER_S),
        ("1e309", MAX_RETRY_AFTER_S),
        ("inf", MAX_RETRY_AFTER_S),
        ("-inf", 0),
    ],
)
def test_seconds(text: str, seconds: float) -> None:
    """A wait is between 0 s and a minute; negative and absurd waits are cut to that range."""
    assert _wait(retry_after=text) == seconds


@pytest.mark.parametrize(("later", "seconds"), [(30, 30), (-30, 0), (0, 0), (3600, MAX_RETRY_AFTER_S)])
def test_a_date(later: int, seconds: float) -> None:
    """A date means the time until then, and a date in the past means now."""
    assert _wait(retry_after=format_datetime(NOW + timedelta(seconds=later), usegmt=True)) == seconds


def test_a_date_in_another_zone_or_in_none() -> None:
    """A date counts in its own zone, and in UTC if it names none."""
    assert _wait(retry_after="Mon, 23 Nov 2026 13:00:10 +0100") == 10
    assert _wait(retry_after="Mon, 23 Nov 2026 12:00:10 -0000") == 10


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "soon",
        "nan",
        "NaN",
        "-nan",
        "0x10",
        "5 seconds",
        "Mon, 99 Nov 2026",
        "Mon, 23 Nov 99999 12:00:00 GMT",
        "x" * 100_000,
    ],
)
def test_what_says_nothing_is_left_out(text: str) -> None:
    """A header that is neither a number nor a date asks for no wait and raises no error."""
    assert _wait(retry_after=text) is None
    assert _wait(retry_after_ms=text) is None


def test_milliseconds_come_first() -> None:
    """`retry-after-ms` takes precedence over Retry-After, which counts if the other is unreadable."""
    assert _wait(retry_after_ms="250", retry_after="5") == 0.25
    assert _wait(retry_after_ms="nan", retry_after="5") == 5
    assert _wait(retry_after_ms="-5") == 0
    assert _wait(retry_after_ms="999999999") == MAX_RETRY_AFTER_S
    assert _wait() is None


@settings(max_examples=300)
@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=70)
    | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,5} \d{1,3}:\d\d:\d\d ([+-]\d{1,9}|GMT)", fullmatch=True)
    | st.floats().map(str)
)
def test_no_header_raises_or_waits_for_ever(text: str) -> None:
    """For any header, there is no wait or one between 0 s and a minute."""
    for headers in ({"retry-after": text}, {"retry-after-ms": text}):
        found = retry_after_s(headers, NOW)
        assert found is None or 0 <= found <= MAX_RETRY_AFTER_S


def test_the_backoff_doubles_up_to_a_minute() -> None:
    """If the service asks for no wait, each wait is up to twice the last, at most a minute."""
    longest = [backoff_s(attempt, lambda _low, high: high) for attempt in range(1, 12)]
    assert longest[:6] == [1, 2, 4, 8, 16, 32]
    assert set(longest[6:]) == {MAX_WAIT_S}
    assert backoff_s(10**9, max) == MAX_WAIT_S


@settings(max_examples=60)
@given(st.integers(1, 100), st.integers(0, 2**32))
def test_half_of_the_backoff_is_drawn(attempt: int, seed: int) -> None:
    """Half of a wait is random, so that rows that failed together are not sent again together."""
    drawn = backoff_s(attempt, random.Random(seed).uniform)
    most = backoff_s(attempt, max)
    assert most / 2 <= drawn <= most
    assert backoff_s(attempt, min) == most / 2
