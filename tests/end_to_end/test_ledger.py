"""The ledger: what all jobs of a user have spent, and a monthly budget that holds across processes."""

from __future__ import annotations

from decimal import Decimal

import orjson
import pytest

from tests.tools.expected import billed_usd, check_books, reserved_usd
from tests.tools.jobs import Jobs


def test_the_ledger_is_the_sum_of_the_summaries(jobs: Jobs) -> None:
    """`spend` shows what was billed, to the last digit: the sum of the summaries of all runs of the job."""
    jobs.service.configure(faults=[{"kind": "gateway:500", "match": "bad", "times": 1}])
    first = jobs.run(jobs.job([f"text {n}" for n in range(10)]))
    second = jobs.run(jobs.job([*(f"text {n}" for n in range(12)), "bad"]))
    assert (first.exit_code, second.exit_code) == (0, 0)
    spend = orjson.loads(jobs.run(jobs.job(), "--json", command="spend").stdout)
    summed = Decimal(first.summary["cost_usd"]) + Decimal(second.summary["cost_usd"])
    assert Decimal(spend["cost_usd"]) == summed == billed_usd(jobs.service)
    assert Decimal(spend["in_doubt_usd"]) == Decimal(second.summary["in_doubt_usd"]) > 0
    budget = second.summary["budget"]
    assert Decimal(budget["month_usd_after"]) - Decimal(budget["month_usd_before"]) == (
        Decimal(second.summary["cost_usd"]) + Decimal(second.summary["in_doubt_usd"])
    )


def test_a_month_that_is_spent_refuses(jobs: Jobs) -> None:
    """Other runs' spending this month counts: a job that does not fit exits 3, shows both numbers, sends nothing."""
    first = jobs.run(jobs.job([f"text {n}" for n in range(20)]))
    spent = Decimal(first.summary["cost_usd"])
    jobs.service.reset()
    settings = jobs.job(
        [f"other {n}" for n in range(20)],
        name="other",
        output=str(jobs.folder / "other"),
        budget={"monthly_usd": str(spent + Decimal("0.00001"))},
    )
    refused = jobs.run(settings)
    assert refused.exit_code == 3, refused.stderr
    assert "$0.00001" in refused.stderr
    assert jobs.service.stats()["requests"] == 0
    raised = jobs.run({**settings, "budget": {"monthly_usd": 1}})
    assert raised.exit_code == 0, raised.stderr
    assert Decimal(raised.summary["budget"]["month_usd_before"]) == spent
    check_books(raised)


def test_two_jobs_at_once_keep_one_month(jobs: Jobs) -> None:
    """Two processes with one monthly budget never exceed it together.
    They use all of it, except a remainder that is too small for a request.
    """
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", output_tokens="fixed:40", latency_ms=120)
    month = Decimal("0.002")
    spawned = []
    for name in ("left", "right"):
        settings = jobs.job(
            [f"{name} {n}" for n in range(100)],
            name=name,
            output=str(jobs.folder / name),
            budget={"monthly_usd": str(month), "when_short": "partial"},
            limits={"max_at_once": 40},
            retry={"timeout_s": 60},
        )
        settings["input"] = str(jobs.write([f"{name} {n}" for n in range(100)], f"{name}.parquet"))
        spawned.append(jobs.spawn(settings))
    done = [each.wait() for each in spawned]
    assert all(each.exit_code for each in done), "both were stopped"
    assert all(each.column("status").count("not_sent") for each in done)
    assert month * 9 / 10 < billed_usd(jobs.service) <= month
    assert sum(Decimal(each.summary["cost_usd"]) for each in done) == billed_usd(jobs.service)
    for each in done:
        assert each.table.num_rows == 100
        check_books(each)


@pytest.mark.parametrize("answer", [pytest.param("unpaid", marks=pytest.mark.nightly), "paid"])
def test_what_a_person_has_settled_stays_settled(jobs: Jobs, answer: str) -> None:
    """A run whose budget is used up by doubtful charges resumes after `spend --resolve unpaid`.
    A resolved amount, paid or unpaid, stays resolved at every start.
    """
    texts = [f"text {n}" for n in range(8)]
    jobs.service.configure(
        prompt_tokens="fixed:20",
        output_tokens="fixed:10",
        faults=[{"kind": "disconnect_after", "total": 6, "billed": False}],
    )
    reserved = reserved_usd(20)
    settings = jobs.job(
        texts,
        budget={"run_usd": str(reserved * 13 / 2), "when_short": "partial"},
        limits={"max_at_once": 1},
        retry={"attempts": 1, "timeout_s": 1},
        tolerate={"not_ok": 1},
    )
    stopped = jobs.run(settings)
    assert (stopped.exit_code, stopped.column("status").count("failed")) == (4, 6), stopped.stderr
    doubt = Decimal(stopped.summary["in_doubt_usd"])
    asking = {**settings, "budget": {**settings["budget"], "when_short": "refuse"}}
    assert jobs.run(asking).exit_code == 3
    assert jobs.run(settings).exit_code == 4
    sent = jobs.service.stats()["requests"]
    resolved = orjson.loads(jobs.run(settings, "--json", "--resolve", answer, command="spend").stdout)
    assert Decimal(resolved["resolved_usd"]) == doubt > 5 * reserved
    by_hand = doubt if answer == "paid" else 0
    for start in [asking] if answer == "unpaid" else [asking, settings, settings]:
        done = jobs.run(start)
        spent = orjson.loads(jobs.run(settings, "--json", command="spend").stdout)
        assert Decimal(spent["in_doubt_usd"]) == 0
        assert Decimal(spent["cost_usd"]) == billed_usd(jobs.service) + by_hand
    if answer == "paid":  # the money is gone
        assert (done.exit_code, jobs.service.stats()["requests"]) == (4, sent)
    else:
        assert (done.exit_code, jobs.service.stats()["requests"]) == (0, sent + 2), done.stderr
        assert done.column("status").count("ok") == 2
