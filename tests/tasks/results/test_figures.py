"""The figures and sentences of a summary are labeled and rounded for a reader."""

from __future__ import annotations

from typing import Any

import pytest

from parquill.tasks.records import WORST_CASE
from parquill.tasks.results.figures import (
    cost_of,
    estimate_figures,
    headline,
    notable_figures,
    request_figures,
    row_figures,
    summary_figures,
    summary_sentences,
)

SUMMARY: dict[str, Any] = {
    "exit_code": 5,
    "rows": {"total": 1_200, "ok": 1_100, "failed": 100, "refused": 0, "reused": 0},
    "tokens": {"prompt": 12_000, "completion": 3_400},
    "requests": {"sent": 1_250, "retried": 50},
    "paid_usd": "6.120000000",
    "cost_usd": "6.120000000",
    "in_doubt_usd": "0.000000000",
    "over_reserved_usd": "0.000000000",
    "saved_usd": "0.000000000",
    "estimate": {"basis": "history", "cost_usd_expected": "6.40", "cost_usd_p90": "6.90", "cost_usd_worst": "12.10"},
    "budget": {"run_usd": "7"},
    "counted": {
        "answers": 1_100,
        "prompt_tokens_counted": 10_000,
        "prompt_tokens_reported": 10_500,
        "deviation": 0.05,
        "worst_row": None,
        "meaning": "the service adds text of its own",
    },
    "prices": {"source": "genai-prices, openai", "version": "0.2.3"},
    "duration_s": 61.25,
}


def test_the_run_in_one_line() -> None:
    """The headline shows the rows and the cost against the estimate."""
    assert headline(SUMMARY) == "1,100 of 1,200 rows ok, $6.12 (expected $6.40)"


def test_without_history_nothing_was_expected() -> None:
    """A first run is compared with the most that it could cost; the word `expected` does not appear."""
    estimate = {"basis": WORST_CASE, "cost_usd_expected": "0.010158300", "cost_usd_worst": "0.010158300"}
    first = {**SUMMARY, "paid_usd": "0.004123000", "estimate": estimate}
    assert cost_of(first) == "$0.0041 (at most $0.0102)"
    assert "expected" not in estimate_figures(first)
    assert estimate_figures(first)["worst case"].startswith("$0.01")


def test_amounts_that_are_compared_have_the_same_decimals() -> None:
    """The cost, the estimate and the budget are rounded alike."""
    assert estimate_figures(SUMMARY) == {
        "paid by this run": "$6.12",
        "expected": "$6.40",
        "nine in ten below": "$6.90",
        "worst case": "$12.10",
        "budget": "$7.00",
    }
    assert estimate_figures({**SUMMARY, "budget": {"run_usd": None}})["budget"] == "none"


def test_only_what_the_run_has_is_shown() -> None:
    """Amounts of zero and statuses without rows are left out; the total and `ok` are always shown."""
    assert notable_figures(SUMMARY) == {}
    assert row_figures(SUMMARY) == {"total": "1,200", "ok": "1,100", "failed": "100"}
    assert row_figures({"rows": {"total": 0, "ok": 0, "failed": 0}}) == {"total": "0", "ok": "0"}
    assert request_figures({"requests": {"sent": 5, "in_doubt": 0, "submitted": 0}}) == {"sent": "5", "in_doubt": "0"}
    assert request_figures({"requests": {"sent": 5, "submitted": 3}}) == {"sent": "5", "submitted": "3"}
    changes = {"in_doubt_usd": "0.020000000", "saved_usd": "1.500000000", "cost_usd": "7.000000000"}
    changes["submitted_usd"] = "0.300000000"
    other = {"price_as": {"model": "gpt-5.6", "cost_usd": "31.000000000"}, "over_reserved_usd": "0.100000000"}
    assert notable_figures({**SUMMARY, **changes, **other}) == {
        "cost with earlier runs": "$7.00",
        "in doubt": "$0.02",
        "reserved in batches": "$0.30",
        "beyond the reservations": "$0.10",
        "saved by reuse": "$1.50",
        "the same usage on gpt-5.6": "$31.00",
    }


