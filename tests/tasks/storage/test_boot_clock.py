"""The duration of a run is right, whatever happens to the wall clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from parquill.tasks.storage import boot_clock as elapsed
from parquill.tasks.storage.boot_clock import Moment, elapsed_s

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize("set_by_h", [-24, -1, 0, 1])
def test_a_clock_that_is_set_changes_nothing(set_by_h: int) -> None:
    """Within one boot of the machine, the time that passed counts, even if the wall clock is set meanwhile."""
    finished_at = NOON + timedelta(seconds=90) + timedelta(hours=set_by_h)
    assert elapsed_s(Moment("boot", 1000.0), Moment("boot", 1090.0), NOON, finished_at) == 90.0


@pytest.mark.parametrize("began", [None, Moment(None, 5.0), Moment("before", 5.0)])
def test_another_start_of_the_machine(began: Moment | None) -> None:
    """After a reboot, or without a boot ID, the wall clock counts, and no duration is negative."""
    ended = Moment("after" if began is not None and began.boot_id else None, 900.0)
    assert elapsed_s(began, ended, NOON, NOON + timedelta(hours=2)) == 7200.0
    assert elapsed_s(began, ended, NOON, NOON - timedelta(hours=2)) == 0.0


def test_moments_of_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boot clock grows under one boot ID; a machine without an ID is recorded without one."""
    first = Moment.now()
    second = Moment.now()
    assert second.boot_s >= first.boot_s >= time.clock_gettime(time.CLOCK_MONOTONIC) - 1
    assert first.boot_id == second.boot_id
    monkeypatch.setattr(elapsed, "_BOOT_ID", tmp_path / "none")
    assert Moment.now().boot_id is None
