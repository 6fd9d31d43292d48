"""What the estimate learns from an earlier run, and how it reports that."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import orjson
import pytest

from tests.tools.expected import check_books, exact_usd, total
from tests.tools.jobs import Jobs

WORDS = "the of a nightly budget tokens Überraschung 東京 parquet row answer 12,345 cost".split()
PRICE = (Decimal(1), Decimal(1), Decimal(2))
HOUSE: dict[str, Any] = {"model": "house-model", "price": {"usd_per_mtok_input": 1, "usd_per_mtok_output": 2}}


def _texts(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(5, 120))) for _ in range(count)]


def _estimate(jobs: Jobs, settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(jobs.run(settings, "--json", command="estimate").stdout)
    return found


def _billed(jobs: Jobs) -> Decimal:
    tokens = jobs.service.stats()["billed_tokens"]
    return exact_usd((tokens["prompt"], 0, tokens["completion"]), PRICE)


def test_the_second_estimate_knows_the_tokenizer(jobs: Jobs) -> None:
    """If a model's tokenizer is not public, the first run stays within its budget.
    The second estimate is off by less than 1 %.
    """
    jobs.service.configure(prompt_tokens="scaled:1.17:5:o200k_base", output_tokens="fixed:20", latency_ms=20)
    settings = jobs.job(
        _texts(150, 1), **HOUSE, budget={"run_usd": "0.012", "when_short": "partial"}, limits={"max_at_once": 100}
    )
    unlearned = _estimate(jobs, settings)
    assert unlearned["prompt_tokens_note"] == "approximate: the model's own tokenizer is not public"
    assert unlearned["prompt_tokens"] == unlearned["prompt_tokens_counted"]
    first = jobs.run(settings)
    assert first.exit_code == 4, first.stderr
    assert Decimal("0.009") < _billed(jobs) == Decimal(first.summary["cost_usd"]) <= Decimal("0.012")
    counted = first.summary["counted"]
    mine = [row for row in first.rows if row["prompt_tokens"]]
    assert counted["prompt_tokens_counted"] == sum(row["estimated_prompt_tokens"] for row in mine)
    assert counted["prompt_tokens_reported"] == sum(row["prompt_tokens"] for row in mine)
    assert "the next estimate corrects for this" in counted["meaning"]
    assert counted["meaning"] in first.stdout
    check_books(first)

    other = jobs.job(_texts(150, 2), **HOUSE, output=str(jobs.folder / "out2"))
    learned = _estimate(jobs, other)
    second = jobs.run(other)
    assert second.exit_code == 0, second.stderr
    assert learned["prompt_tokens"] == pytest.approx(sum(second.column("prompt_tokens")), rel=0.01)
    assert learned["prompt_tokens_counted"] == sum(second.column("estimated_prompt_tokens"))
    # the output is known from the first run, so the cost is too
    assert float(learned["cost_usd_expected"]) == pytest.approx(float(second.summary["cost_usd"]), rel=0.01)
    assert f"from {counted['answers']} answers" in learned["prompt_tokens_note"]
    assert learned["prompt_tokens_note"] in " ".join(second.stderr.split())


def test_what_was_seen_is_reserved_for(jobs: Jobs) -> None:
    """After one small run, a budget holds for a tokenizer that needs three times the tokens plus 200 a request."""
    jobs.service.configure(prompt_tokens="scaled:3:200:o200k_base", output_tokens="fixed:50", latency_ms=20)
    settings = jobs.job(_texts(120, 3), **HOUSE, tolerate={"not_ok": 1})
    small = jobs.run(settings, "--limit", "5")
    assert small.exit_code == 0, small.stderr
    jobs.service.reset()
    limit = Decimal("0.02")
    budget = {"run_usd": str(limit), "when_short": "partial"}
    done = jobs.run({**settings, "budget": budget, "limits": {"max_at_once": 100}})
    assert done.exit_code == 4, done.stderr
    assert limit * Decimal("0.7") < _billed(jobs) <= limit
    assert total(done.column("cost_usd")) == _billed(jobs) + Decimal(small.summary["cost_usd"])


@pytest.mark.nightly
def test_longer_texts_than_learned_from(jobs: Jobs) -> None:
    """A template's fixed tokens are not counted as part of the text: much longer texts cost what was expected."""
    jobs.service.configure(prompt_tokens="scaled:1.1:200:o200k_base", output_tokens="fixed:5")
    short = [" ".join(text.split()[:30]) for text in _texts(80, 8)]
    assert jobs.run(jobs.job(short, **HOUSE)).exit_code == 0
    long = jobs.job([f"{text} {text} {text} {text}" for text in _texts(80, 9)], **HOUSE)
    expected = _estimate(jobs, long)
    done = jobs.run(long)
    assert done.exit_code == 0, done.stderr
    assert expected["prompt_tokens"] == pytest.approx(done.summary["tokens"]["prompt"], rel=0.01)
    assert float(expected["cost_usd_expected"]) == pytest.approx(float(done.summary["cost_usd"]), rel=0.02)


