"""Money: no limit is exceeded at any instant, on each database that can hold the ledger."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from parquill.tasks.errors import LedgerFailed, RunTakenOver
from parquill.tasks.job.load import make_job
from parquill.tasks.limits.rate_ledger import RateHolder, RateLedger, Terms
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.budget_lease import BudgetLease, LeaseAccount
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_accounts import LEASE_EXPIRY_S, Balance, LeaseReport, Spending
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run_money import open_budget, read_standing
from parquill.tasks.storage.disk import DISK
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.journal import append_groups
from tests.fakes.postgres import Postgres
from tests.tools.direct import job_of
from tests.tools.jobs import Jobs
from tests.tools.ledger_machine import BEGIN, LedgerMachine, empty, entry
from tests.tools.timing import within

WORST = 10  # nano-dollars that a request may cost
LIMIT = 40 * WORST
AT_ONCE = 100
LATER = BEGIN + timedelta(hours=1)
NEW = LeaseReport(Spending(), 0, is_new=True)
# the part of the drawn examples: some in each CI run, all in the nightly run
SHARES, SHARE_IDS = [0.25, pytest.param(1.0, marks=pytest.mark.nightly)], ["some", "all"]


@pytest.mark.parametrize("share", SHARES, ids=SHARE_IDS)
def test_any_order_of_things(ledger: Ledger, share: float) -> None:
    """At each instant, settled + in doubt + leased <= limit for each run and each month.
    This holds in any order of spending, overshoots, deaths and restarts, and the books show what really happened.
    """
    examples = int(share * (40 if ledger.is_sqlite else 20))

    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(ledger)

    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=examples, stateful_step_count=40),
    )


class Watched:
    """Counts what was really admitted, over all budgets."""

    def __init__(self) -> None:
        self.open = self.spent = 0
        self.admitted = 0

    def check(self) -> None:
        assert self.open + self.spent <= LIMIT

    async def request(self, budget: Budget, draw: random.Random) -> None:
        """Make one request: reserve its worst case, then settle it, hold it in doubt or release it."""
        if not await budget.reserve(WORST):
            return
        self.open += WORST
        self.admitted += 1
        self.check()
        for _ in range(draw.randrange(4)):
            await asyncio.sleep(0)
        fate = draw.random()
        if fate < 0.6:
            cost = draw.randint(1, WORST)
            budget.settle(WORST, cost)
            self.spent += cost
        elif fate < 0.8:
            budget.hold(WORST)
            self.spent += WORST
        else:
            budget.release(WORST)
        self.open -= WORST
        self.check()


async def _race(seed: int, budgets: list[Budget], requests: int = AT_ONCE) -> Watched:
    draw, watched = random.Random(seed), Watched()
    await asyncio.gather(*(watched.request(draw.choice(budgets), draw) for _ in range(requests)))
    return watched


@pytest.mark.parametrize("share", SHARES, ids=SHARE_IDS)
def test_a_budget_for_forty_with_a_hundred_at_once(share: float) -> None:
    """In seeded runs of 100 requests at once, a budget for 40 is never exceeded, and is used up."""
    for seed in range(int(share * 1_000)):
        watched = asyncio.run(_race(seed, [Budget(LIMIT)]))
        assert watched.admitted >= 40


def _held(ledger: Ledger, run: str, month: int | None, run_limit: int | None) -> tuple[Budget, LeaseAccount]:
    account = LeaseAccount(ledger, run, run_limit_nano=run_limit, month_limit_nano=month, now=lambda: BEGIN)

    async def more(amount: int) -> int:
        await asyncio.sleep(0)
        got = account.lease(amount)
        await asyncio.sleep(0)
        return got

    return Budget(0, more=more), account


@pytest.mark.parametrize("shared", ["two processes of one run", "two jobs on one month"])
@pytest.mark.parametrize("share", SHARES, ids=SHARE_IDS)
def test_what_is_leased_holds_for_all(ledger: Ledger, shared: str, share: float) -> None:
    """In seeded runs on each database, two holders of one run, or two jobs on one month, keep the limit together."""
    for seed in range(int(share * (60 if ledger.is_sqlite else 24))):
        empty(ledger)
        runs = ["fr", "fr"] if shared == "two processes of one run" else ["fr", "de"]
        for run in set(runs):
            ledger.open_run(entry(run), 0, 0, 0, BEGIN)
        limits = (None, LIMIT) if len(set(runs)) == 1 else (LIMIT, None)
        held = [_held(ledger, run, *limits) for run in runs]
        watched = asyncio.run(_race(seed, [budget for budget, _ in held]))
        for budget, account in held:
            account.close(Spending(budget.settled_nano, budget.in_doubt_nano))
        booked = ledger.of_month("2026-11", BEGIN)
        assert (booked.settled_nano + booked.in_doubt_nano, booked.leased_nano) == (watched.spent, 0)
        assert watched.spent > LIMIT / 2


def test_what_was_settled_is_never_forgotten(ledger: Ledger) -> None:
    """If journals hold less than the ledger (a restored backup), a resumed run keeps all that was paid booked.
    What the journals do not hold is in doubt.
    """
    for settled, in_doubt in ((30, 0), (30, 20), (0, 0), (100, 5)):
        empty(ledger)
        ledger.open_run(entry("fr"), 100, 0, 0, BEGIN)
        ledger.open_run(entry("fr"), settled, in_doubt, 0, LATER)
        booked = ledger.of_run("fr", LATER)
        assert (booked.settled_nano, booked.in_doubt_nano) == (settled, max(in_doubt, 100 - settled))
        ledger.open_run(entry("fr"), settled, in_doubt, 0, LATER)  # the same start again
        assert ledger.of_run("fr", LATER) == booked
        ledger.open_run(entry("fr"), 100, in_doubt, 0, LATER)  # the run has paid for those rows again
        assert ledger.of_run("fr", LATER).settled_nano == 100
        assert ledger.of_run("fr", LATER).in_doubt_nano == booked.in_doubt_nano


@pytest.mark.parametrize("paid", [True, False])
def test_what_a_person_has_settled_stays_settled(ledger: Ledger, *, paid: bool) -> None:
    """M5: The next starts of a run keep what a person has resolved; a later doubt is in doubt."""
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    assert ledger.open_run(entry("fr"), 30, 40, 0, BEGIN) == (30, 40, 0)
    assert ledger.resolve("2026-11", None, paid=paid, now=BEGIN) == 40
    by_hand = 40 if paid else 0
    for _ in range(2):
        assert ledger.open_run(entry("fr"), 30, 40, 0, LATER) == (30 + by_hand, 0, 0)
        assert ledger.of_run("fr", LATER) == Balance(30 + by_hand, 0, 0, 0)
    # the row in doubt was answered at the second try, and another row is in doubt now
    assert ledger.open_run(entry("fr"), 50, 55, 0, LATER) == (50 + by_hand, 15, 0)
    # in another month the person answers the other way
    december = datetime(2026, 12, 1, 12, tzinfo=UTC)
    assert ledger.open_run(entry("fr"), 50, 61, 0, december) == (50 + by_hand, 21, 0)
    assert ledger.resolve("2026-12", None, paid=not paid, now=december) == 6
    assert ledger.of_run("fr", december, "2026-11") == Balance(50 + by_hand, 15, 0, 0)
    both = 40 if paid else 6
    assert ledger.open_run(entry("fr"), 50, 61, 0, december) == (50 + both, 15, 0)
    assert ledger.spent("fr", 50, 61, 0) == (50 + both, 15, 0)


@pytest.mark.parametrize("paid", [True, False])
def test_a_resolved_lease_of_the_dead_covers_no_later_doubt(ledger: Ledger, *, paid: bool) -> None:
    """M5: The lease of a killed process is resolved as a whole; only what its journals have in doubt counts.
    A later doubt stays in doubt.
    """
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    assert _lease(ledger, "fr", 80) == 80
    ledger.report("fr", "h", LeaseReport(Spending(10), 70), BEGIN)
    assert ledger.resolve("2026-11", None, paid=paid, now=LATER) == 70
    expected = (35, 0, 0) if paid else (25, 0, 0)
    assert ledger.spent("fr", 25, 10, 0) == expected
    assert ledger.open_run(entry("fr"), 25, 10, 0, LATER) == expected
    assert ledger.of_run("fr", LATER) == Balance(*expected, 0)
    assert ledger.open_run(entry("fr"), 25, 30, 0, LATER) == (expected[0], 20, 0)


@pytest.mark.parametrize("paid", [True, False])
def test_a_loss_that_was_resolved_stays_resolved(ledger: Ledger, *, paid: bool) -> None:
    """M5: Money that was settled and is in no journal is in doubt until a person resolves it, and not afterwards."""
    ledger.open_run(entry("fr"), 100, 0, 0, BEGIN)
    assert ledger.open_run(entry("fr"), 30, 0, 0, LATER) == (30, 70, 0)
    assert ledger.resolve("2026-11", None, paid=paid, now=LATER) == 70
    expected = (100, 0, 0) if paid else (30, 0, 0)
    assert ledger.open_run(entry("fr"), 30, 0, 0, LATER) == expected
    assert ledger.open_run(entry("fr"), 45, 5, 0, LATER) == (expected[0] + 15, 5, 0)


def test_the_last_cent_is_admitted_once() -> None:
    """Of 200 coroutines that want the money of the last request, one gets it.
    In LiteLLM #34732 checks raced with increments.
    """

    async def race() -> int:
        budget = Budget(WORST)
        tries = [asyncio.create_task(budget.reserve(WORST)) for _ in range(200)]
        await asyncio.sleep(0)
        assert sum(task.done() for task in tries) == 1
        budget.settle(WORST, WORST)  # nothing comes back: all others are refused
        return sum(await asyncio.gather(*tries))

    assert asyncio.run(race()) == 1


_SPENDER = """
import asyncio, random, sys
from datetime import UTC, datetime
from parquill.tasks.money.budget_lease import LeaseAccount
from parquill.tasks.money.budget import Budget
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.money.ledger_accounts import Spending
url, run, limit, worst, seed = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
async def main():
    ledger = Ledger(url)
    account = LeaseAccount(ledger, run, run_limit_nano=None, month_limit_nano=limit)
    async def more(amount):
        return await asyncio.get_running_loop().run_in_executor(None, account.lease, amount)
    budget, draw = Budget(0, more=more), random.Random(seed)
    async def one():
        if await budget.reserve(worst):
            await asyncio.sleep(draw.random() / 100)
            budget.settle(worst, worst)
    await asyncio.gather(*(one() for _ in range(100)))
    account.close(Spending(budget.settled_nano, budget.in_doubt_nano))
    print(budget.settled_nano)
