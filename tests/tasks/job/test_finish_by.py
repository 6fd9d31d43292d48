"""`finish_by` is a time of day in the job's time zone, or a duration from the start of the run."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from parquill.tasks.errors import BadJob
from parquill.tasks.job.finish_by import PATTERN, check_finish_by, finish_time
from parquill.tasks.job.lanes import lane_of
from parquill.tasks.job.load import make_job
from parquill.tasks.money.prices import price_of
from tests.tools.small_jobs import resolved_job

PARIS = ZoneInfo("Europe/Paris")
LEAST = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "{{ x }}"}, "max_output_tokens": 10}
DAY = date(2026, 11, 30)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("06:00", datetime(2026, 11, 30, 20, 0, tzinfo=UTC), datetime(2026, 12, 1, 5, 0, tzinfo=UTC)),
        ("6:00", datetime(2026, 11, 30, 4, 59, tzinfo=UTC), datetime(2026, 11, 30, 5, 0, tzinfo=UTC)),
        ("06:00", datetime(2026, 11, 30, 5, 0, tzinfo=UTC), datetime(2026, 12, 1, 5, 0, tzinfo=UTC)),
        # the clocks go forward in the night to March 29, and back in the night to October 25
        ("06:00", datetime(2026, 3, 28, 20, 0, tzinfo=UTC), datetime(2026, 3, 29, 4, 0, tzinfo=UTC)),
        ("06:00", datetime(2026, 10, 24, 20, 0, tzinfo=UTC), datetime(2026, 10, 25, 5, 0, tzinfo=UTC)),
        ("02:30", datetime(2026, 10, 25, 0, 31, tzinfo=UTC), datetime(2026, 10, 26, 1, 30, tzinfo=UTC)),
        ("8h", datetime(2026, 3, 28, 20, 0, tzinfo=UTC), datetime(2026, 3, 29, 4, 0, tzinfo=UTC)),
        ("1d2h30m", datetime(2026, 11, 30, 0, 0, tzinfo=UTC), datetime(2026, 12, 1, 2, 30, tzinfo=UTC)),
        ("90m", datetime(2026, 11, 30, 0, 0, tzinfo=UTC), datetime(2026, 11, 30, 1, 30, tzinfo=UTC)),
    ],
)
def test_the_moment(text: str, start: datetime, end: datetime) -> None:
    """A time of day is the next one in the time zone, also in a night in which the clocks change."""
    check_finish_by(text)
    assert finish_time(text, start, PARIS).timestamp() == end.timestamp()


def test_every_time_of_day_is_in_the_next_day() -> None:
    """Whenever a run starts, its time of day comes after the start and within 25 hours."""
    for hour in range(0, 24 * 366, 7):
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour, minutes=hour % 60)
        for text in ("00:00", "02:30", "23:59"):
            wait = finish_time(text, start, PARIS).timestamp() - start.timestamp()
            assert 0 < wait <= 25 * 3_600


@pytest.mark.parametrize(
    "text", ["", "6", "24:00", "06:60", "8", "8 h", "h", "0h", "0m", "1h1d", "-8h", "6 am", "06:00:00"]
)
def test_what_is_no_time(text: str) -> None:
    """Anything else is refused, with both forms named; the schema's pattern refuses the same, except for a zero."""
    with pytest.raises(BadJob, match=r"neither a time of day such as 06:00 nor a duration such as 8h"):
        make_job({**LEAST, "model": "gpt-6-luna", "lane": "auto", "finish_by": text})
    assert text in {"0h", "0m"} or not re.fullmatch(PATTERN, text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"finish_by": "8h"}, "`finish_by` needs `lane: auto`"),
        ({"finish_by": "8h", "lane": "flex"}, "`finish_by` needs `lane: auto`"),
        ({"lane": "auto", "price": {"usd_per_mtok_input": 1, "usd_per_mtok_output": 1}}, "compares public prices"),
        ({"lane": "auto", "finish_by": 8}, "finish_by"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    """A deadline without `lane: auto`, or `lane: auto` with a price for one lane, is refused with what to do."""
    with pytest.raises(BadJob, match=re.escape(message)):
        make_job({**LEAST, "model": "gpt-6-luna", **settings})


@pytest.mark.parametrize(
    ("settings", "lane"),
    [
        ({"model": "gpt-6-luna"}, "flex"),
        ({"model": "gpt-4o-mini"}, "batch"),
        ({"model": "gpt-6-luna", "endpoint": {"api": "responses"}}, "flex"),
    ],
    ids=str,
)
def test_the_cheap_lane(settings: dict[str, Any], lane: str) -> None:
    """`lane: auto` buys flex where the model has a flex price, and else batches."""
    job = resolved_job({**LEAST, "lane": "auto", **settings})
    assert lane_of(price_of(job, DAY).asked) == lane


def test_a_model_that_is_only_sold_live() -> None:
    """Without a cheaper lane, `lane: auto` is refused."""
    job = resolved_job(
        {**LEAST, "lane": "auto", "model": "gpt-6-luna", "endpoint": {"base_url": "http://localhost:1/v1"}}
    )
    other = job.model_copy(update={"model": "mistral-small-latest"})
    with pytest.raises(BadJob, match=r"neither a flex nor a batch price.*use `lane: live`"):
        price_of(other, DAY)


def test_each_lane_has_its_own_retries() -> None:
    """What `retry` leaves open has the default of the lane in which a request is sent; what it sets holds in both."""
    job = resolved_job({**LEAST, "lane": "auto", "model": "gpt-6-luna", "finish_by": "8h"})
    assert job.in_lane("flex").retry.timeout_s == 900
    assert job.in_lane("live").retry.timeout_s == 120
    own = resolved_job({**LEAST, "lane": "auto", "model": "gpt-6-luna", "retry": {"timeout_s": 60}})
    assert own.in_lane("flex").retry.timeout_s == own.in_lane("live").retry.timeout_s == 60
    assert own.in_lane("live").lane == "live"
