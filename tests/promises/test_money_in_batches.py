"""Money that is reserved for requests that wait at the service: for a day, while no process lives."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from parquill.flows.cli.spend import SpendQuery, read_spending
from parquill.tasks.job.load import make_job
from parquill.tasks.money.budget_lease import LeaseAccount
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_accounts import LEASE_EXPIRY_S, Balance, LeaseReport, Spending
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_money import open_budget, read_standing, reconcile_ledger
from parquill.tasks.results.summary import write_running
from parquill.tasks.storage.disk import DISK
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.journal import append_groups
from tests.tools.direct import job_of
from tests.tools.ledger_machine import BEGIN, entry

LONG_AFTER = BEGIN + timedelta(hours=26)
NOVEMBER, DECEMBER = datetime(2026, 11, 30, 23, tzinfo=UTC), datetime(2026, 12, 1, 9, tzinfo=UTC)
SUBMITTED = Spending(submitted_nano=60)


def _account(ledger: Ledger, run: str, now: datetime = BEGIN) -> LeaseAccount:
    """Return an account of a run that shares a month of 100 nano-dollars."""
    return LeaseAccount(ledger, run, run_limit_nano=None, month_limit_nano=100, now=lambda: now)


def _submit(ledger: Ledger, now: datetime = BEGIN) -> None:
    """Have a process of the run `fr` submit 60 nano-dollars, and end."""
    ledger.open_run(entry("fr"), 0, 0, 0, now)
    account = _account(ledger, "fr", now)
    assert account.lease(60) == 60
    account.close(SUBMITTED)


def test_submitted_money_does_not_expire(ledger: Ledger) -> None:
    """M8: What a process has submitted stays submitted after it ends, for longer than any lease, for run and month."""
    _submit(ledger)
    ledger.open_run(entry("de"), 0, 0, 0, BEGIN)
    assert timedelta(seconds=LEASE_EXPIRY_S) < LONG_AFTER - BEGIN
    for now in (BEGIN, LONG_AFTER):
        assert ledger.of_run("fr", now) == ledger.of_month("2026-11", now) == Balance(0, 0, 60, 0)
        assert _account(ledger, "de", now).lease(41) == 0
    account = _account(ledger, "de", LONG_AFTER)
    assert account.lease(40) == 40
    assert ledger.of_month("2026-11", LONG_AFTER).total_nano == 100
    assert ledger.month_without("de", LONG_AFTER) == Balance(0, 0, 60, 0)
    (row,) = ledger.days("2026-11", LONG_AFTER)
    assert (row["settled_nano"], row["in_doubt_nano"], row["submitted_nano"]) == (0, 0, 60)


def test_a_holder_that_dies_after_it_submitted(ledger: Ledger) -> None:
    """M8: Of a dead process only the lease is in doubt; what it submitted is not, and a person does not resolve it."""
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    account = _account(ledger, "fr")
    assert account.lease(100) == 100
    assert account.report(SUBMITTED) == 0
    assert ledger.of_run("fr", BEGIN) == Balance(0, 0, 60, 40)
    assert ledger.of_run("fr", LONG_AFTER) == Balance(0, 40, 60, 0)
    assert ledger.resolve("2026-11", None, paid=True, now=LONG_AFTER) == 40
    assert ledger.of_run("fr", LONG_AFTER) == Balance(40, 0, 60, 0)
    # by its journals it had submitted 25 more
    assert ledger.open_run(entry("fr"), 0, 0, 85, LONG_AFTER) == (0, 0, 85)


def test_a_reply_is_booked_in_the_month_of_its_reservation(ledger: Ledger) -> None:
    """M8: What a batch costs is booked in the month in which it was reserved, the rest of its reservation is free.
    What else the collecting process spends and submits is booked in the month of its lease. No report is booked twice.
    """
    _submit(ledger, NOVEMBER)
    assert ledger.open_run(entry("fr"), 0, 0, 60, DECEMBER) == (0, 0, 60)
    account = _account(ledger, "fr", DECEMBER)
    assert account.lease(50) == 50
    spent = Spending(
        settled_nano=35 + 20,
        in_doubt_nano=10,
        submitted_nano=25,
        collected_settled_nano=35,
        collected_in_doubt_nano=10,
        collected_released_nano=15,
    )
    for _ in range(2):
        assert account.report(spent) == 0
        assert ledger.of_month("2026-11", DECEMBER) == Balance(35, 10, 0, 0)
        assert ledger.of_month("2026-12", DECEMBER) == Balance(20, 0, 25, 5)
    account.close(spent)
    assert ledger.of_run("fr", DECEMBER) == Balance(55, 10, 25, 0)


def test_the_oldest_reservation_is_collected_first(ledger: Ledger) -> None:
    """M8: Of money that was submitted in two months, the older is collected first."""
    _submit(ledger, NOVEMBER)
    ledger.open_run(entry("fr"), 0, 0, 60, DECEMBER)
    account = _account(ledger, "fr", DECEMBER)
    assert account.lease(30) == 30
    account.report(Spending(50, 0, 30, 50, 0, 20))
    assert ledger.of_month("2026-11", DECEMBER) == Balance(50, 0, 0, 0)
    assert ledger.of_month("2026-12", DECEMBER) == Balance(0, 0, 20, 0)


def test_a_process_that_dies_before_it_reports_what_it_collected(ledger: Ledger) -> None:
    """M8: When a run starts again, what its journals have collected is booked in the month of its reservation."""
    _submit(ledger, NOVEMBER)
    assert ledger.open_run(entry("fr"), 35, 10, 0, DECEMBER) == (35, 10, 0)
    assert ledger.of_month("2026-11", DECEMBER) == Balance(35, 10, 0, 0)
    assert ledger.of_month("2026-12", DECEMBER) == Balance(0, 0, 0, 0)
    # the record of a reply was cut off with the end of the journal: the request waits at the service again
    assert ledger.open_run(entry("fr"), 0, 10, 35, DECEMBER) == (0, 10, 35)
    assert ledger.of_month("2026-11", DECEMBER) == Balance(0, 10, 35, 0)


def test_what_waits_hides_no_loss(ledger: Ledger) -> None:
    """M1, M8: If journals lack what was settled, it stays booked in doubt, however much of the run waits in batches."""
    ledger.open_run(entry("fr"), 100, 0, 60, BEGIN)
    assert ledger.open_run(entry("fr"), 0, 0, 60, LONG_AFTER) == (0, 100, 60)
    assert ledger.of_run("fr", LONG_AFTER) == Balance(0, 100, 60, 0)


def test_money_that_another_has_not_reported_yet(ledger: Ledger) -> None:
    """M1, M8: A process that collects what another has submitted and not reported is charged for it itself.
    For a while too much is booked, and never too little.
    """
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    first, second = _account(ledger, "fr"), _account(ledger, "fr")
    assert (first.lease(60), second.lease(40)) == (60, 40)
    assert second.report(Spending(35, 0, 0, 35, 0, 25)) == 35
    assert ledger.of_run("fr", BEGIN) == Balance(35, 0, 0, 65)
    first.close(SUBMITTED)
    assert ledger.of_run("fr", BEGIN) == Balance(35, 0, 60, 5)
    assert ledger.open_run(entry("fr"), 35, 0, 0, BEGIN) == (35, 0, 0)
    assert ledger.of_run("fr", BEGIN) == Balance(35, 0, 0, 0)


def test_an_older_report_that_comes_late(ledger: Ledger) -> None:
    """M1, M8: A report that a slower thread brings after a newer one changes nothing."""
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    account = _account(ledger, "fr")
    assert account.lease(100) == 100
    account.report(Spending(35, 0, 60, 20, 0, 40))
    booked = ledger.of_run("fr", BEGIN)
    assert booked == Balance(35, 0, 0, 25)
    account.report(SUBMITTED)
    assert ledger.of_run("fr", BEGIN) == booked


def test_a_run_without_limits(ledger: Ledger) -> None:
    """M8: Without a budget nothing is leased, and the ledger shows what is submitted and collected all the same."""
    ledger.open_run(entry("fr"), 0, 0, 0, NOVEMBER)
    report = LeaseReport(SUBMITTED, 0, is_new=True)
    assert ledger.report("fr", "h", report, NOVEMBER) == 0
    assert ledger.report("fr", "h", LeaseReport(Spending(45, 0, 60, 45, 0, 15), 0), DECEMBER) == 0
    assert ledger.of_month("2026-11", DECEMBER) == ledger.of_run("fr", DECEMBER) == Balance(45, 0, 0, 0)


def _run(folder: Path, budget: dict[str, object]) -> Run:
    settings = job_of(folder, ["a text", "another"], "http://127.0.0.1:9/v1", budget=budget)
    job, options = resolve_job(make_job(settings), None, None, ())
    Folders.of(job.output, job.state).create(DISK)
    run = prepare_run(job, options)
    assert run is not None
    return run


def _journal(run: Run, *records: dict[str, object]) -> None:
    append_groups(run.folder.journal(0), {"run_id": run.run_id, "shard": 0}, [list(records)])


@pytest.mark.parametrize("limit", ["run_usd", "monthly_usd"])
def test_a_run_that_waits_for_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """M8: A run submits, ends, and starts again: its money is reserved at the service all the time, and shown so.
    It can use what is left, and what comes back, at once and no more than once.
    """
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    run, month = _run(tmp_path / "a", {limit: 1}), f"{datetime.now(UTC):%Y-%m}"

    async def submit(threads: ThreadPoolExecutor) -> None:
        spending = open_budget(run, threads)
        assert await spending.budget.reserve(900_000_000, wait=False)
        spending.budget.submit(900_000_000)
        assert spending.soft_limits.messages != []
        await spending.close()

    async def collect(threads: ThreadPoolExecutor) -> None:
        spending = open_budget(run, threads)
        budget = spending.budget
        assert (budget.submitted_nano, spending.soft_limits.messages) == (900_000_000, [])
        assert not await budget.reserve(100_000_001, wait=False)
        assert await budget.reserve(100_000_000, wait=False)
        assert not await budget.reserve(1, wait=False)
        budget.settle(400_000_000, 300_000_000, submitted=True)
        assert await budget.reserve(100_000_000, wait=False)
        budget.hold(200_000_000, submitted=True)
        budget.release(300_000_000, submitted=True)
        assert await budget.reserve(300_000_000)
        assert not await budget.reserve(1, wait=False)
        budget.release(500_000_000)
        await spending.close()

    with ThreadPoolExecutor(2) as threads:
        asyncio.run(submit(threads))
        _journal(
            run,
            {"type": "submitted", "row": 0, "n": 1, "to": "batch_1", "reserved": 900_000_000},
        )
        found = read_standing(run)
        assert (found.totals.submitted_nano, found.verdict.left) == (900_000_000, 1)
        assert found.month_left_nano == (None if limit == "run_usd" else 100_000_000)
        reconcile_ledger(run)
        spend = read_spending(SpendQuery(month, None, None), datetime.now(UTC).date())
        assert (spend["cost_usd"], spend["in_doubt_usd"], spend["submitted_usd"]) == (
            "0.000000000",
            "0.000000000",
            "0.900000000",
        )
        assert spend["rows"][0]["submitted_usd"] == spend["booked_usd_all_jobs"] == "0.900000000"
        write_running(run)
        summary = orjson.loads((run.folders.output / "summary.json").read_bytes())
        assert (summary["submitted_usd"], summary["requests"]["submitted"]) == ("0.900000000", 1)
        asyncio.run(collect(threads))
    with Ledger() as ledger:
        assert ledger.of_run(run.run_id, datetime.now(UTC)) == Balance(300_000_000, 200_000_000, 0, 0)