asyncio.run(main())
"""


def test_real_processes_after_one_month(ledger: Ledger, address: str) -> None:
    """Three processes with 100 requests each at once spend a month's budget for 40 to the last, and not one more."""
    for run in ("fr", "de", "ja"):
        ledger.open_run(entry(run), 0, 0, 0, datetime.now(UTC))
    command = [sys.executable, "-c", _SPENDER, address]
    started = [
        subprocess.Popen([*command, run, str(LIMIT), str(WORST), str(seed)], stdout=subprocess.PIPE)
        for seed, run in enumerate(("fr", "de", "ja"))
    ]
    spent = [int(process.communicate(timeout=300)[0]) for process in started]
    booked = ledger.of_month(f"{datetime.now(UTC):%Y-%m}", datetime.now(UTC))
    assert sum(spent) == booked.settled_nano == LIMIT
    assert booked.leased_nano == 0


def _lease(ledger: Ledger, run: str, amount: int, held: LeaseReport = NEW, now: datetime = BEGIN) -> int:
    """Return what the one holder of a run gets of a month of 100 nano-dollars."""
    return ledger.lease(
        run, "h", held, want_nano=amount, least_nano=amount, run_limit_nano=None, month_limit_nano=100, now=now
    )


def test_what_the_dead_had_leased(ledger: Ledger) -> None:
    """The lease of a dead holder stays booked, is in doubt once the holder counts as dead, and can be resolved.
    The run's next start corrects it.
    """
    for run in ("fr", "de"):
        ledger.open_run(entry(run), 0, 0, 0, BEGIN)
    assert _lease(ledger, "fr", 80) == 80
    ledger.report("fr", "h", LeaseReport(Spending(10), 70), BEGIN)
    assert ledger.leased_by_others("de", "h", "2026-11", BEGIN) == 70  # a living holder may give something back
    assert ledger.leased_by_others("de", "h", "2026-11", LATER) == 0  # no run waits for a dead holder
    assert _lease(ledger, "de", 30, now=LATER) == 0
    assert (ledger.of_run("fr", BEGIN), ledger.of_run("fr", LATER)) == (Balance(10, 0, 0, 70), Balance(10, 70, 0, 0))
    assert _lease(ledger, "de", 20, now=LATER) == 20
    ledger.open_run(entry("fr"), 25, 10, 0, LATER)  # the journals: 15 more were paid, and one request was under way
    assert ledger.of_run("fr", LATER) == Balance(25, 10, 0, 0)
    assert _lease(ledger, "de", 45, LeaseReport(Spending(), 20), LATER) == 45
    assert ledger.resolve("2026-11", None, paid=False, now=LATER) == 10


