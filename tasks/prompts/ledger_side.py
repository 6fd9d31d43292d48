"""The ledger's side of a comparison with a service's figures: what all runs bought at the service in a month."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from pathlib import Path

from parquill.tasks.errors import ParquillError
from parquill.tasks.money.amounts import format_usd
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_uses import BilledUse, BookedRun, booked_runs, read_uses
from parquill.tasks.prompts.run import load_run
from parquill.tasks.prompts.run_uses import uses_of


@dataclass(slots=True)
class LedgerSide:
    """What the ledger has for a month at one service; `notes` say what it cannot tell."""

    uses: list[BilledUse] = field(default_factory=list)
    submitted_nano: int = 0
    unknown_nano: int = 0  # of unfinished runs whose journals are not here
    notes: list[str] = field(default_factory=list)


def read_ledger(month: str, service: str, now: datetime) -> LedgerSide:
    """Read what runs bought at a service in a month; of a run whose uses are not kept, its journals are read.

    Raises LedgerFailed.
    """
    side = LedgerSide()
    with Ledger() as ledger:
        runs = booked_runs(ledger, month, now)
        kept = read_uses(ledger, [run.run_id for run in runs])
        for run in runs:
            uses, is_unread = kept.get(run.run_id, []), False
            if not run.is_finished or (not uses and run.month.settled_nano):
                journaled = _journaled(run)
                uses, is_unread = journaled or uses, journaled is None
            mine = [use for use in _as_resolved(uses, run, month, ledger) if use.day.startswith(month)]
            side.uses += [use for use in mine if use.service == service]
            if service in run.services:
                side.submitted_nano += run.submitted_nano
                if is_unread:
                    _note_unread(side, run, mine)
    return side


def _journaled(run: BookedRun) -> list[BilledUse] | None:
    """Return what a run has bought so far; None if its journals are not on this machine."""
    try:
        found = load_run(Path(run.state), run.run_id)
        return uses_of(found, found.totals())
    except (ParquillError, OSError):
        return None


def _note_unread(side: LedgerSide, run: BookedRun, known: Sequence[BilledUse]) -> None:
    """Note how much of a run cannot be compared, since its journals cannot be read."""
    booked_nano = run.month.settled_nano + run.month.in_doubt_nano + run.month.leased_nano
    missing_nano = max(0, booked_nano - sum(use.settled_nano + use.in_doubt_nano for use in known))
    side.unknown_nano += missing_nano
    what = format_usd(missing_nano) if missing_nano else "what was spent last"
    side.notes.append(
        f"{what} of the run {run.run_id} of {run.job!r} cannot be compared: its journals in {run.state or run.output} "
        f"cannot be read here; {'compare' if run.is_finished else 'resume the run, or compare'} on its machine"
    )


def _as_resolved(uses: list[BilledUse], run: BookedRun, month: str, ledger: Ledger) -> list[BilledUse]:
    """Apply what a person has resolved of a run as paid or as not paid to its uses of a month.

    The ledger keeps how much was resolved, and how much is still in doubt in each month. What was resolved in a month
    is shared out among the uses of the month, in proportion to what they had in doubt.
    """
    settled_nano, doubt_nano = sum(use.settled_nano for use in uses), sum(use.in_doubt_nano for use in uses)
    if not doubt_nano:
        return uses
    books = ledger.spent(run.run_id, settled_nano, doubt_nano, 0)
    resolved_nano = doubt_nano - books.in_doubt_nano
    of_month = sum(use.in_doubt_nano for use in uses if use.day.startswith(month))
    here_nano = min(resolved_nano, of_month - run.month.in_doubt_nano)
    if here_nano <= 0:
        return uses
    # promise: reconcile: money that a person resolved as unpaid is not compared as paid
    paid = Fraction(max(0, books.settled_nano - settled_nano), resolved_nano) * Fraction(here_nano, of_month)
    left = 1 - Fraction(here_nano, of_month)
    return [
        replace(
            use,
            settled_nano=use.settled_nano + round(use.in_doubt_nano * paid),
            in_doubt_nano=round(use.in_doubt_nano * left),
        )
        if use.day.startswith(month)
        else use
        for use in uses
    ]
