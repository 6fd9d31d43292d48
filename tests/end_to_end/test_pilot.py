"""`estimate --pilot`: a pilot completes some rows first to learn the cost, and the run never pays for them again."""

from __future__ import annotations

import random
import signal
import time
from decimal import Decimal
from typing import Any

import orjson
import pytest

from parquill.tasks.errors import NotApproved
from parquill.tasks.job.load import make_job
from parquill.tasks.prompts.approvals import approve_run
from parquill.tasks.prompts.run import current_run
from parquill.tasks.storage.folders import Folders
from tests.fakes.running import FakeService
from tests.tools.jobs import Done, Jobs


def _texts(count: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [f"{row} " + "word " * int(draw.lognormvariate(3.5, 0.6)) for row in range(count)]


def _pilot(jobs: Jobs, settings: dict[str, Any], rows: str) -> tuple[Done, dict[str, Any]]:
    done = jobs.run(settings, "--pilot", rows, "--json", command="estimate")
    return done, orjson.loads(done.stdout)


def test_the_run_goes_on_from_the_pilot(jobs: Jobs, service: FakeService) -> None:
    """The run does not pay again for rows of the pilot, and its cost is near the interval that the pilot gave."""
    service.configure(output_tokens="proportional:0.5:0.5")
    settings = jobs.job(_texts(1_500), max_output_tokens=60, budget={"run_usd": "1.00"}, tolerate={"not_ok": 1})
    done, pilot = _pilot(jobs, settings, "100")
    assert done.exit_code == 0
    assert service.stats()["billed"] == 100
    assert (pilot["pilot_rows"], pilot["rows"], pilot["rows_to_send"]) == (100, 1_500, 1_400)
    assert (pilot["basis"], pilot["basis_note"]) == ("pilot", "output from 100 answers of a pilot")
    assert not (jobs.folder / "out" / "results").exists()
    done = jobs.run(settings)
    assert done.exit_code == 0
    assert service.stats()["billed"] == 1_500
    assert service.stats()["billed_twice"] == []
    cost = Decimal(done.summary["cost_usd"])
    low, high = Decimal(pilot["cost_usd_low"]), Decimal(pilot["cost_usd_high"])
    assert low < Decimal(pilot["cost_usd_expected"]) < high
    # one run in ten is outside, which tests/tasks/money/test_length_model.py counts; but never far
    assert low - (high - low) < cost < high + (high - low)
    assert done.summary["estimate"]["cost_usd_expected"] == pilot["cost_usd_expected"]
    assert cost == sum(done.column("cost_usd")) == Decimal(done.summary["paid_usd"])
    assert set(done.column("run_id")) == {done.summary["run_id"]}
    assert not any(done.column("reused"))
    # the whole run is history now, and the pilot is part of it
    again = jobs.run(settings | {"output": str(jobs.folder / "next")}, "--json", command="estimate")
    found = orjson.loads(again.stdout)
    assert found["basis"] == "history"
    assert found["basis_note"].startswith("output from 1,500 answers of the last run")


def test_a_pilot_again_and_a_larger_one(jobs: Jobs, service: FakeService) -> None:
    """The same pilot again sends nothing and gives the same estimate; a larger one completes only what is missing."""
    settings = jobs.job(_texts(300))
    _, first = _pilot(jobs, settings, "40")
    _, second = _pilot(jobs, settings, "40")
    assert service.stats()["billed"] == 40
    assert second == first
    _, larger = _pilot(jobs, settings, "70")
    assert service.stats()["billed"] == 70
    assert larger["pilot_rows"] == 70
    plain = orjson.loads(jobs.run(settings, "--json", command="estimate").stdout)
    assert plain["rows_to_send"] == 230
    assert plain["basis_note"] == "output from 70 answers of a pilot"
    assert service.stats()["billed_twice"] == []


def test_as_many_rows_as_it_takes(jobs: Jobs, service: FakeService) -> None:
    """`--pilot auto` ends when the interval is within 5 % of the expected cost, and says so."""
    service.configure(output_tokens="proportional:0.5:0.3")
    settings = jobs.job(_texts(2_000), max_output_tokens=200, budget={"run_usd": "100.00"})
    done, pilot = _pilot(jobs, settings, "auto")
    assert done.exit_code == 0
    assert pilot["pilot_ended"].startswith("the cost is known to ±")
    expected = Decimal(pilot["cost_usd_expected"])
    assert Decimal(pilot["cost_usd_high"]) - expected <= expected * Decimal("0.05")
    assert 30 <= service.stats()["billed"] < 300


def test_at_most_a_hundredth_of_the_budget(jobs: Jobs, service: FakeService) -> None:
    """`--pilot auto` never books more than 1 % of the budget, and names this as the reason why it ended."""
    service.configure(output_tokens="proportional:0.5:1.2", prompt_tokens="tiktoken:o200k_base")
    settings = jobs.job(_texts(2_000), max_output_tokens=100, budget={"run_usd": "0.20"})
    done, pilot = _pilot(jobs, settings, "auto")
    assert done.exit_code == 0
    assert pilot["pilot_ended"] == "1 % of the budget ($0.002) is used up"
    assert Decimal("0.001") < Decimal(pilot["paid_usd"]) <= Decimal("0.002")
    assert service.stats()["billed"] == pilot["pilot_rows"]


def test_a_pilot_that_does_not_fit(jobs: Jobs, service: FakeService) -> None:
    """A pilot whose worst case exceeds the budget is refused with both numbers, and nothing is sent."""
    settings = jobs.job(_texts(200), max_output_tokens=1_000, budget={"run_usd": "0.01"})
    done = jobs.run(settings, "--pilot", "100", command="estimate")
    assert done.exit_code == 3
    assert "a pilot of 100 rows may cost $0.06" in done.stderr
    assert "what is left of the budget ($0.01)" in done.stderr
    assert service.stats()["billed"] == 0


@pytest.mark.parametrize("rows", ["100", "auto"])
def test_a_pilot_does_not_spend_what_asks_first(jobs: Jobs, service: FakeService, rows: str) -> None:
    """If a pilot's worst case is above approval_usd, it exits 3 with both numbers and advice, and nothing is sent."""
    settings = jobs.job(_texts(200), budget={"run_usd": "0.50", "approval_usd": "0.0005"})
    done = jobs.run(settings, "--pilot", rows, command="estimate")
    assert done.exit_code == 3
    assert "may cost $0.00" in done.stderr
    assert "above budget.approval_usd = $0.0005" in done.stderr
    assert "choose fewer rows, or start the run, which asks" in done.stderr
    assert service.stats()["requests"] == 0


def test_pilots_together_do_not_spend_it_either(jobs: Jobs, service: FakeService) -> None:
    """Amounts that earlier pilots booked count, so many small pilots cannot pass the threshold.
    A pilot whose rows are already answered is not refused.
    """
    service.configure(output_tokens="fixed:50")
    settings = jobs.job([f"text {row:03}" for row in range(200)], budget={"approval_usd": "0.001"})
    for rows in ("20", "25", "20", "25"):  # about 0.00003 each
        assert jobs.run(settings, "--pilot", rows, command="estimate").exit_code == 0
    assert service.stats()["billed"] == 25
    done = jobs.run(settings, "--pilot", "40", command="estimate")
    assert done.exit_code == 3
    assert "on top of the $0.0007" in done.stderr
    assert service.stats()["billed"] == 25


@pytest.mark.usefixtures("no_server")
def test_an_approved_run_may_be_piloted(jobs: Jobs, service: FakeService) -> None:
    """A run that a person approved and that was cut off may be piloted.
    If a pilot finds it more expensive, it needs a new approval.
    """
    service.configure(output_tokens="fixed:50")
    settings = jobs.job(_texts(100), budget={"approval_usd": "0.0001"})
    assert jobs.run(settings).exit_code == 3
    run = current_run(Folders.of(str(settings["output"]), None))
    assert run is not None
    approve_run(run, "a test")
    assert jobs.run(settings, "--pilot", "50", command="estimate").exit_code == 0
    assert service.stats()["billed"] == 50
    approve_run(run, "a test", run.estimate.expected_nano // 2)
    done = jobs.run(settings, "--pilot", "60", command="estimate")
    assert (done.exit_code, "the run is not approved" in done.stderr) == (3, True)


def test_nobody_is_asked_for_what_is_spent(jobs: Jobs, service: FakeService) -> None:
    """A run that a pilot has completed needs no approval, whatever it cost: it sends nothing and writes its results."""
    settings = jobs.job(_texts(20), name="piloted", budget={"run_usd": 1})
    assert jobs.run(settings, "--pilot", "20", command="estimate").exit_code == 0
    assert service.stats()["billed"] == 20
    done = jobs.run(settings | {"budget": {"run_usd": 1, "approval_usd": "0.0000001"}})
    assert done.exit_code == 0, done.stderr
    assert service.stats()["billed"] == 20
    assert done.summary["rows"]["ok"] == 20


def test_the_worst_case_may_exceed_what_the_pilot_shows_to_fit(jobs: Jobs, service: FakeService) -> None:
    """A job that is refused for its worst case runs once a pilot has shown how many tokens its answers really take."""
    service.configure(output_tokens="fixed:10")
    settings = jobs.job(_texts(300), max_output_tokens=1_000, budget={"run_usd": "0.10"})
    assert jobs.run(settings).exit_code == 3
    done, pilot = _pilot(jobs, settings, "50")
    assert (done.exit_code, pilot["fits_budget"]) == (0, True)
    assert jobs.run(settings).exit_code == 0
    assert service.stats()["billed"] == 300


@pytest.mark.nightly
def test_a_pilot_that_is_killed(jobs: Jobs, service: FakeService) -> None:
    """Answers that a killed pilot had journaled are kept; at most the requests in flight are paid twice."""
    service.configure(latency_ms=150)
    settings = jobs.job(_texts(400), limits={"max_at_once": 4}, tolerate={"not_ok": 1})
    spawned = jobs.spawn(settings, "--pilot", "200", command="estimate")
    deadline = time.monotonic() + 180
    while service.stats()["billed"] < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    spawned.process.send_signal(signal.SIGKILL)
    spawned.process.wait()
    before = service.stats()["billed"]
    assert 20 <= before < 200
    service.configure(latency_ms=0)
    done = jobs.run(settings)
    assert done.exit_code == 0
    assert service.stats()["billed"] <= 400 + 4
    assert len(service.stats()["billed_twice"]) <= 4
    assert done.summary["rows"]["ok"] == 400


def test_a_grown_input_after_a_pilot(jobs: Jobs, service: FakeService) -> None:
    """If the input changes after a pilot, its answers are still used, and their rows show their cost."""
    texts = _texts(100)
    settings = jobs.job(texts)
    _, estimate = _pilot(jobs, settings, "30")
    jobs.write([*texts, "one more"])
    done = jobs.run(settings)
    assert done.exit_code == 0
    assert service.stats()["billed"] == 101
    assert service.stats()["billed_twice"] == []
    paid = {row["run_id"] for row in done.rows}
    assert len(paid) == 2
    pilot = [row["cost_usd"] for row in done.rows if row["run_id"] != done.summary["run_id"]]
    assert (len(pilot), sum(pilot)) == (30, Decimal(estimate["paid_usd"]))


def test_a_service_that_refuses_the_pilot(jobs: Jobs, service: FakeService) -> None:
    """If the service refuses the key, the pilot ends with one sentence and exit 1."""
    service.configure(require_key="another")
    done = jobs.run(jobs.job(_texts(50)), "--pilot", "20", command="estimate")
    assert done.exit_code == 1
    assert "the pilot stopped" in done.stderr
    assert service.stats()["billed"] == 0


def test_answers_that_fail_tell_nothing(jobs: Jobs, service: FakeService) -> None:
    """Without an answer to learn from, the estimate stays at the worst case and says so."""
    service.configure(faults=[{"kind": "gateway:500"}])
    settings = jobs.job(_texts(60), retry={"attempts": 1})
    done, pilot = _pilot(jobs, settings, "10")
    assert done.exit_code == 1
    assert pilot["pilot_rows"] == 0
    assert pilot["basis"] == "worst_case"
    assert pilot["cost_usd_low"] is None
    assert Decimal(pilot["in_doubt_usd"]) > 0


def test_nothing_to_learn_where_all_is_done(jobs: Jobs, service: FakeService) -> None:
    """A pilot of a finished job sends nothing and gives the plain estimate."""
    settings = jobs.job(_texts(20))
    assert jobs.run(settings).exit_code == 0
    done = jobs.run(settings, "--pilot", "10", command="estimate")
    assert done.exit_code == 0
    assert "every row already has its answer" in done.stderr
    assert service.stats()["billed"] == 20


@pytest.mark.parametrize("rows", ["0", "-1", "some", "1.5", "10000000"])
def test_a_number_of_rows_that_cannot_be_meant(jobs: Jobs, rows: str) -> None:
    """Anything except a number of rows or `auto` is refused before the input is read."""
    assert jobs.run(jobs.job(_texts(3)), f"--pilot={rows}", command="estimate").exit_code == 2


def test_the_deployed_estimate_has_a_pilot_too(jobs: Jobs, service: FakeService) -> None:
    """The deployed flow accepts the same parameter and returns the same figures."""
    from parquill.flows.estimate_cost import estimate_cost

    estimate = estimate_cost(make_job(jobs.job(_texts(50))), pilot=10)
    assert (estimate.pilot_rows, estimate.rows_to_send) == (10, 40)
    assert service.stats()["billed"] == 10


def test_the_deployed_estimate_does_not_spend_what_asks_first(jobs: Jobs, service: FakeService) -> None:
    """The flow's pilot is refused for the same reason as the command's."""
    from parquill.flows.estimate_cost import estimate_cost

    with pytest.raises(NotApproved, match="a pilot of 40 rows may cost"):
        estimate_cost(make_job(jobs.job(_texts(50), budget={"approval_usd": 0.0001})), pilot=40)
    assert service.stats()["requests"] == 0


def test_a_pilot_without_an_answer(jobs: Jobs) -> None:
    """If no row of a pilot gets an answer, the command says why and ends with exit code 1; failures are counted."""
    jobs.service.configure(faults=[{"kind": "status:400", "match": "bad"}])
    settings = jobs.job([*(f"bad {row}" for row in range(5)), "good"])
    done = jobs.run(settings, "--pilot", "6", command="estimate")
    assert done.exit_code == 0
    assert "pilot: 1 rows were answered for $" in done.stdout
    assert "5 got no answer, the first one: bad_request: " in done.stdout
    settings = jobs.job([f"bad {row}" for row in range(6)], output=str(jobs.folder / "other"))
    done, pilot = _pilot(jobs, settings, "6")
    assert (done.exit_code, pilot["exit_code"], pilot["pilot_rows"]) == (1, 1, 0)
    assert pilot["error"].startswith("the pilot got no answer, so the cost is not known: bad_request: ")