def test_a_holder_that_slept(ledger: Ledger) -> None:
    """A holder whose machine slept for hours wakes up with all that it had: nothing is in doubt or booked twice."""
    clock = [BEGIN]
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    account = LeaseAccount(ledger, "fr", run_limit_nano=800, month_limit_nano=None, now=lambda: clock[0])
    assert account.lease(100) == 100
    clock[0] += timedelta(hours=8)
    assert ledger.of_run("fr", clock[0]) == Balance(0, 100, 0, 0)
    assert account.lease(20) == 100
    assert ledger.of_run("fr", clock[0]) == Balance(0, 0, 0, 200)
    account.close(Spending(60))
    assert ledger.of_run("fr", clock[0]) == Balance(60, 0, 0, 0)


def test_a_holder_whose_money_was_resolved_while_it_slept(ledger: Ledger) -> None:
    """If a person resolves a holder's lease while it sleeps, the holder can no longer spend it.
    What it had spent before is booked.
    """
    clock = [BEGIN]
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    account = LeaseAccount(ledger, "fr", run_limit_nano=100, month_limit_nano=None, now=lambda: clock[0])
    budget = Budget(account.lease(100))
    clock[0] += timedelta(hours=8)
    assert ledger.resolve("2026-11", None, paid=False, now=clock[0]) == 100
    budget.revoke(account.report(Spending(30)))
    assert ledger.of_run("fr", clock[0]) == Balance(30, 0, 0, 0)
    budget.settled_nano = 30
    assert not budget.fits(1)


