"""`lane: auto` with `finish_by`: the cheapest lane that makes the deadline, over simulated days of services."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.tools.expected import check_books
from tests.tools.jobs import Jobs
from tests.tools.simulated_day import HOUR_S, Day, Market

ROWS = 600
DEADLINE_S = 8 * HOUR_S
LIVE_PER_MINUTE = 5  # all rows take two hours in the live lane
SEEDS = range(20)


def _seeds(of_each: int) -> list[Any]:
    """Return the seeds; `make test` takes the first ones, of which each is of another kind."""
    return [pytest.param(seed, marks=[pytest.mark.nightly] if seed >= of_each else []) for seed in SEEDS]


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    for setting in ("prepare.MIN_SHARD", "prepare.MAX_SHARD", "input_parquet.BATCH_ROWS"):
        monkeypatch.setattr(f"parquill.tasks.prompts.{setting}", 100)


Flex = Callable[[random.Random, float], "float | None"]


def _fast(draw: random.Random, _: float) -> float:
    return draw.uniform(5, 30)


def _slow(draw: random.Random, _: float) -> float:
    return min(800.0, draw.lognormvariate(6, 0.4))  # about seven minutes


def _full(of: random.Random) -> Flex:
    """Return a service without capacity for most of the day."""
    open_hours = {hour for hour in range(24) if of.random() < 0.15}

    def flex(draw: random.Random, now: float) -> float | None:
        return draw.uniform(5, 30) if now // HOUR_S in open_hours else None

    return flex


def _waning(of: random.Random) -> Flex:
    """Return a service that gets slower, and ends to have capacity at some hour."""
    end_s = of.uniform(0.5, 6) * HOUR_S

    def flex(draw: random.Random, now: float) -> float | None:
        return None if now > end_s else min(800.0, 20 * math.exp(2 * now / end_s) * draw.uniform(0.5, 1.5))

    return flex


KINDS: list[Callable[[random.Random], Flex]] = [lambda _: _fast, lambda _: _slow, _full, _waning]


# other limits of the live lane and the flex lane, and other deadlines; in each the live lane alone makes the deadline
OTHER_LIMITS: dict[str, tuple[str, dict[str, Any]]] = {
    "little time": ("3h", {"requests_per_minute": 20, "max_at_once": 16}),
    "few at once": ("6h", {"requests_per_minute": 60, "max_at_once": 2}),
    "tokens": ("8h", {"tokens_per_minute": 400, "max_at_once": 8}),
    "much time": ("20h", {"requests_per_minute": 2, "max_at_once": 4}),
}

OF_CI = "few at once"  # the limits that found a fault


def _day(folder: Path, market: Market, **job: Any) -> Day[Market]:
    given = {"finish_by": "8h", "limits": {"requests_per_minute": LIVE_PER_MINUTE, "max_at_once": 4}, **job}
    return Day(folder, market, ROWS, **given)


def _cost(cheap: int) -> float:
    """Return the cost of all rows in standard prices, if so many were bought at half of it."""
    return ROWS - cheap / 2


@pytest.mark.parametrize("seed", _seeds(len(KINDS)))
def test_days_of_flex(tmp_path: Path, seed: int) -> None:
    """The deadline is met, and the cost is within 10 % of the best possible, whatever capacity flex has."""

    def market() -> Market:
        of = random.Random(seed)
        return Market(seed, KINDS[seed % len(KINDS)](of))

    day = _day(tmp_path / "auto", market()).pass_by()
    assert [outcome.status for outcome in day.outcomes] == ["ok"] * ROWS
    assert day.seconds <= DEADLINE_S
    # without a deadline all rows wait for flex: no plan can buy more of them in time
    patient = _day(tmp_path / "patient", market(), finish_by=None).pass_by(DEADLINE_S)
    assert _cost(day.lanes["flex"]) <= 1.1 * _cost(patient.lanes["flex"])
    assert (day.market.sold["flex"], day.market.sold["default"]) == (day.lanes["flex"], day.lanes["live"])
    assert day.market.most_at_once <= 4


@pytest.mark.parametrize("seed", _seeds(1))
@pytest.mark.parametrize(
    "limits", [pytest.param(each, marks=[] if each == OF_CI else [pytest.mark.nightly]) for each in OTHER_LIMITS]
)
def test_days_of_flex_with_other_limits(tmp_path: Path, limits: str, seed: int) -> None:
    """The deadline is met, and the cost is within 10 % of the best possible, whatever limits and deadline a job has."""
    finish_by, own = OTHER_LIMITS[limits]
    deadline_s = int(finish_by.removesuffix("h")) * HOUR_S

    def market() -> Market:
        of = random.Random(seed)
        return Market(seed, KINDS[(seed + 3) % len(KINDS)](of))

    day = _day(tmp_path / "auto", market(), finish_by=finish_by, limits=own).pass_by()
    assert [outcome.status for outcome in day.outcomes] == ["ok"] * ROWS
    assert day.seconds <= deadline_s
    patient = _day(tmp_path / "patient", market(), finish_by=None, limits=own).pass_by(deadline_s)
    assert _cost(day.lanes["flex"]) <= 1.1 * _cost(patient.lanes["flex"])
    assert day.market.most_at_once <= own["max_at_once"]


BATCHES: list[dict[str, Any]] = [
    {"rows_per_s": 1},
    {"rows_per_s": 0.006},  # for each batch: a fifth of the rows in the eight hours, all in a day
    {"expire_after_s": 2 * HOUR_S, "rows_per_s": 0.006},
    {"stall_after_rows": 40},
    {"rows_per_s": 0.0035, "cancelling_rows": 5},
    {"stuck": "validating"},
]


@pytest.mark.parametrize("seed", _seeds(len(BATCHES)))
def test_days_of_batches(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no flex is sold: the deadline is met, the cost is within 10 % of the best possible, and no row is paid
    twice, whatever becomes of the batches.
    """
    monkeypatch.setattr("parquill.tasks.money.prices.CHEAP_LANES", ("batch",))

    def market() -> Market:
        return Market(seed, _fast, batch={"cancelling_s": 300 * (seed % 3), **BATCHES[seed % len(BATCHES)]})

    day = _day(tmp_path / "auto", market()).pass_by()
    assert [outcome.status for outcome in day.outcomes] == ["ok"] * ROWS
    assert day.seconds <= DEADLINE_S
    patient = market()
    _day(tmp_path / "patient", patient, finish_by=None).pass_by(DEADLINE_S)
    assert _cost(day.lanes["batch"]) <= 1.1 * _cost(len(patient.service.bills()["rows"]))
    assert len(day.market.service.bills()["rows"]) == day.lanes["batch"]
    assert day.market.sold["default"] == day.lanes["live"]