@pytest.mark.nightly
def test_a_count_of_ones_own_encoding_is_told_when_it_is_off(jobs: Jobs) -> None:
    """If a service bills more prompt tokens than the model's own encoding counts, the summary and report say so.
    Estimates stay unchanged.
    """
    jobs.service.configure(prompt_tokens="scaled:1.05:0:o200k_base")
    settings = jobs.job(_texts(20, 4))
    done = jobs.run(settings)
    assert "it adds text of its own or serves another model" in done.summary["counted"]["meaning"]
    page = (jobs.folder / "out" / "report.html").read_text()
    assert done.summary["counted"]["meaning"] in page
    more = _estimate(jobs, jobs.job(_texts(20, 5)))
    assert (more["prompt_tokens"], more["prompt_tokens_note"]) == (more["prompt_tokens_counted"], None)
    jobs.service.configure(prompt_tokens="tiktoken:o200k_base")
    exact = jobs.run(jobs.job(_texts(20, 5))).summary["counted"]
    assert (exact["deviation"], exact["meaning"], exact["worst_row"]["deviation"]) == (0, None, 0)


def test_the_setting_that_changed_is_told(jobs: Jobs) -> None:
    """A grown input pays for its new rows only.
    If almost nothing can be reused, the estimate names the setting that changed.
    """
    texts = _texts(60, 6)
    settings = jobs.job(texts[:50])
    first = jobs.run(settings)
    grown = _estimate(jobs, jobs.job(texts))
    assert (grown["rows_to_send"], grown["rows_reused"], grown["reuse_note"]) == (10, 50, None)
    changed = jobs.job(texts, max_output_tokens=60)
    note = f"none of 60 rows can be reused: max_output_tokens changed from 50 to 60 since run {first.summary['run_id']}"
    assert _estimate(jobs, changed)["reuse_note"] == note
    assert note in jobs.run(changed, command="estimate").stdout
    second = jobs.run(changed)
    assert note in second.stderr
    assert jobs.service.stats()["requests"] == 110
    others = _estimate(jobs, jobs.job(_texts(60, 7), max_output_tokens=60))
    assert others["reuse_note"].endswith("which has no answers to these rows")
    assert _estimate(jobs, jobs.job(texts, output=str(jobs.folder / "new")))["reuse_note"] is None


def test_latencies_tell_how_long(jobs: Jobs) -> None:
    """Latencies of earlier answers give the next run's duration; without limits and answers the duration is null."""
    jobs.service.configure(latency_ms=200)
    settings = jobs.job([f"text {row}" for row in range(20)], limits={"max_at_once": 4})
    first = orjson.loads(jobs.run(settings, "--json", command="estimate").stdout)
    assert first["duration_s"] is None
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.summary["estimate"]["duration_s"] is None
    measured = sum(done.column("latency_s")) / 20
    jobs.write([f"another {row}" for row in range(200)])
    next_night = orjson.loads(jobs.run(settings, "--json", command="estimate").stdout)
    assert next_night["duration_s"] == pytest.approx(200 / 4 * measured, abs=0.1)
    output = jobs.run(settings, command="estimate").stdout
    assert "with 4 requests at once that take 0." in output
