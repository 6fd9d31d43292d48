"""Schedules: Prefect's server creates runs at their hour, and the worker runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from prefect.server.schemas.schedules import CronSchedule

from tests.deployed.live_stack import LiveStack
from tests.tools.jobs import Jobs, read_results

HOURS = {"translate/translate-nightly": (2, 30), "summarize/summarize-nightly": (3, 0)}
EACH_MINUTE = "summarize/each-minute"


def _scheduled(stack: LiveStack, deployment: str) -> list[dict[str, Any]]:
    """Return the runs that the server has created for a deployment's schedule, the next one first."""
    wanted = {
        "flow_runs": {"deployment_id": {"any_": [stack.ask("GET", f"/deployments/name/{deployment}")["id"]]}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    found: list[dict[str, Any]] = stack.ask("POST", "/flow_runs/filter", **wanted)
    return [run for run in found if run["auto_scheduled"]]


@pytest.mark.nightly
@pytest.mark.parametrize("deployment", HOURS)
def test_the_nights_ahead_are_scheduled(stack: LiveStack, deployment: str) -> None:
    """A deployed sample runs only when its schedule is activated.
    Then runs are scheduled ahead, one a night at its hour in its time zone.
    """
    found = stack.ask("GET", f"/deployments/name/{deployment}")
    (schedule,) = found["schedules"]
    assert schedule["active"] is False
    assert not _scheduled(stack, deployment)
    stack.ask("PATCH", f"/deployments/{found['id']}/schedules/{schedule['id']}", active=True)
    LiveStack.wait("scheduled runs", lambda: len(_scheduled(stack, deployment)) >= 3)
    times = [datetime.fromisoformat(run["expected_start_time"]) for run in _scheduled(stack, deployment)]
    local = [time.astimezone(ZoneInfo("Europe/Paris")) for time in times]
    assert [(time.hour, time.minute) for time in local] == [HOURS[deployment]] * len(local)
    days = [time.date() for time in local]
    assert days == [days[0] + timedelta(night) for night in range(len(days))]


@pytest.mark.parametrize("cron", ["0 0 * * *", "30 0 * * *"])
@pytest.mark.parametrize(("zone", "eve"), [("Africa/Cairo", (2026, 4, 23)), ("America/Santiago", (2026, 9, 5))])
def test_a_night_without_midnight_has_its_own_day(cron: str, zone: str, eve: tuple[int, int, int]) -> None:
    """If the clocks skip a schedule's hour, Prefect still gives each night its own day, and {date} is right."""
    schedule = CronSchedule(cron=cron, timezone=zone)
    times = asyncio.run(schedule.get_dates(3, start=datetime(*eve, tzinfo=ZoneInfo(zone))))
    days = [time.astimezone(ZoneInfo(zone)).date() for time in times]
    assert days == [date(*eve) + timedelta(night) for night in range(3)]


@pytest.fixture
def each_minute(stack: LiveStack, made: Jobs) -> Iterator[str]:
    """Create a deployment with a cron schedule, as the command line does."""
    made.write(["a long article", "another"])
    parameters = {
        "name": "each-minute",
        "input": str(made.folder / "prompts.parquet"),
        "output": str(made.folder / "out-{date}"),
        "settings": {"endpoint": {"base_url": made.service.url}, "timezone": "Asia/Kolkata"},
    }
    flow, name = EACH_MINUTE.split("/")
    stack.command(
        *("--no-prompt", "deploy", f"flows/{flow}.py:{flow}", "--name", name, "--pool", "parquill"),
        *("--cron", "* * * * *", "--timezone", "Asia/Kolkata", "--params", orjson.dumps(parameters).decode()),
    )
    yield EACH_MINUTE
    stack.command("deployment", "delete", EACH_MINUTE)


def test_a_cron_fires(stack: LiveStack, made: Jobs, each_minute: str) -> None:
    """A cron schedule creates a run without a person, the worker runs it at its minute, and its answers are written."""
    runs: list[dict[str, Any]] = []

    def ended() -> bool:
        runs[:] = [
            run
            for run in _scheduled(stack, each_minute)
            if run["state_type"] not in {"SCHEDULED", "PENDING", "RUNNING"}
        ]
        return bool(runs)

    LiveStack.wait("a cron", ended, 180)
    assert runs[0]["state_type"] == "COMPLETED", runs[0]["state"]["message"]
    first = datetime.fromisoformat(runs[0]["expected_start_time"])
    assert first.second == 0
    # The server rounds the wait to the nearest second, and a run's start time is its request to run, not the
    # permission: on a busy machine it may be more than half a second early. A run that did not wait would be half a
    # minute early.
    assert datetime.fromisoformat(runs[0]["start_time"]) >= first - timedelta(seconds=10)
    day = first.astimezone(ZoneInfo("Asia/Kolkata")).date()
    table = read_results(Path(made.folder / f"out-{day}"))
    assert table.column("status").to_pylist() == ["ok"] * 2
    assert made.service.stats()["billed"] == 2
