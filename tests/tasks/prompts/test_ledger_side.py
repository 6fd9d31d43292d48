"""The ledger's side of a comparison: what a person has resolved, and what cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_uses import BilledUse, keep_uses
from parquill.tasks.prompts.ledger_side import read_ledger
from tests.tools.ledger_machine import entry

SERVICE = "https://s.example/v1"
MAY, JUNE = datetime(2026, 5, 15, tzinfo=UTC), datetime(2026, 6, 15, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with Ledger() as opened:
        yield opened


def _use(day: datetime, settled_nano: int, in_doubt_nano: int) -> BilledUse:
    return BilledUse(f"{day:%Y-%m-%d}", "m", "live", SERVICE, "KEY", 3, 20, 4, settled_nano, in_doubt_nano)


def _book(
    ledger: Ledger, run: str, now: datetime, settled_nano: int, in_doubt_nano: int, services: str = SERVICE
) -> None:
    ledger.open_run(replace(entry(run), started_at=now, endpoint=services), settled_nano, in_doubt_nano, 0, now)


def _figures(month: str) -> list[tuple[int, int]]:
    return [(use.settled_nano, use.in_doubt_nano) for use in read_ledger(month, SERVICE, JUNE).uses]


@pytest.mark.parametrize(("paid", "figures"), [(True, (110, 0)), (False, (100, 0))])
def test_what_was_resolved(ledger: Ledger, paid: bool, figures: tuple[int, int]) -> None:  # noqa: FBT001 - parametrized
    """What a person resolved as paid is compared as paid, what was resolved as unpaid not at all."""
    _book(ledger, "a", MAY, 100, 10)
    keep_uses(ledger, "a", [_use(MAY, 100, 10)])
    ledger.finish("a", MAY)
    assert _figures("2026-05") == [(100, 10)]
    ledger.resolve("2026-05", None, paid=paid, now=JUNE)
    assert _figures("2026-05") == [figures]


def test_doubts_that_were_resolved_in_different_ways(ledger: Ledger) -> None:
    """Of two doubts of a run, one resolved as paid and a later one as unpaid, the first is compared as paid."""
    _book(ledger, "a", MAY, 100, 10)
    ledger.resolve("2026-05", None, paid=True, now=MAY)
    _book(ledger, "a", MAY, 100, 40)
    ledger.resolve("2026-05", None, paid=False, now=MAY)
    keep_uses(ledger, "a", [_use(MAY, 60, 20), _use(MAY, 40, 20)])
    ledger.finish("a", MAY)
    assert _figures("2026-05") == [(65, 0), (45, 0)]


def test_one_month_of_a_run_is_resolved(ledger: Ledger) -> None:
    """If the doubts of one month are resolved, those of the next one stay."""
    _book(ledger, "a", MAY, 100, 10)
    _book(ledger, "a", JUNE, 150, 15)
    ledger.resolve("2026-05", None, paid=False, now=JUNE)
    keep_uses(ledger, "a", [_use(MAY, 100, 10), _use(JUNE, 50, 5)])
    ledger.finish("a", JUNE)
    assert (_figures("2026-05"), _figures("2026-06")) == ([(100, 0)], [(50, 5)])


def test_a_run_that_cannot_be_read(ledger: Ledger) -> None:
    """What an unfinished run booked in the month cannot be compared if its journals are not here, and a note says so.

    That also holds for a run that began earlier, and for one whose first endpoint is another service.
    """
    _book(ledger, "a", MAY, 100, 10, f"https://other.example/v1 {SERVICE}")
    _book(ledger, "a", JUNE, 130, 20, f"https://other.example/v1 {SERVICE}")
    _book(ledger, "b", JUNE, 7, 0, "https://other.example/v1")
    side = read_ledger("2026-06", SERVICE, JUNE)
    assert (side.uses, side.unknown_nano, len(side.notes)) == ([], 40, 1)
    assert "of the run a of 'job' cannot be compared: its journals in state cannot be read here" in side.notes[0]
    assert read_ledger("2026-05", SERVICE, JUNE).unknown_nano == 110