def test_two_who_report_at_once(ledger: Ledger) -> None:
    """If a report is under way while the account is closed, nothing is booked twice, whichever comes first."""
    for first_is_late in (True, False):
        empty(ledger)
        ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
        account = LeaseAccount(ledger, "fr", run_limit_nano=1_000, month_limit_nano=None, now=lambda: BEGIN)
        account.lease(100)
        calls: list[Callable[[], object]] = [lambda: account.report(Spending(30)), lambda: account.close(Spending(50))]  # noqa: B023
        with ledger.transaction():  # both of them wait for it
            threads = [threading.Thread(target=call) for call in (calls if first_is_late else reversed(calls))]
            for thread in threads:
                thread.start()
                thread.join(0.1)
        for thread in threads:
            thread.join(120)
        assert ledger.of_run("fr", BEGIN) == Balance(50, 0, 0, 0)


def test_a_reply_of_the_database_that_is_lost(ledger: Ledger) -> None:
    """If a commit was done but its reply was lost, the repeated call is booked once.
    This holds for leases, reports, opening and closing.
    """
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    account = LeaseAccount(
        ledger, "fr", run_limit_nano=800, month_limit_nano=None, now=lambda: BEGIN, sleep=lambda _: None
    )
    lost: list[str] = []

    def lose_the_reply(connection: sa.Connection) -> None:
        if lost:
            connection.connection.driver_connection.commit()  # type: ignore[union-attr]
            lost.pop()
            raise sa.exc.OperationalError("COMMIT", {}, Exception("the connection is gone"))

    sa.event.listen(ledger.engine, "commit", lose_the_reply)
    lost.append("lease")
    assert account.lease(100) == 100
    assert ledger.of_run("fr", BEGIN) == Balance(0, 0, 0, 100)
    lost.append("report")
    with pytest.raises(LedgerFailed):
        account.report(Spending(40, 10))
    account.report(Spending(40, 10))
    assert ledger.of_run("fr", BEGIN) == Balance(40, 10, 0, 50)
    lost.append("close")
    account.close(Spending(70, 10))
    assert ledger.of_run("fr", BEGIN) == Balance(70, 10, 0, 0)
    lost.append("open")
    with pytest.raises(LedgerFailed):
        ledger.open_run(entry("fr"), 90, 0, 0, BEGIN)
    ledger.open_run(entry("fr"), 90, 0, 0, BEGIN)
    assert ledger.of_run("fr", BEGIN) == Balance(90, 0, 0, 0)
    assert not lost


def test_a_process_that_joins_a_run(tmp_path: Path) -> None:
    """A second process that opens the sender of a run under way takes nothing from the first.
    Together they keep the limit.
    """
    settings = job_of(
        tmp_path, ["a text", "another"], "http://127.0.0.1:9/v1", budget={"run_usd": 1}, retry={"timeout_s": 1}
    )
    job, options = resolve_job(make_job(settings), None, None, ())
    Folders.of(job.output, job.state).create(DISK)
    run = prepare_run(job, options)
    assert run is not None
    most, part = 750_000_000, 125_000_000

    async def race(threads: ThreadPoolExecutor) -> list[bool]:
        first = open_budget(run, threads)
        got = [await first.budget.reserve(most)]
        joined = open_budget(run, threads, is_first=False)
        got += [await joined.budget.reserve(amount) for amount in (most, part)]
        first.budget.settle(most, part)
        joined.budget.settle(part, part)
        await first.close()
        await joined.close()
        return got

    with ThreadPoolExecutor(2) as threads:
        assert asyncio.run(race(threads)) == [True, False, True]
    ledger = Ledger()
    assert ledger.of_run(run.run_id, datetime.now(UTC)) == Balance(2 * part, 0, 0, 0)
    ledger.close()


