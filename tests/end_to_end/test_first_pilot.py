"""`budget.pilot`: if the worst case does not fit, a run completes a pilot first, and the gate decides on that."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from parquill.tasks.errors import RefusedByBudget
from parquill.tasks.job.load import make_job
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.prompts.run import current_run
from parquill.tasks.storage.folders import Folders
from tests.fakes.running import FakeService
from tests.tools.expected import billed_usd, check_books
from tests.tools.jobs import Jobs
from tests.tools.ledger_machine import entry

ROWS = 1_200
BUDGET = "0.12"


@pytest.fixture(autouse=True)
def _short_answers(service: FakeService) -> None:
    service.configure(output_tokens="fixed:10", prompt_tokens="tiktoken:o200k_base")


def _job(jobs: Jobs, rows: int = ROWS, **settings: Any) -> dict[str, Any]:
    """A job whose answers may have 200 tokens and cost $0.146, but really have 10 and cost $0.009."""
    settings = {"max_output_tokens": 200, "budget": {"run_usd": BUDGET}, **settings}
    return jobs.job([f"text {row:04}" for row in range(rows)], **settings)


def test_a_first_run_finds_out_what_it_costs(jobs: Jobs, service: FakeService) -> None:
    """If the worst case does not fit, the run completes its own pilot, keeps one run id, and pays for each row once."""
    done = jobs.run(_job(jobs))
    assert done.exit_code == 0, done.stderr
    assert "at most $0.15" in done.stderr
    assert "rows were answered for $0.000" in done.stderr
    assert "expected $0.00" in done.stderr
    assert "fits into the budget of $0.12" in done.stderr
    assert done.summary["estimate"]["basis"] == "pilot"
    assert set(done.column("run_id")) == {done.summary["run_id"]}
    stats = service.stats()
    assert (stats["billed"], stats["billed_twice"]) == (ROWS, [])
    assert not any(done.column("reused"))
    assert Decimal(done.summary["cost_usd"]) == billed_usd(service) <= Decimal(BUDGET)
    check_books(done)


def test_the_pilot_costs_at_most_a_hundredth(jobs: Jobs, service: FakeService) -> None:
    """If the pilot shows that the run does not fit, the run is refused once, for at most 1 % of the budget.
    A second start sends nothing.
    """
    service.configure(output_tokens="fixed:190")
    settings = _job(jobs)
    done = jobs.run(settings)
    assert done.exit_code == 3
    assert Decimal("0.0008") < billed_usd(service) <= Decimal("0.0012")
    assert "at most $0.15; for an expected cost" in done.stderr
    assert done.stderr.count("exceeds the budget of $0.12") == 1
    assert "parquill: expected $0.14 exceeds the budget of $0.12" in done.stderr
    assert not (jobs.folder / "out" / "results").exists()
    requests = service.stats()["requests"]
    again = jobs.run(settings)
    assert (again.exit_code, service.stats()["requests"]) == (3, requests)
    assert again.stderr.count("exceeds the budget of $0.12") == 1
    # with a larger budget the run continues from the pilot
    more = jobs.run({**settings, "budget": {"run_usd": "1.00"}})
    assert more.exit_code == 0, more.stderr
    assert (service.stats()["billed"], service.stats()["billed_twice"]) == (ROWS, [])


def test_never_and_a_pilot_that_does_not_fit(jobs: Jobs, service: FakeService) -> None:
    """With `never`, or if 1 % of the budget does not cover eight rows, the run is refused with a hint.
    Nothing is sent.
    """
    never = jobs.run(_job(jobs, budget={"run_usd": BUDGET, "pilot": "never"}))
    assert never.exit_code == 3
    assert "parquill: at most $0.15" in never.stderr
    assert "run `parquill estimate JOB --pilot 100`" in never.stderr
    assert "pilot: " not in never.stderr
    small = jobs.run(_job(jobs, max_output_tokens=400))
    assert small.exit_code == 3
    assert "no pilot was run: a pilot of 8 rows may cost $0.0019, more than 1 % of the budget ($0.0012)" in small.stderr
    assert service.stats()["requests"] == 0


def test_partial_needs_no_pilot(jobs: Jobs, service: FakeService) -> None:
    """With `when_short: partial` the run completes what fits, in row order, without a pilot."""
    service.configure(output_tokens="fixed:190")
    done = jobs.run(_job(jobs, budget={"run_usd": BUDGET, "when_short": "partial"}))
    assert done.exit_code == 4
    assert "rows were answered for" not in done.stderr
    assert done.summary["estimate"]["basis"] == "worst_case"
    assert billed_usd(service) <= Decimal(BUDGET)


@pytest.mark.parametrize(("left_nano", "pays"), [(500_000, False), (1_100_000, True)])
def test_the_month_bounds_the_pilot(jobs: Jobs, service: FakeService, left_nano: int, pays: bool) -> None:  # noqa: FBT001 - parametrized
    """If the month has less left than 1 % of the budget, the pilot spends at most that.
    If that is too little, it sends nothing.
    """
    ledger = Ledger()
    ledger.open_run(entry("another", "another"), 1_000_000_000 - left_nano, 0, 0, datetime.now(UTC))
    ledger.close()
    service.configure(output_tokens="fixed:190")
    refused = jobs.run(_job(jobs, budget={"run_usd": BUDGET, "monthly_usd": "1.00"}))
    assert refused.exit_code == 3, refused.stderr
    assert "exceeds what is left of the month ($0.00" in refused.stderr
    assert "of $1.00, $1.00 booked) and the budget of $0.12 (" in refused.stderr
    assert billed_usd(service) <= Decimal(left_nano).scaleb(-9)
    assert (service.stats()["billed"] > 0) is pays
    if not pays:
        assert "more than what is left of the month ($0.0005)" in refused.stderr


@pytest.mark.usefixtures("no_server")
def test_a_pilot_that_needs_approval_asks_first(jobs: Jobs, service: FakeService) -> None:
    """A pilot that alone may exceed approval_usd waits for a person, as a run does.
    If no one can be asked, nothing is sent.
    """
    done = jobs.run(_job(jobs, budget={"run_usd": BUDGET, "approval_usd": "0.0005"}))
    assert done.exit_code == 3
    assert "at most $0.15 is above budget.approval_usd = $0.0005, and no one can be asked here" in done.stderr
    assert service.stats()["requests"] == 0


@pytest.mark.usefixtures("no_server")
def test_what_the_pilot_learned_is_what_is_asked_for(jobs: Jobs, service: FakeService) -> None:
    """A pilot below approval_usd needs no approval.
    The run needs it only if the cost that the pilot expects is above it.
    """
    asked = jobs.run(_job(jobs, budget={"run_usd": BUDGET, "approval_usd": "0.0013"}))
    assert asked.exit_code == 3
    assert "parquill: expected $0.00" in asked.stderr
    assert "is above budget.approval_usd = $0.0013" in asked.stderr
    assert 0 < service.stats()["billed"] < ROWS
    assert billed_usd(service) <= Decimal("0.0012")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.nightly), signal.SIGKILL])
def test_a_pilot_that_is_cut_off(jobs: Jobs, service: FakeService, number: signal.Signals) -> None:
    """If a run is interrupted or killed in its pilot, the same command resumes it.
    Only requests in flight at a kill are paid twice.
    """
    service.configure(latency_ms=400)
    settings = _job(jobs)
    spawned = jobs.spawn({**settings, "limits": {"max_at_once": 2}})
    deadline = time.monotonic() + 120
    while service.stats()["billed"] < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    spawned.process.send_signal(number)
    done = spawned.wait()
    assert done.exit_code == (130 if number is signal.SIGINT else -number), done.stderr
    assert 3 <= service.stats()["billed"] < 30
    run = current_run(Folders.of(str(settings["output"]), None))
    assert run is not None
    service.configure(latency_ms=0)
    again = jobs.run(settings)
    assert again.exit_code == 0, again.stderr
    assert again.summary["run_id"] == run.run_id
    assert again.column("status") == ["ok"] * ROWS
    in_flight = 0 if number is signal.SIGINT else 2
    assert len(service.stats()["billed_twice"]) <= in_flight
    assert service.stats()["billed"] <= ROWS + in_flight
    check_books(again)


def test_the_flow_has_the_same_pilot(jobs: Jobs, service: FakeService) -> None:
    """The deployed flow completes the same pilot; with `pilot: never` it is refused without one."""
    from parquill.flows.complete_prompts import complete_prompts

    with pytest.raises(RefusedByBudget, match="at most"):
        complete_prompts(make_job(_job(jobs, budget={"run_usd": BUDGET, "pilot": "never"})))
    assert service.stats()["requests"] == 0
    summary = complete_prompts(make_job(_job(jobs))).summary
    assert summary["rows"]["ok"] == ROWS
    assert summary["estimate"]["basis"] == "pilot"
    assert (service.stats()["billed"], service.stats()["billed_twice"]) == (ROWS, [])
