"""A service that refuses, throttles, fails or returns false data: each row gets a status, and the books stay exact."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from parquill.tasks.money.amounts import format_usd, usd_to_nano
from tests.tools.expected import PRICES, billed_usd, check_books, reserved_usd, row_usd, total
from tests.tools.jobs import Jobs
from tests.tools.timing import within

# Kind of fault -> result of a row that gets it twice (retry.attempts is 2): status, error_code, requests sent, requests
# in doubt, and whether the service billed the answer.
UNPAID, BILLED = False, True
FAULTS: dict[str, tuple[str, str | None, int, int, bool]] = {
    # answers
    "content_filter": ("refused", "content_filter", 1, 0, BILLED),
    "refusal": ("refused", "refusal", 1, 0, BILLED),
    "length": ("truncated", "max_output_tokens", 1, 0, BILLED),
    "null_content": ("failed", "no_answer", 1, 0, BILLED),
    "empty_choices": ("failed", "no_answer", 1, 0, BILLED),
    "overrun": ("ok", None, 1, 0, BILLED),
    "lone_surrogate": ("ok", None, 1, 0, BILLED),
    # replies that cannot be read, or that never arrived
    "garbage": ("failed", "bad_reply", 2, 2, UNPAID),
    "empty_body": ("failed", "bad_reply", 2, 2, UNPAID),
    "truncated_json": ("failed", "bad_reply", 2, 2, UNPAID),
    "gzip_bomb": ("failed", "bad_reply", 2, 2, UNPAID),
    "invalid_utf8": ("failed", "bad_reply", 2, 2, UNPAID),
    "nested": ("failed", "bad_reply", 2, 2, UNPAID),
    "endless_body": ("failed", "reply_too_large", 1, 1, UNPAID),
    "redirect": ("failed", "redirect", 1, 1, UNPAID),
    "disconnect_before": ("failed", "connection_lost", 2, 2, UNPAID),
    "disconnect_after": ("failed", "connection_lost", 2, 2, UNPAID),
    "hang": ("failed", "timeout", 2, 2, UNPAID),
    "slow_loris": ("failed", "timeout", 2, 2, UNPAID),
    "huge_length": ("failed", "timeout", 2, 2, UNPAID),
    "gateway:500": ("failed", "bad_gateway", 2, 2, UNPAID),
    "gateway:502": ("failed", "bad_gateway", 2, 2, UNPAID),
    "gateway:504": ("failed", "bad_gateway", 2, 2, UNPAID),
    "status:408": ("failed", "request_timeout", 2, 2, UNPAID),
    # failures with the service's own error body, certainly unpaid
    "status:500": ("failed", "server_error", 2, 0, UNPAID),
    "status:502": ("failed", "server_error", 2, 0, UNPAID),
    "status:503": ("failed", "server_error", 2, 0, UNPAID),
    "status:529": ("failed", "server_error", 2, 0, UNPAID),
    # certainly unpaid
    "status:400": ("failed", "bad_request", 1, 0, UNPAID),
    "status:422": ("failed", "bad_request", 1, 0, UNPAID),
    "status:413": ("failed", "too_long", 1, 0, UNPAID),
    "status:403": ("failed", "forbidden", 1, 0, UNPAID),
    "status:404": ("failed", "not_found", 1, 0, UNPAID),
    "status:410": ("failed", "not_found", 1, 0, UNPAID),
    "status:418": ("failed", "bad_request", 1, 0, UNPAID),
    "status:451": ("failed", "bad_request", 1, 0, UNPAID),
    "status:409": ("failed", "conflict", 2, 0, UNPAID),
    "status:425": ("failed", "conflict", 2, 0, UNPAID),
    "echo": ("failed", "bad_request", 1, 0, UNPAID),
    "ansi": ("failed", "bad_request", 1, 0, UNPAID),
}
# Usage that cannot be true: the answer is good, and its reservation, which is never less than the bill, is booked.
BAD_USAGE = ["negative", "huge", "missing", "null", "string", "bool"]


# Rows that all wait forever have a deadline of one second; others have one that no machine reaches.
WAITING = [kind for kind, expected in FAULTS.items() if expected[1] == "timeout"]
AT_WORK = [kind for kind in FAULTS if kind not in WAITING]


def _job(jobs: Jobs, kinds: list[str], timeout_s: float = 120, **rules: Any) -> dict[str, Any]:
    texts = [f"<{kind}> says something" for kind in kinds]
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", faults=[{"kind": kind, "match": f"<{kind}>", **rules} for kind in kinds]
    )
    return jobs.job(texts, retry={"attempts": 2, "timeout_s": timeout_s}, tolerate={"not_ok": 1})


@pytest.mark.parametrize(("kinds", "timeout_s"), [(AT_WORK, 120), (WAITING, 1)], ids=["at work", "waiting"])
def test_every_fault_has_its_line_in_the_table(jobs: Jobs, kinds: list[str], timeout_s: float) -> None:
    """Each fault gives its row the status, code, attempts and money of the table, and does not affect other rows."""
    done = jobs.run(_job(jobs, kinds, timeout_s))
    assert done.exit_code == 0, done.stderr
    found = {
        kind: (row["status"], row["error_code"], row["attempts"], row["in_doubt_usd"], row["cost_usd"] > 0)
        for kind, row in zip(kinds, done.rows, strict=True)
    }
    reserved = {kind: reserved_usd(row["estimated_prompt_tokens"]) for kind, row in zip(kinds, done.rows, strict=True)}
    expected = {
        kind: (status, code, attempts, in_doubt * reserved[kind], billed)
        for kind, (status, code, attempts, in_doubt, billed) in FAULTS.items()
        if kind in kinds
    }
    assert found == expected
    check_books(done)
    for row in done.rows:
        assert (row["error_message"] is None) == (row["status"] == "ok")
        assert (row["completion"] is None) == (row["status"] == "failed")
        assert "says something" not in (row["error_message"] or "")
        assert "\x1b" not in (row["error_message"] or "")
    spent, doubt = Decimal(done.summary["cost_usd"]), Decimal(done.summary["in_doubt_usd"])
    assert spent <= billed_usd(jobs.service) <= spent + doubt
    assert doubt == total(done.column("in_doubt_usd"))
    assert done.summary["requests"]["sent"] == jobs.service.stats()["requests"] == sum(done.column("attempts"))
    if kinds == WAITING:
        return
    assert done.summary["errors"]["bad_reply"] == 6
    echoed = done.rows[kinds.index("overrun")]
    assert echoed["completion_tokens"] == 32
    assert "\ufffd" in done.rows[kinds.index("lone_surrogate")]["completion"]


def test_a_failure_that_is_billed_is_paid_twice_at_most(jobs: Jobs) -> None:
    """If a failed reply reports usage, the row is sent once more, whatever `retry.attempts` says.
    Its row includes the cost of both requests.
    """
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base", faults=[{"kind": "billed_failure", "match": "<bad>"}])
    texts = [f"<{'bad' if number % 4 == 1 else 'good'}> {number}" for number in range(12)]
    done = jobs.run(jobs.job(texts, retry={"attempts": 6, "timeout_s": 120}, tolerate={"not_ok": 1}))
    assert done.exit_code == 0, done.stderr
    bad = [row for row in done.rows if "<bad>" in row["text"]]
    assert [(row["status"], row["error_code"], row["attempts"]) for row in bad] == [("failed", "server_error", 2)] * 3
    assert jobs.service.stats()["billed_requests"] == 9 + 2 * 3
    assert {row["in_doubt_usd"] for row in bad} == {0}
    assert {row["completion_tokens"] for row in bad} == {32}  # of both requests
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service)
    check_books(done)


def test_a_fault_that_passes_is_retried(jobs: Jobs) -> None:
    """A retryable fault that occurs once ends ok; what the first request left in doubt is shown next to the cost."""
    kinds = [kind for kind, expected in FAULTS.items() if expected[2] == 2 and kind not in WAITING]
    done = jobs.run(_job(jobs, kinds, times=1))
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok"] * len(kinds)
    assert done.column("attempts") == [2] * len(kinds)
    assert done.column("error_code") == [None] * len(kinds)
    doubtful = [FAULTS[kind][3] > 0 for kind in kinds]
    reserved = map(reserved_usd, done.column("estimated_prompt_tokens"))
    assert done.column("in_doubt_usd") == [usd * doubt for usd, doubt in zip(reserved, doubtful, strict=True)]
    requests = done.summary["requests"]
    assert (requests["retried"], requests["in_doubt"]) == (len(kinds), sum(doubtful))
    check_books(done)


def test_usage_that_cannot_be_true_is_settled_at_the_reservation(jobs: Jobs) -> None:
    """If usage is missing, negative, absurd or of the wrong type, the reservation is booked instead."""
    kinds = [f"bad_usage:{variant}" for variant in BAD_USAGE]
    done = jobs.run(_job(jobs, kinds))
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok"] * len(kinds)
    assert done.column("attempts") == [1] * len(kinds)
    assert done.column("cost_usd") == [reserved_usd(n) for n in done.column("estimated_prompt_tokens")]
    assert done.column("completion_tokens") == [None] * len(kinds)
    assert done.summary["usage_unknown"] == len(kinds)
    assert Decimal(done.summary["cost_usd"]) >= billed_usd(jobs.service)
    check_books(done)


def test_usage_that_does_not_add_up_is_booked_at_the_larger_figure(jobs: Jobs) -> None:
    """M3: fractions, and parts larger than their whole, are booked at their largest meaning, flagged and shown."""
    done = jobs.run(_job(jobs, ["bad_usage:float", "bad_usage:inconsistent"]))
    assert done.exit_code == 0, done.stderr
    fraction, inconsistent = done.rows
    tokens = (fraction["prompt_tokens"], 0, fraction["completion_tokens"])
    assert fraction["cost_usd"] == row_usd(tokens, PRICES["gpt-4o-mini"])
    assert inconsistent["cached_tokens"] == inconsistent["cache_write_tokens"] == 10**6
    assert inconsistent["prompt_tokens"] > 2 * 10**6
    assert inconsistent["completion_tokens"] > inconsistent["reasoning_tokens"] == 10**6
    assert done.summary["usage_flags"] == {"total": 1, "cache_beside": 1}
    over = sum(max(0, row["cost_usd"] - reserved_usd(row["estimated_prompt_tokens"])) for row in done.rows)
    assert Decimal(done.summary["over_reserved_usd"]) == over > Decimal("0.8")
    assert "does not add up" in done.stdout
    assert f"{format_usd(usd_to_nano(over))} beyond what was reserved" in done.stdout
    check_books(done)


@pytest.mark.parametrize("kind", ["bad_usage:nan", "bad_usage:infinity", "duplicate_keys"])
def test_numbers_that_no_json_has_are_settled_too(jobs: Jobs, kind: str) -> None:
    """An answer whose usage is NaN, infinite or given twice is paid once, and never booked below its bill."""
    done = jobs.run(_job(jobs, [kind]))
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["requests"] == 1
    assert done.column("status") == ["ok"]
    assert Decimal(done.summary["cost_usd"]) >= billed_usd(jobs.service)
    check_books(done)


@pytest.mark.parametrize(
    ("fault", "word"),
    [({"kind": "status:401"}, "key"), ({"kind": "insufficient_quota"}, "quota"), ({"kind": "status:404"}, "model")],
    ids=["401", "quota", "404"],
)
def test_a_service_that_refuses_everything_stops_the_run(jobs: Jobs, fault: dict[str, Any], word: str) -> None:
    """A refused key, an exhausted quota or an unknown model stops a run midway.
    After the cause is fixed, the same run resumes.
    """
    texts = [f"text {n}" for n in range(80)]
    jobs.service.configure(faults=[{**fault, "after": 12}], latency_ms=20)
    settings = jobs.job(texts, limits={"max_at_once": 4})
    done = jobs.run(settings)
    assert done.exit_code == 1, done.stderr
    assert word in done.stderr
    stats = jobs.service.stats()
    # an unknown model needs several rows as evidence, because one row may be routed elsewhere
    assert 12 < stats["requests"] <= 12 + (34 if word == "model" else 4)
    statuses = done.column("status")
    assert done.table.num_rows == 80
    assert statuses.count("ok") == 12
    left = [row for row in done.rows if row["status"] != "ok"]
    assert {row["status"] for row in left} <= {"failed", "not_sent"}
    assert {row["error_code"] for row in left if row["status"] == "not_sent"} == {"stopped"}
    assert {row["cost_usd"] + row["in_doubt_usd"] for row in left} == {0}
    assert done.summary["state"] == "stopped"
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service)
    check_books(done)
    jobs.service.configure(faults=[])
    settled = jobs.run(settings)
    assert settled.exit_code == 0, settled.stderr
    assert settled.summary["run_id"] == done.summary["run_id"]
    assert settled.column("status") == ["ok"] * 80
    stats = jobs.service.stats()
    assert (stats["billed_twice"], stats["billed_requests"]) == ([], 80)
    assert settled.summary["requests"]["sent"] == stats["requests"]
    assert Decimal(settled.summary["cost_usd"]) == billed_usd(jobs.service)
    check_books(settled)


@pytest.mark.timed
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param("0.4", id="seconds"),
        pytest.param("30\r\nretry-after-ms: 400", id="milliseconds", marks=pytest.mark.nightly),
    ],
)
def test_throttling_costs_no_row_an_attempt(jobs: Jobs, headers: str) -> None:
    """After a 429 all requests wait as long as it says: the run recovers, and no row fails even with one attempt."""
    jobs.service.configure(
        faults=[{"kind": "status:429", "retry_after": headers, "after": 10, "total": 6}], latency_ms=20
    )
    texts = [f"text {n}" for n in range(40)]
    with within(10):
        done = jobs.run(jobs.job(texts, retry={"attempts": 1}, limits={"max_at_once": 8}))
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok"] * 40
    stats = jobs.service.stats()
    assert (stats["requests"], stats["statuses"]["429"], stats["billed_twice"]) == (46, 6, [])
    assert done.summary["requests"] == {"sent": 46, "retried": 0, "throttled": 6, "in_doubt": 0, "submitted": 0}
    arrivals = jobs.service.arrivals()["at"]
    assert max(b - a for a, b in zip(arrivals, arrivals[1:], strict=False)) >= 0.39
    assert total(done.column("in_doubt_usd")) == 0
    check_books(done)


@pytest.mark.nightly
@pytest.mark.timed
def test_a_limit_that_is_known_is_kept(jobs: Jobs) -> None:
    """With the service's own limits set, the run uses them without a 429, even if only few requests fit at once."""
    jobs.service.configure(rpm=900, tpm=60_000)
    texts = [f"text {n}" for n in range(60)]
    limits = {"requests_per_minute": 900, "tokens_per_minute": 60_000}
    with within(8):
        done = jobs.run(jobs.job(texts, retry={"attempts": 1}, limits=limits))
    assert done.exit_code == 0, done.stderr
    assert jobs.service.stats()["statuses"] == {"200": 60}