def test_each_figure_has_a_label_that_stands_by_itself() -> None:
    """Each label is clear by itself, since the report and the artifact list figures below each other."""
    figures = summary_figures(SUMMARY)
    assert figures["prompt tokens"] == "12,000"
    assert figures["prompt tokens of the answers"] == "counted 10,000, reported 10,500 (+5.00%)"
    assert (figures["requests retried"], figures["time"]) == ("50", "61.2 s")
    assert "largest miscount" not in figures


def test_sentences_come_in_one_order() -> None:
    """The meaning of the counts comes first, then odd replies, then money."""
    assert summary_sentences(SUMMARY) == ["the service adds text of its own"]
    assert len(summary_sentences({**SUMMARY, "usage_unknown": 3, "errors": {"prompt_cut": 2}})) == 3
    assert summary_sentences({**SUMMARY, "counted": None}) == []


def test_what_was_bought_at_each_endpoint() -> None:
    """A run with several endpoints shows what it bought at each of them; a run with one endpoint does not."""
    none = {"requests": 1, "rows": 0, "cost_usd": "0.00"}
    first = {"requests": 1_100, "rows": 1_080, "cost_usd": "5.92"}
    figures = notable_figures({**SUMMARY, "endpoints": {"a.example": first, "b.example": none}})
    assert figures["at a.example"] == "$5.92 for 1,080 answers, 1,100 requests"
    assert figures["at b.example"] == "$0.00 for 0 answers, 1 requests"
    assert not notable_figures({**SUMMARY, "endpoints": {"a.example": first}})


def test_what_the_cache_saved() -> None:
    """A run whose prompts were in the service's cache shows what that saved, or what writing to it added."""
    cache = {"read_tokens": 45_000, "written_tokens": 1_200, "saved_usd": "0.120000000"}
    tokens = "(45,000 prompt tokens read, 1,200 written)"
    assert notable_figures({**SUMMARY, "cache": cache})["saved by the service's cache"] == f"$0.12 {tokens}"
    worse = {**cache, "saved_usd": "-0.010000000"}
    assert notable_figures({**SUMMARY, "cache": worse})["added by the service's cache"] == f"$0.01 {tokens}"
    nothing = {"read_tokens": 0, "written_tokens": 0, "saved_usd": "0.000000000"}
    assert not notable_figures({**SUMMARY, "cache": nothing})


def test_each_lane_has_its_cost() -> None:
    """A run that bought in another lane than the live one shows what it bought in each."""
    lanes = {"live": {"rows": 20, "cost_usd": "0.20"}, "flex": {"rows": 1_080, "cost_usd": "5.92"}}
    figures = notable_figures({**SUMMARY, "lanes": lanes})
    assert figures["in the flex lane"] == "$5.92 for 1,080 answers"
    assert figures["in the live lane"] == "$0.20 for 20 answers"
    assert not notable_figures({**SUMMARY, "lanes": {"live": {"rows": 1_100, "cost_usd": "6.12"}}})


@pytest.mark.parametrize(
    ("finished_at", "state", "shown"),
    [
        ("2026-12-01T05:59:00+01:00", "finished", "met"),
        ("2026-12-01T05:25:00+00:00", "finished", "missed by 25 min"),
        ("2026-12-01T04:00:00+00:00", "stopped", "not over"),
    ],
)
def test_whether_finish_by_was_met(finished_at: str, state: str, shown: str) -> None:
    """A run with a deadline shows whether it was met, or by how much it was missed."""
    times = {"started_at": "2026-11-30T22:00:00+01:00", "finished_at": finished_at, "state": state}
    figures = notable_figures({**SUMMARY, **times, "finish_by": "2026-12-01T06:00:00+01:00"})
    assert figures["finish_by"] == shown
    assert "finish_by" not in notable_figures({**SUMMARY, **times, "finish_by": None})
