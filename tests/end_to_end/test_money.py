"""Money: prices are exact to the last digit, and a budget is never exceeded."""

from __future__ import annotations

from decimal import Decimal

import orjson
import pytest

from parquill.tasks.money.amounts import format_usd_text
from tests.tools.expected import PRICES, billed_usd, check_books, exact_usd, files_of, reserved_usd, row_usd, total
from tests.tools.jobs import Jobs


def _texts(count: int) -> list[str]:
    return [f"prompt {n} " + "word " * (n % 7) for n in range(count)]


def test_reasoning_and_cached_tokens_have_their_prices(jobs: Jobs) -> None:
    """Cached input is billed at its lower price and reasoning as output, each row to the last digit."""
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", cached_ratio=0.4, reasoning_tokens=7, output_tokens="lognormal:15:0.5"
    )
    done = jobs.run(jobs.job(_texts(30), model="o4-mini", max_output_tokens=400))
    assert done.exit_code == 0, done.stderr
    for row in done.rows:
        assert row["cached_tokens"] == int(row["prompt_tokens"] * 0.4) > 0
        assert row["reasoning_tokens"] == 7 < row["completion_tokens"]
        tokens = (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
        assert row["cost_usd"] == row_usd(tokens, PRICES["o4-mini"])
    check_books(done)
    assert done.summary["tokens"] == jobs.service.stats()["billed_tokens"]
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service, "o4-mini")


def test_cache_writes_are_reserved_and_booked(jobs: Jobs) -> None:
    """M1, M6: cache writes that cost more than input are reserved and booked at their price, to the last digit."""
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", cached_ratio=0.2, cache_write_ratio=0.7)
    done = jobs.run(jobs.job(_texts(20), model="gpt-6-luna"))
    assert done.exit_code == 0, done.stderr
    for row in done.rows:
        prompt, cached, written = (row[f"{kind}_tokens"] for kind in ("prompt", "cached", "cache_write"))
        assert written == int(prompt * 0.7) > 0
        exact = (prompt - cached - written) * 100 + cached * 10 + written * 125 + row["completion_tokens"] * 500
        assert row["cost_usd"] == Decimal(exact).scaleb(-9)
    worst = sum(row["estimated_prompt_tokens"] * 125 + 50 * 500 for row in done.rows)
    assert Decimal(done.summary["estimate"]["cost_usd_worst"]) >= Decimal(worst).scaleb(-9)
    check_books(done)
    assert done.summary["tokens"] == jobs.service.stats()["billed_tokens"]
    assert Decimal(done.summary["over_reserved_usd"]) == 0


def test_the_tier_of_the_reply_decides_the_price(jobs: Jobs) -> None:
    """M6: a reply that names the priority tier is booked at that tier's price.
    The summary shows the cost beyond the reservation.
    """
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", service_tier="priority", output_tokens="fixed:50")
    done = jobs.run(jobs.job(_texts(5), model="gpt-6-luna"))
    assert done.exit_code == 0, done.stderr
    for row in done.rows:
        assert row["cost_usd"] == Decimal(row["prompt_tokens"] * 200 + row["completion_tokens"] * 1_000).scaleb(-9)
    assert Decimal(done.summary["over_reserved_usd"]) > 0
    assert "beyond what was reserved" in done.stdout
    check_books(done)


def test_a_price_of_ones_own_is_rounded_once_a_row(jobs: Jobs) -> None:
    """A price with nine decimals is computed exactly and rounded once per row, half to even; sums stay exact."""
    prices = (Decimal("0.123456789"), Decimal("0.000000001"), Decimal("7.0005"))
    jobs.service.configure(cached_ratio=0.5, output_tokens="lognormal:15:0.3")
    price = {
        "usd_per_mtok_input": "0.123456789",
        "usd_per_mtok_cached": "0.000000001",
        "usd_per_mtok_output": "7.0005",
    }
    done = jobs.run(jobs.job(_texts(25), model="house-model", price=price))
    assert done.exit_code == 0, done.stderr
    for row in done.rows:
        assert row["cost_usd"] == row_usd(
            (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]), prices
        )
    check_books(done)


def test_a_price_of_zero_on_purpose(jobs: Jobs) -> None:
    """A model with a price of 0 costs 0 and fits any budget, and its tokens are still counted."""
    price = {"usd_per_mtok_input": 0, "usd_per_mtok_output": 0}
    done = jobs.run(jobs.job(_texts(5), model="local", price=price, budget={"run_usd": 0.000000001}))
    assert (done.exit_code, done.summary["cost_usd"]) == (0, "0.000000000")
    assert done.summary["tokens"] == jobs.service.stats()["billed_tokens"]