def test_a_run_begins_with_what_was_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M5: A resumed run counts what a person has resolved as that person said: the money is free again, or spent."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    settings = job_of(tmp_path, ["a text", "another"], "http://127.0.0.1:9/v1", budget={"run_usd": 1})
    job, options = resolve_job(make_job(settings), None, None, ())
    Folders.of(job.output, job.state).create(DISK)
    run = prepare_run(job, options)
    assert run is not None
    doubt, whole = 300_000_000, 1_000_000_000
    intent = {"type": "intent", "row": 0, "n": 1, "reserved": doubt}
    append_groups(run.folder.journal(0), {"run_id": run.run_id, "shard": 0}, [[intent]])

    async def begin(threads: ThreadPoolExecutor, amount: int) -> tuple[int, int, bool]:
        spending = open_budget(run, threads)
        balance = spending.budget.settled_nano, spending.budget.in_doubt_nano
        fits = await spending.budget.reserve(amount)
        if fits:
            spending.budget.release(amount)
        await spending.close()
        return *balance, fits

    def resolve(*, paid: bool) -> int:
        ledger, now = Ledger(), datetime.now(UTC)
        found = ledger.resolve(f"{now:%Y-%m}", None, paid=paid, now=now)
        ledger.close()
        return found

    with ThreadPoolExecutor(2) as threads:
        assert asyncio.run(begin(threads, whole)) == (0, doubt, False)
        assert resolve(paid=False) == doubt
        assert asyncio.run(begin(threads, whole)) == (0, 0, True)
        more = [{"type": "intent", "row": 1, "n": 1, "reserved": 7}]
        append_groups(run.folder.journal(0), {"run_id": run.run_id, "shard": 0}, [more])
        assert asyncio.run(begin(threads, whole - 7)) == (0, 7, True)
        assert resolve(paid=True) == 7
        assert asyncio.run(begin(threads, whole - 7)) == (7, 0, True)
        assert read_standing(run).totals.settled_nano == 7


class Polled:
    """Sleeps a hundredth of what it is asked for, and keeps the sum that was asked."""

    def __init__(self) -> None:
        self.asked_s = 0.0

    async def sleep(self, seconds: float) -> None:
        self.asked_s += seconds
        await asyncio.sleep(seconds / 100)


def _spending(folder: Path, threads: ThreadPoolExecutor, monthly_usd: float) -> tuple[BudgetLease, Polled]:
    """Open the budget of a run that shares a month with others."""
    settings = job_of(folder, ["a text"], "http://127.0.0.1:9/v1", budget={"monthly_usd": monthly_usd})
    job, options = resolve_job(make_job(settings), None, None, ())
    Folders.of(job.output, job.state).create(DISK)
    run = prepare_run(job, options)
    assert run is not None
    polled = Polled()
    return open_budget(run, threads, sleep=polled.sleep), polled


@pytest.mark.parametrize(("wanted", "admitted"), [(200_000_000, 1), (300_000_000, 0)])
def test_runs_that_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, admitted: int
) -> None:
    """If two runs each lack what the other has leased and does not use, both give it back.
    One gets it all if that is enough, and both end within seconds.
    """
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")

    async def finish(spending: BudgetLease) -> bool:
        got = await spending.budget.reserve(wanted)
        if got:
            spending.budget.settle(wanted, wanted)
        await spending.close()
        return got

    async def race(threads: ThreadPoolExecutor) -> None:
        first, second = (_spending(tmp_path / name, threads, 1) for name in ("a", "b"))
        assert await first[0].budget.reserve(700_000_000)
        first[0].budget.settle(700_000_000, 700_000_000)
        for spending, _ in (first, second):  # a slice each, with little of it used
            assert await spending.budget.reserve(4_000_000)
            spending.budget.settle(4_000_000, 4_000_000)
            assert not spending.budget.fits(wanted)
        assert sum(await asyncio.gather(finish(first[0]), finish(second[0]))) == admitted
        # a few seconds; if each kept what the other lacks, they would wait for 240 s
        assert first[1].asked_s + second[1].asked_s < 100

    with ThreadPoolExecutor(4) as threads:
        asyncio.run(race(threads))


