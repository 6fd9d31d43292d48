"""The deadline decides by what is left, by the limits, and by the latency of answers."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.llm.deadline import CHEAP_TAIL, LOOK_INTERVAL_S, MIN_TAIL_S, SAFETY, Deadline
from tests.tasks.money.test_figures import UNKNOWN
from tests.tools.small_jobs import resolved_job

FINISH_AT = 30_000.0


class Night:
    """A deadline, and what it looks at."""

    def __init__(self, *, cheap_tail_s: float | None = None, **limits: Any) -> None:
        self.now, self.left = 0.0, 1_000
        self.announced: tuple[int | None, int | None] = (None, None)
        job = resolved_job(
            {
                "name": "x", "input": "i", "output": "o", "prompt": {"user": "{{ x }}"}, "model": "gpt-6-luna",
                "max_output_tokens": 10, "lane": "auto", "finish_by": "8h", "limits": limits,
            }
        )  # fmt: skip
        self.deadline = Deadline(
            FINISH_AT,
            job.in_lane("live"),
            UNKNOWN,
            lambda: self.left,
            lambda: self.announced,
            lambda: self.now,
            cheap_timeout_s=900.0,
            cheap_tail_s=cheap_tail_s,
        )

    def is_due_at(self, seconds_left: float) -> bool:
        self.now = FINISH_AT - seconds_left
        return self.deadline.is_due()

    def switches_at(self) -> float:
        """Return how many seconds before the deadline rows begin to move."""
        seconds_left = FINISH_AT
        while not self.is_due_at(seconds_left):
            seconds_left -= 1.0
        return seconds_left


@pytest.mark.parametrize(
    ("limits", "live_s"),
    [
        ({"requests_per_minute": 10}, 6_000),
        ({"requests_per_minute": 10, "max_at_once": 1}, 10_000),  # ten seconds for a request, before any answer
        ({"tokens_per_minute": 15_000}, 600),  # 150 tokens are reserved for a row
        ({"max_at_once": 100}, 100),
    ],
    ids=str,
)
def test_rows_move_when_the_live_lane_needs_what_is_left(limits: dict[str, Any], live_s: float) -> None:
    """The slowest of the limits counts, and a margin for a service that is slower."""
    night = Night(cheap_tail_s=0.0, **limits)
    for seconds_left in (FINISH_AT, live_s * SAFETY + MIN_TAIL_S + 1):
        assert not night.is_due_at(seconds_left)
    assert night.is_due_at(live_s * SAFETY + MIN_TAIL_S - 1)


def test_rows_that_are_done_need_no_time() -> None:
    """The fewer rows are left, the later they move."""
    night = Night(cheap_tail_s=0.0, requests_per_minute=10)
    seconds_left = 6_000.0
    assert night.is_due_at(seconds_left)
    night.left = 500
    assert not night.is_due_at(seconds_left - LOOK_INTERVAL_S)


def test_rows_do_not_return_at_once() -> None:
    """Rows return to the cheap lane only if the live lane has won a tenth of the time that it needs."""
    night = Night(cheap_tail_s=0.0, requests_per_minute=10)
    needed_s = 6_000 * SAFETY + MIN_TAIL_S
    assert night.is_due_at(needed_s - 1)
    assert night.is_due_at(needed_s + 100)
    assert not night.is_due_at(1.11 * needed_s)


def test_a_limit_that_the_service_announces() -> None:
    """A limit in the headers of the service counts like one of the job."""
    night = Night(cheap_tail_s=0.0)
    assert not night.is_due_at(6_000)
    night.announced = (10, None)
    assert night.is_due_at(6_000 - LOOK_INTERVAL_S)


def test_the_latency_of_answers_counts() -> None:
    """Until the live lane has answered, answers of the cheap lane bound its latency; then its own do."""
    night = Night(cheap_tail_s=0.0, max_at_once=10)
    for _ in range(200):
        night.deadline.observe(60.0, is_live=False)
    assert night.is_due_at(6_000)
    for _ in range(200):
        night.deadline.observe(1.0, is_live=True)
    assert not night.is_due_at(5_999)


def test_no_row_enters_a_lane_that_is_too_slow() -> None:
    """A row enters flex only if the slowest of the latest answers would still be in time."""
    night = Night(requests_per_minute=1_000)
    night.left = 1
    for latency_s in (10, 20, 500, 30):
        night.deadline.observe(latency_s, is_live=False)
    tail_s = CHEAP_TAIL * 500 + 4 * 10
    assert not night.is_due_at(tail_s + 100)
    assert night.is_due_at(tail_s)


def test_a_short_window_leaves_room_for_the_cheap_lane() -> None:
    """Before any answer, no more than a quarter of the time is held back for a slow request of the cheap lane."""
    night = Night(requests_per_minute=100_000, max_at_once=1_000)
    assert not night.is_due_at(FINISH_AT)
    # one time-out of flex, and ten seconds for all rows at once
    assert night.switches_at() == pytest.approx(900 + SAFETY * 10 + MIN_TAIL_S, abs=2)


def test_requests_that_hold_their_places_take_time_from_the_live_lane() -> None:
    """A flex request under way is not cut off: if the live lane needs all places, it is given that time in addition.

    If a limit keeps most places free, it is given little more.
    """
    places = Night(max_at_once=100)
    rate = Night(requests_per_minute=600, max_at_once=1_000)
    for night in (places, rate):
        for _ in range(30):
            night.deadline.observe(300.0, is_live=False)
        for _ in range(200):
            night.deadline.observe(10.0, is_live=True)
        assert not night.is_due_at(FINISH_AT)
    live_s = SAFETY * 100 + MIN_TAIL_S  # 1,000 rows: ten seconds each, 100 at once, or 600 a minute
    assert places.switches_at() == pytest.approx(live_s + CHEAP_TAIL * 300, abs=2)
    # 100 of 1,000 places are busy
    assert rate.switches_at() == pytest.approx(max(live_s + CHEAP_TAIL * 30, CHEAP_TAIL * 300 + MIN_TAIL_S), abs=2)
