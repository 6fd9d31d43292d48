"""What runs bought, as the ledger keeps it for a comparison with the service's bill."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_accounts import Balance, LeaseReport, Spending
from parquill.tasks.money.ledger_uses import BilledUse, booked_runs, keep_uses, read_uses
from tests.tools.ledger_machine import entry

USE = BilledUse("2026-11-30", "m", "live", "https://s.example/v1", "KEY", 3, 20, 4, 700, 50)


def _open(ledger: Ledger, run: str, began: datetime, settled_nano: int = 0) -> None:
    ledger.open_run(replace(entry(run), started_at=began), settled_nano, 5, 0, began)


def _lease(ledger: Ledger, run: str, now: datetime) -> None:
    held = LeaseReport(Spending(), 0, is_new=True)
    ledger.lease(run, "h", held, want_nano=100, least_nano=1, run_limit_nano=1_000, month_limit_nano=None, now=now)


def test_uses_are_replaced(ledger: Ledger) -> None:
    """What a run bought replaces what was kept before; other runs keep theirs."""
    keep_uses(ledger, "a", [USE, replace(USE, lane="batch", settled_nano=2**60)])
    keep_uses(ledger, "b", [USE])
    keep_uses(ledger, "a", [replace(USE, lane="flex")])
    assert read_uses(ledger, ["a", "b", "c"]) == {"a": [replace(USE, lane="flex")], "b": [USE]}
    assert read_uses(ledger, ["b"]) == {"b": [USE]}
    keep_uses(ledger, "b", [])
    assert read_uses(ledger, ["b"]) == {}


def test_the_runs_of_a_month(ledger: Ledger) -> None:
    """The runs of a month are those that began, booked or used something in it, or began just before it.

    A run that was killed has no booked money yet; what it had leased is known.
    """
    noon = datetime(2026, 11, 15, 12, tzinfo=UTC)
    _open(ledger, "earlier", noon - timedelta(days=50), 1)  # in September
    _open(ledger, "before", noon - timedelta(days=30), 2)
    _open(ledger, "this", noon, 3)
    _open(ledger, "later", noon + timedelta(days=30), 4)
    _open(ledger, "resumed", noon - timedelta(days=90))
    ledger.open_run(replace(entry("resumed"), started_at=noon), 9, 0, 0, noon)
    ledger.finish("this", noon)
    _lease(ledger, "killed", noon)
    ledger.open_run(replace(entry("killed"), started_at=noon), 0, 0, 0, noon)
    _lease(ledger, "killed", noon)
    found = {run.run_id: run for run in booked_runs(ledger, "2026-11", noon)}
    assert sorted(found) == ["before", "killed", "resumed", "this"]
    assert (found["this"].settled_nano, found["this"].in_doubt_nano, found["this"].is_finished) == (3, 5, True)
    assert (found["killed"].settled_nano, found["killed"].month.leased_nano, found["killed"].is_finished) == (
        0,
        100,
        False,
    )
    assert found["this"].month == Balance(3, 5, 0, 0)
    assert found["before"].month == Balance(0, 0, 0, 0)
    assert found["this"].services == ("an-endpoint",)
    keep_uses(ledger, "earlier", [USE])
    assert "earlier" in {run.run_id for run in booked_runs(ledger, "2026-11", noon)}