def test_price_as_shows_what_it_would_cost_elsewhere(jobs: Jobs) -> None:
    """`price_as` shows the same usage at another model's price, next to the true cost."""
    jobs.service.configure(cached_ratio=0.25)
    price = {"usd_per_mtok_input": 0, "usd_per_mtok_output": 0}
    done = jobs.run(jobs.job(_texts(10), model="local", price=price, price_as="gpt-4o"))
    tokens = done.summary["tokens"]
    expected = exact_usd((tokens["prompt"], tokens["cached"], tokens["completion"]), PRICES["gpt-4o"])
    assert Decimal(done.summary["price_as"]["cost_usd"]) == expected > 0
    assert done.summary["price_as"]["model"] == "gpt-4o"
    assert done.summary["cost_usd"] == "0.000000000"


def test_a_budget_that_is_too_small_refuses(jobs: Jobs) -> None:
    """If the expected cost exceeds the budget, the run exits 3, shows both numbers, and sends nothing."""
    settings = jobs.job([f"a text {n}" for n in range(100)], budget={"run_usd": 0.002})
    estimated = jobs.run(settings, "--json", command="estimate")
    assert estimated.exit_code == 3
    figures = orjson.loads(estimated.stdout)
    assert figures["fits_budget"] is False
    done = jobs.run(settings)
    assert done.exit_code == 3, done.stderr
    assert jobs.service.stats()["requests"] == 0
    assert "$0.002" in done.stderr
    assert f"at most {format_usd_text(figures['cost_usd_worst'])} exceeds" in done.stderr.splitlines()[-1]
    assert not done.table.column_names


def test_a_refusal_is_not_hidden_by_an_earlier_run(jobs: Jobs) -> None:
    """A refusal exits 3 on an output with earlier results too, says so in --json, and leaves them unchanged."""
    first = jobs.run(jobs.job(["a"]))
    before = files_of(jobs.folder / "out" / "results")
    refused = jobs.run(jobs.job(["a", "b"], budget={"run_usd": 0.000001}), "--json")
    assert refused.exit_code == 3
    answer = orjson.loads(refused.stdout)
    assert answer["exit_code"] == 3
    assert answer.get("run_id") != first.summary["run_id"]
    assert jobs.service.stats()["requests"] == 1
    assert files_of(jobs.folder / "out" / "results") == before


def test_what_fits_is_completed_and_then_the_rest(jobs: Jobs) -> None:
    """With `when_short: partial` and 100 requests at once, the run exits 4 before it exceeds the budget.

    Every row has its line, and no further request would have fit.
    With a larger budget the same run resumes and pays for the rest, each row once.
    """
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", output_tokens="lognormal:15:0.3", latency_ms=250, latency_sigma=0.5
    )
    texts = _texts(120)
    settings = jobs.job(texts, limits={"max_at_once": 100}, budget={"run_usd": 0.0010, "when_short": "partial"})
    done = jobs.run(settings)
    assert done.exit_code == 4, done.stderr
    billed = billed_usd(jobs.service)
    assert jobs.service.stats()["max_in_flight"] > 20
    limit = Decimal("0.0010")
    assert limit - reserved_usd(30) < billed <= limit
    assert done.table.num_rows == 120
    assert done.column("text") == texts
    assert Decimal(done.summary["cost_usd"]) == billed == total(done.column("cost_usd"))
    sent = done.column("status").count("ok")
    assert sent == jobs.service.stats()["billed_requests"]
    assert sent + done.column("status").count("not_sent") == 120
    short = [row for row in done.rows if row["status"] == "not_sent"]
    assert {row["error_code"] for row in short} == {"over_budget"}
    assert {(row["cost_usd"], row["attempts"], row["completion"]) for row in short} == {(0, 0, None)}
    assert (done.summary["state"], done.summary["exit_code"]) == ("stopped", 4)
    check_books(done)
    assert "$0.001" in done.stderr
    # with the same budget again nothing fits, and nothing is sent
    stuck = jobs.run(settings)
    assert stuck.exit_code == 4
    assert jobs.service.stats()["billed_requests"] == sent
    raised = jobs.run({**settings, "budget": {"run_usd": 0.01}})
    assert raised.exit_code == 0, raised.stderr
    assert raised.summary["run_id"] == done.summary["run_id"]
    assert set(raised.column("run_id")) == {done.summary["run_id"]}
    assert raised.column("status") == ["ok"] * 120
    stats = jobs.service.stats()
    assert (stats["billed_twice"], stats["billed_requests"]) == ([], 120)
    assert Decimal(raised.summary["cost_usd"]) == billed_usd(jobs.service)
    assert raised.summary["requests"]["sent"] == stats["requests"]
    check_books(raised)


