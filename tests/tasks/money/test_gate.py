"""The gate refuses a run with both amounts, before anything is sent."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadJob, RefusedByBudget
from parquill.tasks.job.load import make_job
from parquill.tasks.job.settings import Job
from parquill.tasks.money.gate import (
    Verdict,
    approval_sentence,
    asks_approval,
    check_budget,
    check_largest,
    pass_gate,
)
from parquill.tasks.money.model_price import ModelPrice, PriceBand
from parquill.tasks.records import Estimate, Totals
from tests.tools.small_jobs import make_test_job

USD = 1_000_000_000
PRICE = ModelPrice("gpt-6-luna", (PriceBand(0, 1, 1, 1, 1),), None, "a test", "2026-08-01")


def _job(**budget: Any) -> Job:
    least = {"name": "x", "input": "i", "output": "o", "prompt": {"user": "{{ x }}"}, "model": "gpt-6-luna"}
    limits = {"tokens_per_minute": budget.pop("tokens_per_minute", None)}
    return make_job({**least, "max_output_tokens": 1_000, "budget": budget, "limits": limits})


def _estimate(expected: int, worst: int | None = None, to_send: int = 12_000, largest: int = 500) -> Estimate:
    return Estimate(
        rows=to_send,
        to_send=to_send,
        prompt_tokens=1,
        completion_tokens_expected=1,
        expected_nano=expected,
        p90_nano=expected,
        worst_nano=expected if worst is None else worst,
        basis="history",
        basis_note="from a test",
        largest_request=largest,
        exact=True,
    )


def _pass(job: Job, estimate: Estimate, spent: Totals | None = None) -> Verdict:
    verdict = check_budget(job, estimate, PRICE, spent)
    pass_gate(job, estimate, verdict)
    return verdict


def test_a_refusal_shows_both_numbers() -> None:
    """A refusal shows the expected cost, the budget, the number of rows, the model and the date of its prices."""
    with pytest.raises(RefusedByBudget) as caught:
        _pass(_job(run_usd=40), _estimate(41_200_000_000))
    message = str(caught.value)
    assert message.startswith(
        "expected $41.20 exceeds the budget of $40.00 (12,000 rows to send, gpt-6-luna, prices of 2026-08-01)"
    )
    assert "from a test" in message
    assert "when_short: partial" in message
    assert caught.value.exit_code == 3


def test_to_the_last_nano_dollar() -> None:
    """A cost of exactly the budget fits; a nano-dollar more does not."""
    job = _job(run_usd=40)
    assert check_budget(job, _estimate(40 * USD), PRICE).fits
    assert not check_budget(job, _estimate(40 * USD + 1), PRICE).fits


@settings(max_examples=150)
@given(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_expected_cost_decides(budget: int, expected: int, more: int) -> None:
    """A job fits exactly when its expected cost fits; it gets a warning exactly when only the worst case does not."""
    verdict = check_budget(_job(run_usd=f"{budget}e-9"), _estimate(expected, expected + more), PRICE)
    assert verdict.fits == (expected <= budget)
    assert (verdict.warning is not None) == (expected <= budget < expected + more)


def test_a_prompt_without_a_column_is_warned_of() -> None:
    """A template that is the same for every row causes a warning before anything is paid.

    There is no warning where that is intended, or where there is one row. The warning is shown together with others.
    """
    for prompt, changes, rows, warned in (
        ({"user": "Summarize:  please"}, {}, 600, True),
        ({"system": "Be short.", "user": "Hello"}, {}, 2, True),
        ({"system": "Speak {{ language }}.", "user": "Hello"}, {}, 600, False),
        ({"user": "{% if a %}1{% endif %}"}, {}, 600, False),
        ({"user": "A poem"}, {"dedupe": False}, 600, False),
        ({"user": "A poem"}, {"parameters_column": "p"}, 600, False),
        ({"user": "A poem"}, {}, 1, False),
    ):
        job = make_job({**_job(run_usd=1).model_dump(mode="json"), "prompt": prompt, **changes})
        warning = check_budget(job, _estimate(5, to_send=rows), PRICE).warning
        assert (warning is not None) == warned, (prompt, changes, rows)
        if warning is not None:
            assert warning.startswith(f"the prompt uses no column, so all {rows} rows are one request")
    job = make_job({**_job(run_usd=1).model_dump(mode="json"), "prompt": {"user": "x"}})
    both = str(check_budget(job, _estimate(5, 10**10), PRICE).warning)
    assert "uses no column" in both
    assert "may stop on the way" in both


def test_what_is_wrong_with_the_model_is_warned_of() -> None:
    """A model that is shut down, or will be, or that thinks within few tokens causes a warning.

    There is none when nothing is left to send.
    """
    for model, parameters, warned in (
        ("gpt-4o-mini", {}, "shuts down on 2027-01-14"),
        ("gpt-3.5-turbo", {}, "was shut down on 2026-10-23"),
        ("gpt-6-luna", {}, "thinks before it answers"),
        ("gpt-6-luna", {"reasoning_effort": "none"}, None),
    ):
        changes = {"model": model, "parameters": parameters, "max_output_tokens": 100}
        job = make_job({**_job(run_usd=1).model_dump(mode="json"), **changes})
        warning = check_budget(job, _estimate(5), PRICE, today=date(2026, 11, 29)).warning
        assert warning is None if warned is None else warned in str(warning)
        assert (
            check_budget(job, _estimate(5, to_send=0), PRICE, today=date(2026, 11, 29)).warning != warning or not warned
        )


def test_an_input_without_rows_is_warned_of() -> None:
    """An input without rows causes a warning before it empties the results."""
    assert "the input has no rows" in str(check_budget(_job(run_usd=1), _estimate(0, to_send=0), PRICE).warning)


def test_submitted_rows_are_not_left_to_pay() -> None:
    """M8: Rows that wait at the service count with their reservation, and not once more as left to pay.
    A run that has only such rows is neither refused nor approved again: it sends nothing.
    """
    waiting = Totals(submitted=6_000, submitted_nano=20 * USD)
    job, estimate = _job(run_usd=40, approval_usd=1), _estimate(20 * USD, 40 * USD)
    verdict = check_budget(job, estimate, PRICE, waiting)
    assert (verdict.expected_nano, verdict.left, verdict.warning) == (30 * USD, 6_000, None)
    more = Totals(submitted=6_000, submitted_nano=20 * USD, settled_nano=5 * USD, worst_nano=10 * USD)
    more.statuses = {"ok": 3_000}
    verdict = check_budget(job, estimate, PRICE, more)
    assert (verdict.expected_nano, verdict.left) == (30 * USD, 3_000)
    assert asks_approval(job, verdict)
    whole = Totals(submitted=12_000, submitted_nano=40 * USD)
    verdict = _pass(_job(run_usd=30, approval_usd=1), estimate, whole)
    assert (verdict.expected_nano, verdict.left) == (40 * USD, 0)
    assert not asks_approval(job, verdict)


def test_the_worst_case_only_warns() -> None:
    """If only the worst case does not fit, the run begins with a warning that shows both amounts."""
    verdict = _pass(_job(run_usd=40), _estimate(30 * USD, 50 * USD))
    assert verdict.fits
    assert verdict.warning == "the worst case of $50.00 exceeds the budget of $40.00: the run may stop on the way"


def test_without_a_budget_nothing_is_refused_and_it_is_said() -> None:
    """Without a budget there is no limit, and the sentence says so."""
    verdict = _pass(_job(), _estimate(10**15))
    assert (verdict.fits, verdict.warning) == (True, None)
    assert "no budget is set" in verdict.sentence


def test_partial_completes_what_fits() -> None:
    """With `when_short: partial`, the gate lets a job through that does not fit, and still says so."""
    verdict = _pass(_job(run_usd=1, when_short="partial"), _estimate(50 * USD))
    assert not verdict.fits
    assert "exceeds the budget" in verdict.sentence


def test_nothing_to_send_is_never_refused() -> None:
    """A run that already has all its answers needs no budget."""
    spent = Totals(settled_nano=2 * USD)
    assert not _pass(_job(run_usd=1), _estimate(0, to_send=0), spent).fits


def test_what_was_spent_counts_once() -> None:
    """A resumed run counts what it paid and what is in doubt, and does not estimate the rows that it paid."""
    estimate = _estimate(10 * USD)
    half = Totals(settled_nano=1 * USD, in_doubt_nano=1 * USD, worst_nano=5 * USD)
    assert check_budget(_job(run_usd=7), estimate, PRICE, half).fits
    assert not check_budget(_job(run_usd="6.999999999"), estimate, PRICE, half).fits
    overshot = Totals(settled_nano=9 * USD, worst_nano=12 * USD)
    assert check_budget(_job(run_usd=9), estimate, PRICE, overshot).fits


def test_the_month_is_held_against_what_others_booked() -> None:
    """A monthly budget is reduced by what other runs of the month have booked, and a refusal shows all amounts."""
    job = _job(monthly_usd=100)
    assert check_budget(job, _estimate(30 * USD), PRICE, None, 70 * USD).fits
    verdict = check_budget(job, _estimate(30 * USD), PRICE, None, 71 * USD)
    assert not verdict.fits
    assert all(part in verdict.sentence for part in ("expected $30.00", "$29.00", "$100.00", "$71.00"))


def test_a_month_that_is_used_up_is_told_as_that() -> None:
    """If more is booked than the month had, a refusal says that its budget is used up and shows no negative amount."""
    verdict = check_budget(_job(monthly_usd=100), _estimate(USD), PRICE, None, 100 * USD + 3_218_000)
    assert not verdict.fits
    assert verdict.sentence.startswith(
        "expected $1.00 exceeds what is left of the month (nothing: its budget of $100.00 is used up, $100.00 booked) ("
    )
    assert "-" not in verdict.sentence.partition(" (12,000")[0]


def test_the_tighter_budget_decides() -> None:
    """With a budget for the run and one for the month, a refusal names the one with less left."""
    job = _job(run_usd=10, monthly_usd=100)
    assert "the budget of $10.00" in check_budget(job, _estimate(20 * USD), PRICE, None, 0).sentence
    assert "the month" in check_budget(job, _estimate(20 * USD), PRICE, None, 95 * USD).sentence


def test_a_request_that_never_fits_a_minute_is_refused() -> None:
    """A request larger than tokens_per_minute would wait forever, so it is refused before the first payment."""
    with pytest.raises(BadJob, match=r"5,001 tokens .* limits\.tokens_per_minute = 5,000"):
        _pass(_job(tokens_per_minute=5_000), _estimate(1, largest=5_001))
    assert _pass(_job(tokens_per_minute=5_000), _estimate(1, largest=5_000)).fits


def test_what_costs_nothing_is_expected_to_cost_nothing() -> None:
    """A free model has an expected cost of zero, not of a nano-dollar."""
    verdict = check_budget(_job(run_usd=1), _estimate(0), PRICE)
    assert verdict.sentence.startswith("expected $0.00 fits into the budget of $1.00")


def test_a_month_without_other_runs_is_whole() -> None:
    """If no other run has booked anything, all of the monthly budget is left."""
    for booked in (None, 0):
        assert check_budget(_job(monthly_usd=1), _estimate(USD), PRICE, None, booked).fits
        assert not check_budget(_job(monthly_usd=1), _estimate(USD + 1), PRICE, None, booked).fits


@pytest.mark.parametrize(
    ("limit", "booked", "open_usd", "rows_left", "asks"),
    [
        (10, 0, 10, 5, False),  # exactly what may be spent without asking
        (10, 0, 11, 5, True),
        (10, 1, 10, 5, True),  # together with what a pilot has booked
        (10, 9, 1, 5, False),
        (10, 20, 0, 0, False),  # spent already: nothing is left to send
        (None, 0, 99, 5, False),
    ],
)
def test_who_is_asked(limit: int | None, booked: int, open_usd: int, rows_left: int, asks: bool) -> None:  # noqa: FBT001
    """A person is asked to approve the cost of the whole run, as long as something is left to send."""
    job = _job(approval_usd=limit) if limit else _job()
    worst = booked + open_usd
    totals = Totals(settled_nano=booked * USD, worst_nano=booked * USD, statuses={"ok": 10 - rows_left})
    verdict = check_budget(job, _estimate(worst * USD, to_send=10), PRICE, totals)
    assert asks_approval(job, verdict) is asks


def _auto(**budget: Any) -> Job:
    return _job(**budget).model_copy(update={"lane": "auto", "finish_by": "8h"})


def test_the_gate_of_two_lanes() -> None:
    """The gate shows what the run costs at least and at most: in the cheap lane, and if all rows leave it.
    It refuses only what does not fit at the cheap price.
    """
    cheap = _estimate(3_200_000_000, 5_000_000_000)
    estimate = replace(
        cheap, lane="flex", moved_expected_nano=6_400_000_000, moved_p90_nano=7 * USD, moved_worst_nano=10 * USD
    )
    verdict = _pass(_auto(run_usd=12), estimate)
    assert verdict.sentence.startswith("expected $3.20 fits into the budget of $12.00 (")
    assert verdict.sentence.endswith("; expected $6.40 if all rows leave the flex lane for the live lane")
    assert verdict.warning is None
    verdict = _pass(_auto(run_usd=6), estimate)
    assert verdict.warning == (
        "the worst case of $10.00 exceeds the budget of $6.00: rows that do not fit at the live price stay in the flex "
        "lane, and may miss finish_by"
    )
    verdict = _pass(_auto(run_usd=4), estimate)
    assert verdict.warning is not None
    assert verdict.warning.endswith("the run may stop on the way")
    with pytest.raises(RefusedByBudget, match=r"expected \$3.20 exceeds the budget of \$3.00"):
        _pass(_auto(run_usd=3), estimate)
    # of a resumed run, only the rows that are left can move
    half = Totals(settled_nano=1_600_000_000, worst_nano=2_500_000_000)
    assert _pass(_auto(run_usd=12), estimate, half).sentence.endswith(
        "; expected $4.80 if all rows leave the flex lane for the live lane"
    )
    # a person approves what the run may cost, not only the cheaper lane
    for limit, asked in ((6.41, False), (6.39, True)):
        job = _auto(run_usd=12, approval_usd=limit)
        assert asks_approval(job, check_budget(job, estimate, PRICE)) is asked
    assert approval_sentence(job, check_budget(job, estimate, PRICE)).startswith("expected $6.40 is above")


def test_the_largest_request_fits_each_endpoint() -> None:
    """A request that one of several endpoints would never let through is refused, with the place of the limit."""
    endpoints = [{"api_key_env": "A"}, {"api_key_env": "B", "limits": {"tokens_per_minute": 499}}]
    with pytest.raises(BadJob, match=r"more than limits.tokens_per_minute = 499: .* at `endpoints.1`"):
        check_largest(make_test_job(endpoints=endpoints), _estimate(1))


def test_each_endpoint_is_looked_up_among_shutdowns() -> None:
    """A model that one of several endpoints does not serve any more causes a warning."""
    endpoints = [{"api_key_env": "A"}, {"api_key_env": "B", "model": "gpt-3.5-turbo"}]
    job = make_test_job(model="gpt-6-luna", endpoints=endpoints, parameters={"reasoning_effort": "none"})
    warning = check_budget(job, _estimate(1), PRICE, today=date(2026, 11, 29)).warning
    assert warning is not None
    assert "gpt-3.5-turbo" in warning