def _no_capacity(_: random.Random, __: float) -> None:
    return None


def _back_after(hours: float) -> Flex:
    """Return a service that has capacity in the first hour, and again after some hours."""
    return lambda draw, now: draw.uniform(5, 30) if now < HOUR_S or now > hours * HOUR_S else None


def test_a_budget_without_room_for_the_live_lane(tmp_path: Path) -> None:
    """M1: If the budget cannot pay for the live lane, the rows that are left stay in flex, and the run is late.
    The budget holds.
    """
    budget_nano = 5_000_000  # less than the worst case; flex costs 2,100,000 for all rows, live 4,200,000
    market = Market(1, _back_after(10))
    given = {"limits": {"requests_per_minute": 2, "max_at_once": 4}}
    day = _day(tmp_path, market, budget_nano=budget_nano, **given).pass_by()
    assert [outcome.status for outcome in day.outcomes] == ["ok"] * ROWS
    assert day.seconds > DEADLINE_S
    assert day.lanes["live"] > 50
    assert day.lanes["flex"] > 200
    assert sum(outcome.cost_nano for outcome in day.outcomes) <= budget_nano
    assert any(
        "no room for the price of the live lane: the rows that are left stay in the flex" in w for w in day.warnings
    )


def test_a_budget_without_room_for_batches_that_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: If the budget cannot pay for the live lane, the rows that are left stay in batches, and the budget holds."""
    monkeypatch.setattr("parquill.tasks.money.prices.CHEAP_LANES", ("batch",))
    budget_nano = 2_700_000  # batches cost 2,550,000 for all rows
    market = Market(1, _no_capacity, batch={"rows_per_s": 0.002})
    day = _day(tmp_path, market, budget_nano=budget_nano).pass_by()
    assert day.seconds > DEADLINE_S
    assert sum(outcome.cost_nano for outcome in day.outcomes) <= budget_nano
    assert [outcome.status for outcome in day.outcomes] == ["ok"] * ROWS
    assert any("stay in the batch lane" in warning for warning in day.warnings)


def test_capacity_that_comes_late(tmp_path: Path) -> None:
    """With a deadline, the run waits for capacity as long as there is time, even for longer than `retry.patience_s`."""
    day = _day(
        tmp_path, Market(1, lambda draw, now: draw.uniform(5, 30) if now > 7 * HOUR_S else None), finish_by="12h"
    )
    day.pass_by()
    assert day.lanes == {"flex": ROWS}


def test_a_live_lane_that_is_full_at_times(tmp_path: Path) -> None:
    """Rows that waited for flex for hours have their whole patience for a 429 of the live lane."""
    market = Market(1, _no_capacity, lambda draw, _: draw.uniform(1, 3) if draw.random() < 0.9 else None)
    day = _day(tmp_path, market).pass_by()
    assert [outcome.status for outcome in day.outcomes] == ["ok"] * ROWS
    assert day.lanes == {"live": ROWS}
    assert day.seconds <= DEADLINE_S


@pytest.mark.parametrize("lane", ["flex", "batch"])
def test_a_lane_that_the_service_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: str) -> None:
    """If the service refuses the cheap lane, the run does not wait for its deadline. The live lane completes the rows,
    and a warning gives the service's reason.
    """
    monkeypatch.setattr("parquill.tasks.money.prices.CHEAP_LANES", (lane,))
    market = Market(1, _fast, refuses_flex=True, batch={"fail_with": "billing_not_active"})
    day = _day(tmp_path, market, limits={"max_at_once": 4}).pass_by()
    assert day.lanes == {"live": ROWS}
    assert day.seconds < HOUR_S
    assert all(outcome.status == "ok" for outcome in day.outcomes)
    assert market.asked["flex"] < 50
    assert any("service_tier" in warning or "billing_not_active" in warning for warning in day.warnings)


@pytest.mark.parametrize("seed", _seeds(1)[:6])
@pytest.mark.parametrize("lane", ["flex", "batch"])
def test_stops_and_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: str, seed: int) -> None:
    """A run that is stopped and started again keeps its deadline, and pays for each row once."""
    monkeypatch.setattr("parquill.tasks.money.prices.CHEAP_LANES", (lane,))
    of = random.Random(seed)
    market = Market(seed, _waning(of), batch={"rows_per_s": 0.004})
    day = _day(tmp_path, market)
    for _ in range(3):
        day.pass_by(of.uniform(60, 2.5 * HOUR_S))
    day.pass_by()
    assert [outcome.status for outcome in day.outcomes] == ["ok"] * ROWS
    assert day.seconds <= DEADLINE_S
    in_batches = Counter(row["content"] for row in market.service.bills()["rows"])
    assert set(in_batches.values()) <= {1}
    bought = sum(market.sold.values()) + in_batches.total()
    assert bought - ROWS <= 3 * 4, "only requests that were under way at a stop may be bought twice"


@pytest.mark.parametrize(("finish_by", "lane"), [("8h", "flex"), ("1m", "live")])
def test_a_run_by_a_deadline(jobs: Jobs, finish_by: str, lane: str) -> None:
    """A whole run buys all rows in flex if there is time, and in the live lane if there is none.
    Its summary has the lane, the price and whether the deadline was met.
    """
    jobs.service.configure(service_tier="asked")
    settings = jobs.job([f"text {row}" for row in range(30)], model="gpt-6-luna", lane="auto", finish_by=finish_by)
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert Counter(done.column("lane")) == {lane: 30}
    assert done.summary["lanes"].keys() == {lane}
    assert jobs.service.bills()["lanes"].keys() == {lane}
    late_s = datetime.fromisoformat(done.summary["finish_by"]) - datetime.fromisoformat(done.summary["started_at"])
    assert late_s.total_seconds() == pytest.approx(8 * HOUR_S if lane == "flex" else 60, abs=2)
    assert "if all rows leave the flex lane for the live lane" in done.stderr
    assert ("finish_by is near" in done.stderr) is (lane == "live")
    if lane == "flex":  # a slow machine may take longer than a minute
        assert re.search(r"finish_by +met", done.stdout), done.stdout
    check_books(done)