def test_an_estimate_that_was_too_low_passes_no_budget(jobs: Jobs) -> None:
    """If answers are longer than history predicted, the run stops midway and does not exceed its budget."""
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", output_tokens="fixed:5")
    assert jobs.run(jobs.job(_texts(40))).exit_code == 0
    jobs.service.reset()
    jobs.service.configure(output_tokens="fixed:45", latency_ms=20)
    texts = [f"another {text}" for text in _texts(60)]
    done = jobs.run(jobs.job(texts, budget={"run_usd": 0.0008}, limits={"max_at_once": 60}))
    assert Decimal(done.summary["estimate"]["cost_usd_expected"]) < Decimal("0.0008")
    assert Decimal(done.summary["estimate"]["cost_usd_worst"]) > Decimal("0.0008")
    assert done.exit_code == 4, done.stderr
    assert Decimal("0.0008") - reserved_usd(30) < billed_usd(jobs.service) <= Decimal("0.0008")
    check_books(done)


def test_money_in_doubt_counts_against_the_budget(jobs: Jobs) -> None:
    """Money in doubt stays booked: together with spent money it never exceeds the budget, and the run exits 4."""
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", faults=[{"kind": "disconnect_after", "probability": 0.5}], latency_ms=10
    )
    settings = jobs.job(
        _texts(60),
        budget={"run_usd": 0.0010, "when_short": "partial"},
        retry={"attempts": 3},
        tolerate={"not_ok": 1},
        limits={"max_at_once": 16},
    )
    done = jobs.run(settings)
    assert done.exit_code == 4, done.stderr
    assert billed_usd(jobs.service) <= Decimal("0.0010")
    spent, doubt = Decimal(done.summary["cost_usd"]), Decimal(done.summary["in_doubt_usd"])
    assert doubt == total(done.column("in_doubt_usd")) > 0
    assert spent <= billed_usd(jobs.service) <= spent + doubt <= Decimal("0.0010")
    assert done.table.num_rows == 60
    check_books(done)


def test_a_service_that_bills_more_than_was_reserved(jobs: Jobs) -> None:
    """Tokens beyond the requested limit are booked as billed, and once the budget is exceeded nothing more is sent."""
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", output_tokens="fixed:50", faults=[{"kind": "overrun"}], latency_ms=5
    )
    texts = [f"prompt {n:02}" for n in range(20)]
    worst = 20 * reserved_usd(11)
    settings = jobs.job(texts, limits={"max_at_once": 1}, budget={"run_usd": str(worst)})
    done = jobs.run(settings)
    assert done.exit_code == 4, done.stderr
    statuses = done.column("status")
    sent = statuses.count("ok")
    assert statuses == ["ok"] * sent + ["not_sent"] * (20 - sent)
    assert 9 <= sent <= 11
    assert done.column("completion_tokens")[0] == 100
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service) == total(done.column("cost_usd"))
    check_books(done)


@pytest.mark.parametrize("hold", [False, True], ids=["resend", "hold"])
def test_a_request_in_doubt(jobs: Jobs, hold: bool) -> None:  # noqa: FBT001 - parametrized
    """After a 500 without the service's own error body, the reservation stays in doubt, in the row and the summary.
    With `hold` the row is not sent again.
    """
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", faults=[{"kind": "gateway:500", "match": "bad", "times": 1}]
    )
    texts = ["fine 1", "bad 2", "fine 3", "bad 4"]
    retry = {"in_doubt": "hold"} if hold else {}
    done = jobs.run(jobs.job(texts, retry=retry, tolerate={"not_ok": 1}))
    assert done.exit_code == 0, done.stderr
    bad = "failed" if hold else "ok"
    assert done.column("status") == ["ok", bad, "ok", bad]
    assert done.column("attempts") == [1, 1 if hold else 2] * 2
    assert done.column("error_code")[1] == ("bad_gateway" if hold else None)
    reserved = [reserved_usd(tokens) for tokens in done.column("estimated_prompt_tokens")]
    assert done.column("in_doubt_usd") == [0, reserved[1], 0, reserved[3]]
    assert Decimal(done.summary["in_doubt_usd"]) == reserved[1] + reserved[3]
    requests = done.summary["requests"]
    assert (requests["in_doubt"], requests["retried"]) == (2, 0 if hold else 2)
    assert requests["sent"] == jobs.service.stats()["requests"] == (4 if hold else 6)
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service)
    check_books(done)