def test_a_run_with_nothing_left_to_admit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that admits nothing more gives back its unused lease while its last request is under way.
    A run that waits for the money gets it.
    """
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")

    async def race(threads: ThreadPoolExecutor) -> None:
        (first, _), (second, polled) = (_spending(tmp_path / name, threads, 1) for name in ("a", "b"))
        assert await first.budget.reserve(4_000_000)
        first.begin()
        assert await second.budget.reserve(996_000_000)
        assert polled.asked_s < 100
        first.budget.settle(4_000_000, 4_000_000)
        second.budget.settle(996_000_000, 996_000_000)
        await first.close()
        await second.close()

    with ThreadPoolExecutor(4) as threads:
        asyncio.run(race(threads))


def test_a_process_whose_run_was_opened_anew(ledger: Ledger) -> None:
    """If another process opens the same run again, the first gets RunTakenOver at its next call.
    It admits nothing more and books nothing.
    """
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    account = LeaseAccount(ledger, "fr", run_limit_nano=100, month_limit_nano=None, now=lambda: BEGIN)
    assert account.lease(100) == 100
    ledger.open_run(entry("fr"), 5, 0, 0, BEGIN)
    for call in (lambda: account.lease(1), lambda: account.report(Spending(50)), lambda: account.close(Spending(50))):
        with pytest.raises(RunTakenOver):
            call()
    assert ledger.of_run("fr", BEGIN) == Balance(5, 0, 0, 0)


def test_a_process_killed_with_money_in_its_hands(ledger: Ledger, address: str) -> None:
    """A process that is killed with SIGKILL leaves its lease booked.
    When its run is resumed, only what the journals say is booked.
    """
    ledger.open_run(entry("fr"), 0, 0, 0, datetime.now(UTC))
    code = (
        "import sys, time\nfrom parquill.tasks.money.budget_lease import LeaseAccount\n"
        "from parquill.tasks.money.ledger import Ledger\n"
        "account = LeaseAccount(Ledger(sys.argv[1]), 'fr', run_limit_nano=1000, month_limit_nano=None)\n"
        "print(account.lease(300), flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"300\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert ledger.of_run("fr", datetime.now(UTC)) == Balance(0, 0, 0, 300)
    ledger.open_run(entry("fr"), 120, 40, 0, datetime.now(UTC))
    assert ledger.of_run("fr", datetime.now(UTC)) == Balance(120, 40, 0, 0)


def test_idle_money_comes_back(ledger: Ledger) -> None:
    """A living holder gives back leased money that it does not need at its next report, so another run gets it."""
    budget, account = _held(ledger, "fr", 1_000, None)
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    ledger.open_run(entry("de"), 0, 0, 0, BEGIN)
    assert asyncio.run(budget.reserve(900))
    budget.release(900)
    other, _ = _held(ledger, "de", 1_000, None)
    assert not asyncio.run(other.reserve(900))
    account.report(Spending(budget.settled_nano, budget.in_doubt_nano), budget.give_back_unused(account.slice_nano))
    assert asyncio.run(other.reserve(900))
    assert asyncio.run(budget.reserve(account.slice_nano))  # what it kept is still its own
    assert ledger.of_month("2026-11", BEGIN).total_nano == 900 + account.slice_nano


def test_a_month_ends_while_money_is_leased(ledger: Ledger) -> None:
    """Money reserved in a month is booked in that month, even if it is paid after midnight.
    Neither month's limit is exceeded.
    """
    end, after = datetime(2026, 11, 30, 23, 59, tzinfo=UTC), datetime(2026, 12, 1, 0, 1, tzinfo=UTC)
    ledger.open_run(entry("fr"), 0, 0, 0, end)
    assert _lease(ledger, "fr", 100, now=end) == 100
    assert _lease(ledger, "fr", 100, LeaseReport(Spending(), 100), after) == 100
    ledger.report("fr", "h", LeaseReport(Spending(150), 50), after)
    assert ledger.of_month("2026-11", after) == Balance(100, 0, 0, 0)
    assert ledger.of_month("2026-12", after) == Balance(50, 0, 0, 50)
    ledger.open_run(entry("fr"), 190, 0, 0, after)  # it was killed, and its journals have 40 more
    assert ledger.of_month("2026-11", after).total_nano == 100
    assert ledger.of_month("2026-12", after).total_nano == 90


def test_a_run_that_goes_on_in_the_next_month(ledger: Ledger) -> None:
    """If journals hold less than was booked (their last group was cut off), the month of the booking is corrected.
    No month is ever negative.
    """
    end, after = datetime(2026, 11, 30, 23, 59, tzinfo=UTC), datetime(2026, 12, 1, 0, 1, tzinfo=UTC)
    ledger.open_run(entry("fr"), 0, 0, 0, end)
    assert _lease(ledger, "fr", 100, now=end) == 100
    ledger.report("fr", "h", LeaseReport(Spending(90), 0), end)
    ledger.open_run(entry("fr"), 70, 20, 0, after)
    assert ledger.of_month("2026-11", after) == Balance(70, 20, 0, 0)
    assert ledger.of_month("2026-12", after) == Balance(0, 0, 0, 0)
    ledger.open_run(entry("fr"), 40, 0, 0, after)
    assert ledger.of_month("2026-11", after) == Balance(40, 30, 0, 0)  # it was paid, whatever the journals have lost
    assert ledger.of_month("2026-12", after) == Balance(0, 0, 0, 0)


def test_more_than_was_reserved() -> None:
    """If a service bills more than was reserved, the true figure is booked.
    Nothing more is admitted once the budget is exceeded.
    """
    budget = Budget(100)
    assert asyncio.run(budget.reserve(60))
    budget.settle(60, 110)
    assert (budget.settled_nano, budget.reserved_nano) == (110, 0)
    assert not asyncio.run(budget.reserve(1))


def test_sums_of_a_hundred_thousand_are_exact(ledger: Ledger) -> None:
    """The ledger adds up a hundred thousand costs to the last nano-dollar, as exact decimals do."""
    draw = random.Random(7)
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    exact, settled = Decimal(0), 0
    for number in range(100_000):
        cost = draw.randrange(1, 10**12)
        exact += Decimal(cost).scaleb(-9)
        settled += cost
        if number % 500 == 499:
            ledger.report("fr", "h", LeaseReport(Spending(settled), 0, is_new=number == 499), BEGIN)
    assert Decimal(ledger.of_run("fr", BEGIN).settled_nano).scaleb(-9) == exact
    assert sum(Decimal(row["settled_nano"]).scaleb(-9) for row in ledger.days("2026-11", BEGIN)) == exact


def test_a_database_that_is_away_for_a_while(server: Postgres) -> None:
    """If PostgreSQL is restarted, a run waits and loses no money: it asks for the lease until the server answers."""
    ledger = Ledger(server.address)
    empty(ledger)
    ledger.open_run(entry("fr"), 0, 0, 0, datetime.now(UTC))
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            server.start()

    account = LeaseAccount(ledger, "fr", run_limit_nano=1_000, month_limit_nano=None, sleep=sleep)
    server.stop()
    assert account.lease(100) == 125
    assert len(waits) == 2
    assert ledger.of_run("fr", datetime.now(UTC)) == Balance(
        0, 0, 0, 125
    )  # an eighth of the limit: the requests are large
    ledger.close()


def test_a_database_that_stays_away(tmp_path: Path) -> None:
    """A ledger that does not answer in time stops the run: nothing is admitted without a lease."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    clock = iter(range(10_000))
    account = LeaseAccount(ledger, "fr", run_limit_nano=1_000, month_limit_nano=None, sleep=lambda _: None)
    ledger.close()
    (tmp_path / "ledger.sqlite").unlink()
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: float(next(clock)))
        with pytest.raises(LedgerFailed):
            account.lease(100)


