"""An estimate says how much to ask for, how long the run takes, whether it fits and who must approve."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquill.tasks.job.load import make_job
from parquill.tasks.job.settings import Job
from parquill.tasks.money.duration import least_duration
from parquill.tasks.money.figures import (
    ask_for,
    estimate_pairs,
    format_duration,
    format_round,
    how_long,
    how_much,
    three_answers,
)
from parquill.tasks.money.gate import check_budget
from parquill.tasks.money.model_price import ModelPrice, PriceBand
from parquill.tasks.records import WORST_CASE, Estimate
from tests.tasks.money.pace import time_by_meters

USD = 1_000_000_000
NOW = datetime(2026, 11, 30, 22, 10, tzinfo=UTC)
PRICE = ModelPrice("m", (PriceBand(0, 1, 1, 1, 1),), None, "a test", "2026-08-01")


def _job(**settings: Any) -> Job:
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "{{ x }}"}, "model": "m"}
    return make_job({**least, "max_output_tokens": 100, **settings})


KNOWN = Estimate(
    rows=180_000,
    to_send=180_000,
    prompt_tokens=9_000_000,
    completion_tokens_expected=3_600_000,
    expected_nano=6_400_000_000,
    p90_nano=6_904_000_000,
    worst_nano=12_100_000_000,
    basis="history",
    largest_request=500,
    exact=True,
    low_nano=6_100_000_000,
    high_nano=7_000_000_000,
    reserved_tokens=27_000_000,
)
UNKNOWN = replace(
    KNOWN, basis=WORST_CASE, expected_nano=KNOWN.worst_nano, p90_nano=KNOWN.worst_nano, low_nano=None, high_nano=None
)


def test_how_much_with_history() -> None:
    """With history or a pilot, an estimate shows the expected cost, its bound, the most, and the amount to ask for."""
    expected = "expected $6.40, nine in ten below $6.90, at most $12.10: ask for $7"
    assert how_much(KNOWN) == expected
    assert how_much(replace(KNOWN, basis="pilot")) == expected
    assert estimate_pairs(KNOWN)["cost, 90 % interval"] == "$6.10 to $7.00"


def test_a_worst_case_is_not_expected() -> None:
    """Without history, an estimate shows the maximum and how to get an expected cost.

    The word `expected` is not in the verdict, the table or the summary.
    """
    assert how_much(UNKNOWN) == "at most $12.10; for an expected cost run `parquill estimate JOB --pilot 100`"
    for budget in ({}, {"run_usd": 20}, {"run_usd": 5}, {"approval_usd": 1}):
        job = _job(budget=budget)
        _, *others = three_answers(job, UNKNOWN, check_budget(job, UNKNOWN, PRICE), NOW)
        assert others
        assert not [answer for answer in others if "expected" in answer]
    assert not [name for name in estimate_pairs(UNKNOWN) if "expected" in name]


def test_nothing_to_pay() -> None:
    """If nothing is left to send, or the price is zero, the estimate says so and names no amount to ask for."""
    assert how_much(replace(KNOWN, to_send=0)) == "nothing is left to send"
    assert how_much(replace(KNOWN, expected_nano=0, p90_nano=0, worst_nano=0)) == "the price of this model is $0"


@pytest.mark.parametrize(
    ("nano", "expected"),
    [
        (6_904_000_000, "$7"), (6_900_000_000, "$6.90"), (12_100_000_001, "$13"), (123_000_000_000, "$130"),
        (1_234_567_000_000, "$1,300"), (234_000_000, "$0.24"), (23_400_000, "$0.03"), (4_200_000, "$0.01"), (1, "$0.01"),
    ],
)  # fmt: skip
def test_a_sum_to_ask_for(nano: int, expected: str) -> None:
    """The amount to ask for is the 90 % bound, rounded up to two digits and to whole cents."""
    assert format_round(ask_for(nano)) == expected


@given(st.integers(0, 10**15))
def test_a_sum_to_ask_for_is_enough(nano: int) -> None:
    """The amount to ask for is never less than the bound, and above a dollar at most a tenth more."""
    asked = ask_for(nano)
    assert asked >= max(nano, USD // 100)
    assert nano < USD or asked <= nano * 1.1


def test_how_long() -> None:
    """The slowest limit is named, with the time of day in the job's time zone, and the day if it is another one."""
    job = _job(limits={"requests_per_minute": 500}, timezone="Europe/Paris")
    expected = "at least 6 h at 500 requests a minute; done about 05:10 CET on Tuesday, December 1"
    assert how_long(job, KNOWN, 180_000, NOW) == expected
    assert how_long(job, KNOWN, 500, NOW) == "at least 60 s at 500 requests a minute"
    both = _job(limits={"requests_per_minute": 500, "tokens_per_minute": 50_000})
    assert str(how_long(both, KNOWN, 180_000, NOW)).startswith(
        "at least 9 h at 50,000 tokens a minute; done about 07:10"
    )
    slow = replace(KNOWN, latency_s=1.25)
    expected = "at least 59 min with 64 requests at once that take 1.2 s each; done about 23:08 UTC"
    assert how_long(_job(), slow, 180_000, NOW) == expected


def test_nothing_is_guessed() -> None:
    """Without limits and without earlier latencies, no duration is shown."""
    assert how_long(_job(), UNKNOWN, 180_000, NOW) is None
    assert least_duration(_job(limits={"requests_per_minute": 5}), UNKNOWN, 0) is None