def test_a_limit_that_nobody_told_is_found(jobs: Jobs) -> None:
    """If the job does not set the service's limit, the run learns it from the reply headers and gets few 429s."""
    jobs.service.configure(tpm=6_000, latency_ms=20)  # 6,000 tokens at once, and then 100 a second
    texts = [f"text {n}" for n in range(100)]
    done = jobs.run(jobs.job(texts, retry={"attempts": 1}, limits={"max_at_once": 16}))
    assert done.exit_code == 0, done.stderr
    assert done.column("status") == ["ok"] * 100
    assert jobs.service.stats()["statuses"].get("429", 0) <= 16


@pytest.mark.timed
def test_throttling_for_ever_ends(jobs: Jobs) -> None:
    """If a service answers only 429, the run stops after retry.patience_s with exit 1, and every row has its line."""
    jobs.service.configure(faults=[{"kind": "status:429", "retry_after": "0.2", "after": 5}], latency_ms=5)
    texts = [f"text {n}" for n in range(30)]
    settings = jobs.job(texts, retry={"attempts": 1, "patience_s": 3}, limits={"max_at_once": 4})
    done = jobs.run(settings)
    assert (done.exit_code, done.summary["state"]) == (1, "stopped")
    assert done.table.num_rows == 30
    assert done.column("status").count("ok") == 5
    assert jobs.service.stats()["statuses"]["429"] < 120
    assert total(done.column("in_doubt_usd")) == 0
    check_books(done)
    jobs.service.configure(faults=[])
    settled = jobs.run(settings)
    assert settled.exit_code == 0, settled.stderr
    assert settled.column("status") == ["ok"] * 30
    assert jobs.service.stats()["billed_twice"] == []
    check_books(settled)


def test_a_service_that_is_away(jobs: Jobs) -> None:
    """A service that cannot be reached costs nothing: rows fail unpaid after their attempts; a later run resumes."""
    settings = jobs.job(
        ["a", "b"], endpoint={"base_url": "http://127.0.0.1:9/v1", "name": "house"}, retry={"attempts": 2}
    )
    done = jobs.run(settings)
    assert done.exit_code == 5
    assert done.column("error_code") == ["connect_error"] * 2
    assert done.column("attempts") == [2, 2]
    assert total(done.column("in_doubt_usd")) == total(done.column("cost_usd")) == 0
    back = jobs.run({**settings, "endpoint": {"base_url": jobs.service.url, "name": "house"}})
    assert (back.exit_code, back.column("status")) == (0, ["ok", "ok"])