@pytest.mark.timed
def test_a_lock_that_nobody_lets_go(address: str) -> None:
    """If a stopped process holds the ledger's lock, another process does not hang.
    Its call fails in bounded time, and works later.
    """
    ledger, stuck = Ledger(address, lock_s=0.2), Ledger(address)
    # without a bound this waits forever
    with stuck.transaction(), within(5), pytest.raises(LedgerFailed):
        ledger.of_run("fr", BEGIN)
    assert ledger.of_run("fr", BEGIN) == Balance(0, 0, 0, 0)
    ledger.close()
    stuck.close()


def test_a_ledger_that_is_lost_on_the_way() -> None:
    """If the ledger stays away, all requests that wait for money, and all later ones, fail at once.
    They share one wait.
    """
    asked = 0

    async def more(_: int) -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise LedgerFailed("away")

    async def race() -> list[bool | BaseException]:
        budget = Budget(0, more=more)
        waiting = await asyncio.gather(*(budget.reserve(WORST) for _ in range(50)), return_exceptions=True)
        return [*waiting, *await asyncio.gather(budget.reserve(WORST), return_exceptions=True)]

    outcomes = asyncio.run(race())
    assert all(isinstance(one, LedgerFailed) for one in outcomes)
    assert asked == 1


def test_a_stop_while_money_is_waited_for() -> None:
    """A request that waits for money of the ledger, or of another request, stops waiting when the run is stopped."""

    async def stopped(budget: Budget) -> list[bool]:
        tries = [asyncio.create_task(budget.reserve(WORST)) for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(task.done() for task in tries), "they do not wait"
        budget.stop()
        return await asyncio.wait_for(asyncio.gather(*tries), 60)

    async def after_one_under_way() -> list[bool]:
        budget = Budget(WORST)
        assert await budget.reserve(WORST)
        return await stopped(budget)

    async def while_others_hold_it() -> list[bool]:
        async def none(_: int) -> int:
            return 0

        async def may_come_back() -> bool:
            await asyncio.sleep(0)
            return True

        return await stopped(Budget(0, more=none, patient=may_come_back))

    assert asyncio.run(after_one_under_way()) == [False] * 3
    assert asyncio.run(while_others_hold_it()) == [False] * 3


def test_a_locked_ledger_is_waited_for(tmp_path: Path) -> None:
    """While another process writes to the SQLite file, a lease waits, and then it is granted."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    holder, ledger = Ledger(url), Ledger(url)
    ledger.open_run(entry("fr"), 0, 0, 0, BEGIN)
    got: list[int] = []

    def lease() -> None:
        got.append(_lease(ledger, "fr", 5))

    with holder.transaction():
        thread = threading.Thread(target=lease)
        thread.start()
        thread.join(0.3)
        assert not got
    thread.join(120)
    assert got == [5]


def test_a_run_on_postgresql(jobs: Jobs, server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """With PARQUILL_LEDGER_URL, a whole run, its history and `spend` are in PostgreSQL, to the last digit."""
    ledger = Ledger(server.address)
    empty(ledger)
    ledger.close()
    monkeypatch.setenv("PARQUILL_LEDGER_URL", server.address.replace("postgresql+psycopg", "postgres"))
    done = jobs.run(jobs.job([f"text {row}" for row in range(30)], budget={"run_usd": 1, "monthly_usd": 5}))
    assert done.exit_code == 0, done.stderr
    spend = orjson.loads(jobs.run(jobs.job(), "--json", command="spend").stdout)
    assert spend["cost_usd"] == done.summary["cost_usd"] == done.summary["budget"]["month_usd_after"]
    again = jobs.run(jobs.job(output=str(jobs.folder / "next")), "--json", command="estimate")
    assert "30 answers of the last run" in orjson.loads(again.stdout)["basis_note"]


def test_a_ledger_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger URL that cannot be used gives one sentence, which shows neither the URL nor a password."""
    for url in ("nonsense", "postgresql://user:canary@127.0.0.1:1/x", "mysql+nodriver://canary@h/x"):
        monkeypatch.setenv("PARQUILL_LEDGER_URL", url)
        with pytest.raises(LedgerFailed) as caught:
            Ledger()
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_the_dead_are_dead_later_than_the_silent() -> None:
    """A holder counts as dead only long after the time in which it would have renewed its lease many times."""
    from parquill.tasks.money.budget_lease import REPORT_INTERVAL_S

    assert LEASE_EXPIRY_S >= 100 * REPORT_INTERVAL_S


def test_limits_are_shared_on_each_database(address: str) -> None:
    """Two processes of two runs lease from one limit in turn and give back the rest, on SQLite and PostgreSQL."""
    first, second = RateLedger(address), RateLedger(address)
    one, two = (
        RateHolder("all", "requests", name, f"run-{name}", "job", "host", per_minute, 1)
        for name, per_minute in (("one", 60_000), ("two", 30_000))
    )
    assert first.lease(one, 0, 0).terms == Terms(60_000, 1)
    assert second.lease(two, 0, 0).terms == Terms(30_000, 1)
    leased: list[int] = []
    while sum(leased) < 1_500:  # three seconds of the smaller limit
        for ledger, holder in ((first, one), (second, two)):
            answer = ledger.lease(holder, 100, len(leased) + 1)
            assert answer.terms.per_minute == 30_000
            assert (answer.units, answer.wait_s > 0) in {(100, False), (0, True)}
            leased.append(answer.units)
    rows = {row["run_id"]: row for row in first.holders()}
    assert {rows["run-one"]["per_minute"], rows["run-two"]["per_minute"]} == {60_000, 30_000}
    assert rows["run-one"]["units"] + rows["run-two"]["units"] == sum(leased)
    second.leave(two, [(2, 100)] if leased[1] else [])
    assert first.lease(one, 0, 0).terms == Terms(60_000, 1)
    first.leave(one, [])
    assert first.holders() == []
    for ledger in (first, second):
        ledger.close()