@pytest.mark.parametrize(
    ("limits", "estimate", "left", "seconds"),
    [
        ({"requests_per_minute": 500}, KNOWN, None, 180_000 / 500 * 60),
        ({"requests_per_minute": 500}, KNOWN, 90_000, 90_000 / 500 * 60),
        ({"tokens_per_minute": 100_000}, KNOWN, None, 27_000_000 / 100_000 * 60),  # as reserved
        ({"tokens_per_minute": 100_000, "count_output": "actual"}, KNOWN, None, 12_600_000 / 100_000 * 60),
        ({"tokens_per_minute": 100_000, "count_output": "actual"}, UNKNOWN, None, 9_000_000 / 100_000 * 60),
        ({"max_at_once": 10}, replace(KNOWN, latency_s=2.0), None, 180_000 / 10 * 2.0),
        ({"max_at_once": 64}, replace(KNOWN, latency_s=2.0), 3, 2.0),  # at least as long as one answer
        ({"max_at_once": 1, "requests_per_minute": 60}, replace(KNOWN, latency_s=0.5), 600, 600.0),
    ],
)
def test_the_least_duration(limits: dict[str, Any], estimate: Estimate, left: int | None, seconds: float) -> None:
    """The longest bound counts: requests, tokens as the service counts them, or the latency of requests at once."""
    found = least_duration(_job(limits=limits), estimate, left)
    assert found is not None
    assert found.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(("rows", "tokens"), [(300, 50), (1_000, 50), (5_000, 50), (2_500, 400), (700, 3_000)])
@pytest.mark.parametrize("by_tokens", [False, True])
def test_the_meters_take_as_long(rows: int, tokens: int, by_tokens: bool) -> None:  # noqa: FBT001 - parametrized
    """The meters that hold the limits take as long as estimated, within a tenth above two minutes.

    Below two minutes they take up to a quarter less or a twentieth more.
    """
    limit = 50_000 if by_tokens else 500
    limits = {"tokens_per_minute" if by_tokens else "requests_per_minute": limit}
    estimate = replace(KNOWN, to_send=rows, reserved_tokens=rows * tokens)
    found = least_duration(_job(limits=limits), estimate)
    assert found is not None
    true_s = time_by_meters(limit, rows, tokens, by_tokens=by_tokens)
    if found.seconds > 120:
        assert found.seconds == pytest.approx(true_s, rel=0.1)
    else:
        assert found.seconds * 0.75 <= true_s <= found.seconds * 1.05


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.2, "1 s"), (40.4, "40 s"), (89, "89 s"), (720, "12 min"), (11_100, "3 h 5 min"), (21_600, "6 h")]
)  # fmt: skip
def test_a_time_for_people(seconds: float, expected: str) -> None:
    """A duration is shown in seconds, minutes or hours."""
    assert format_duration(seconds) == expected


def test_fits_and_approval() -> None:
    """The verdict names each budget with both amounts, and so does the line that says that a person must approve."""
    job = _job(budget={"run_usd": 10, "monthly_usd": 100, "approval_usd": 5})
    verdict = check_budget(job, KNOWN, PRICE, None, 71 * USD)
    answers = three_answers(job, KNOWN, verdict, NOW)
    assert answers[1].startswith(
        "expected $6.40 fits into the budget of $10.00 and what is left of the month ($29.00 of $100.00, $71.00 booked)"
    )
    assert answers[2] == "a person must approve: expected $6.40 is above budget.approval_usd = $5.00"
    close = _job(budget={"approval_usd": "6.399"})
    assert three_answers(close, KNOWN, check_budget(close, KNOWN, PRICE), NOW)[-1].endswith(
        "expected $6.400 is above budget.approval_usd = $6.399"
    )


MOVED = replace(
    KNOWN,
    lane="flex",
    moved_expected_nano=12_800_000_000,
    moved_p90_nano=13_808_000_000,
    moved_worst_nano=24_200_000_000,
)


def test_the_cost_of_two_lanes() -> None:
    """With a deadline, the sentence has the cost in either lane, and asks for what the live lane costs."""
    assert how_much(MOVED) == (
        "expected $6.40 if all rows stay in the flex lane, $12.80 if all move to the live lane, at most $24.20: "
        "ask for $14"
    )
    unknown = replace(MOVED, basis=WORST_CASE)
    assert how_much(unknown).startswith("at most $24.20; for an expected cost run ")


def test_the_time_of_two_lanes() -> None:
    """With a deadline, the sentence says until when the run is done, or that even the live lane is too slow."""
    job = _job(limits={"requests_per_minute": 500}, timezone="Europe/Paris", lane="auto", finish_by="06:00")
    assert how_long(job, MOVED, 180_000, NOW) == (
        "done by 06:00 CET on Tuesday, December 1 (finish_by): rows leave the flex lane for the live lane in time; the "
        "live lane alone takes at least 6 h at 500 requests a minute"
    )
    late = job.model_copy(update={"finish_by": "5h"})
    assert str(how_long(late, MOVED, 180_000, NOW)).startswith(
        "not done by 04:10 CET on Tuesday, December 1 (finish_by): "
    )
    batches = replace(MOVED, lane="batch")
    assert "rows leave the batch lane" in str(how_long(_job(lane="auto", finish_by="8h"), batches, 180_000, NOW))
    assert how_long(_job(lane="auto"), batches, 180_000, NOW) == "within 24 hours, which the service has for a batch"
