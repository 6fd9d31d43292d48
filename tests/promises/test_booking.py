"""Money as replies report it: the true figure is booked, any excess is shown, and admission stops (M3, M6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from parquill.tasks.job.load import make_job
from parquill.tasks.money.amounts import format_usd, usd_to_nano
from parquill.tasks.orchestration.artifacts import money_table
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import load_run
from parquill.tasks.records import Usage
from parquill.tasks.results.excess import causes_of, money_sentences
from parquill.tasks.results.summary import write_interrupted
from parquill.tasks.storage.folders import Folders
from tests.tools.direct import job_of, results, run_steps, summary_of

OWN = {"usd_per_mtok_input": 1, "usd_per_mtok_cached": "0.1", "usd_per_mtok_cache_write": 2, "usd_per_mtok_output": 10}
GROK = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 2_814}
GROK["completion_tokens_details"] = {"reasoning_tokens": 2_800}  # type: ignore[assignment]
GEMINI = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 2_814}
DEEPSEEK = {"prompt_tokens": 10_000, "completion_tokens": 2, "total_tokens": 10_002, "prompt_cache_hit_tokens": 9_000}
DEEPSEEK["prompt_cache_miss_tokens"] = 1_000
BOTH = {"prompt_tokens": 2_000, "completion_tokens": 600}
WRITES = {"prompt_tokens": 2_000, "completion_tokens": 2, "prompt_tokens_details": {"cache_write_tokens": 1_500}}


class Service(httpx.AsyncBaseTransport):
    """Answers every request with a text and what `usage` gives for its prompt; keeps the bodies that it gets."""

    def __init__(self, usage: Callable[[str], Mapping[str, Any] | None], **more: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self._usage, self._more = usage, more

    def open(self) -> Service:
        """Return itself, for a caller that opens a transport."""
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(await request.aread())
        self.asked.append(body)
        reply = {
            "choices": [{"message": {"content": "No"}, "finish_reason": "stop"}],
            "usage": self._usage(body["messages"][-1]["content"]),
            **self._more,
        }
        return httpx.Response(200, content=orjson.dumps(reply), request=request)


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    monkeypatch.setattr("parquill.tasks.llm.retry.FIRST_WAIT_S", 0.01)


def _job(folder: Path, texts: Sequence[str], **settings: Any) -> dict[str, Any]:
    given = {"price": OWN, "model": "some-model", "tolerate": {"not_ok": 1}, "limits": {"max_at_once": 1}}
    return job_of(folder, texts, "http://127.0.0.1:9/v1", **(given | settings))


@pytest.mark.parametrize(
    ("usage", "tokens", "nano", "causes"),
    [
        (GROK, (12, 0, 0, 2_802, 2_800), 12 * 1_000 + 2_802 * 10_000, ["answers"]),
        (GEMINI, (12, 0, 0, 2_802, 0), 12 * 1_000 + 2_802 * 10_000, ["answers"]),
        (DEEPSEEK, (10_000, 9_000, 0, 2, 0), 1_000 * 1_000 + 9_000 * 100 + 2 * 10_000, ["prompts"]),
        (WRITES, (2_000, 0, 1_500, 2, 0), 500 * 1_000 + 1_500 * 2_000 + 2 * 10_000, ["prompts"]),
        (BOTH, (2_000, 0, 0, 600, 0), 2_000 * 1_000 + 600 * 10_000, ["answers", "prompts"]),
    ],
    ids=["xai", "gemini", "deepseek", "cache-writes", "both"],
)
def test_the_true_figure_is_booked(
    tmp_path: Path, usage: Any, tokens: tuple[int, ...], nano: int, causes: Sequence[str]
) -> None:
    """M3, M6: Each kind of token is booked at its price, even if that is more than was reserved.
    The row shows it, and the summary says why.
    """
    settings = _job(tmp_path, ["Translate: good day"])
    assert run_steps(settings, transport=Service(lambda _: usage).open) is not None
    row = results(settings)[0]
    names = ("prompt", "cached", "cache_write", "completion", "reasoning")
    assert tuple(row[f"{name}_tokens"] for name in names) == tokens
    assert row["cost_usd"] == Decimal(nano).scaleb(-9)
    summary = summary_of(settings)
    assert tuple(summary["tokens"].values()) == tokens
    assert (summary["cost_usd"], summary["usage_unknown"], summary["usage_flags"]) == (str(row["cost_usd"]), 0, {})
    worst = Decimal(summary["estimate"]["cost_usd_worst"])
    assert Decimal(summary["over_reserved_usd"]) == max(0, row["cost_usd"] - worst) > 0
    assert summary["over_reserved_rows"] == dict.fromkeys(causes, 1)


@pytest.mark.parametrize(
    ("usage", "cache"),
    [
        # 9,000 tokens at a tenth of the price
        (DEEPSEEK, {"read_tokens": 9_000, "written_tokens": 0, "saved_usd": "0.008100000"}),
        # 1,500 tokens at twice the price
        (WRITES, {"read_tokens": 0, "written_tokens": 1_500, "saved_usd": "-0.001500000"}),
        (BOTH, {"read_tokens": 0, "written_tokens": 0, "saved_usd": "0.000000000"}),
    ],
    ids=["read", "written", "neither"],
)
def test_what_a_cache_saved_or_cost(tmp_path: Path, usage: Any, cache: Mapping[str, Any]) -> None:
    """The summary says what the service's cache took off the cost, or added to it, also after a restart."""
    settings = _job(tmp_path, ["Translate: good day"])
    assert run_steps(settings, transport=Service(lambda _: usage).open) is not None
    assert summary_of(settings)["cache"] == cache
    run = load_run(
        Folders.of(settings["output"], f"{settings['output']}/.parquill").state, summary_of(settings)["run_id"]
    )
    assert [run.state(shard.number).totals() for shard in run.shards] == [run.totals()]


def test_what_is_billed_beyond_the_reservations_is_shown(tmp_path: Path) -> None:
    """M3: The summary, the report and the artifact show an excess over the reservations, with a sentence on what to do.
    Without an excess they show none.
    """
    settings = _job(tmp_path / "a", ["Translate: good day"])
    run_steps(settings, transport=Service(lambda _: GROK).open)
    summary = summary_of(settings)
    excess = summary["over_reserved_usd"]
    (sentence,) = money_sentences(summary)
    assert sentence.startswith(
        f"the service billed {format_usd(usd_to_nano(Decimal(excess)))} beyond what was reserved"
    )
    assert "answers longer than max_output_tokens (1)" in sentence
    assert "prompts" not in sentence
    assert "raise max_output_tokens or choose another model" in sentence
    report = (Path(settings["output"]) / "report.html").read_text()
    assert f"<dt>beyond the reservations</dt><dd>{format_usd(usd_to_nano(Decimal(excess)))}" in report
    assert "raise max_output_tokens or choose another model" in report
    table = money_table(summary)
    assert f"beyond the reservations | {format_usd(usd_to_nano(Decimal(excess)))}" in table.replace("\\", "")
    assert "choose another model" in table
    tame = _job(tmp_path / "b", ["Translate: good day"])
    run_steps(tame, transport=Service(lambda _: {"prompt_tokens": 9, "completion_tokens": 1}).open)
    summary = summary_of(tame)
    assert summary["over_reserved_usd"] == "0.000000000"
    assert money_sentences(summary) == []
    for text in ((Path(tame["output"]) / "report.html").read_text(), money_table(summary)):
        assert "beyond the reservations" not in text
        assert "beyond what was reserved" not in text


@pytest.mark.parametrize(
    ("usage", "causes"),
    [
        (Usage(prompt=10, completion=50), ["prices"]),
        (Usage(prompt=11, completion=50), ["prompts"]),
        (Usage(prompt=10, completion=51), ["answers"]),
        (Usage(prompt=11, completion=51), ["answers", "prompts"]),
        (None, ["prices"]),
    ],
)
def test_the_causes_of_an_excess(usage: Usage | None, causes: list[str]) -> None:
    """If a reply cost more than reserved, its answer or prompt was longer; if neither was, the price was another."""
    assert list(causes_of(usage, 10, 50)) == causes


@pytest.mark.parametrize("rows", [3, 4, 20])
def test_admission_stops_when_the_true_figures_exceed_the_budget(tmp_path: Path, rows: int) -> None:
    """M3: If replies cost more than they reserved, the run stops at the budget.
    No request follows the one that exceeded it.
    """
    texts = [f"Translate {number}: good day" for number in range(rows)]
    settings = _job(tmp_path, texts, budget={"run_usd": 0.05})
    service = Service(lambda _: GROK)
    run_steps(settings, transport=service.open)
    summary = summary_of(settings)
    each = Decimal(12 * 1_000 + 2_802 * 10_000).scaleb(-9)
    assert len(service.asked) == 2  # $0.028 each: the second exceeds the budget of $0.05
    assert Decimal(summary["cost_usd"]) == 2 * each
    assert summary["rows"]["not_sent"] == rows - 2
    assert summary["exit_code"] == 4


def test_the_excess_survives_an_interruption(tmp_path: Path) -> None:
    """M3: An excess billed before a stop is in the summary of the stop and, once, in the summary of the end."""
    texts = [f"Translate {number}: good day" for number in range(4)]
    settings = _job(tmp_path, texts, budget={"run_usd": 0.05})
    run_steps(settings, transport=Service(lambda _: GROK).open)
    first = Decimal(summary_of(settings)["over_reserved_usd"])
    assert first > 0
    placed, _ = resolve_job(make_job(settings), None, None, ())
    folders = Folders.of(placed.output, placed.state)
    current = orjson.loads((folders.meta / "current.json").read_bytes())["run_id"]
    stopped = write_interrupted(load_run(folders.state, current), "stopped", 130)
    assert Decimal(stopped["over_reserved_usd"]) == first
    settings["budget"] = {"run_usd": 5}
    run_steps(settings, transport=Service(lambda _: GROK).open)
    assert Decimal(summary_of(settings)["over_reserved_usd"]) == 2 * first  # four rows of the same excess


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (None, 0),
        ({"prompt_tokens": 5_000_000}, 5_000_000 * 1_000),
        ({"prompt_tokens": 5_000_000, "completion_tokens": 0}, 5_000_000 * 1_000),
        ({"prompt_tokens": -1, "completion_tokens": 600_000}, 600_000 * 10_000),
        ({"total_tokens": 700_000}, 700_000 * 10_000),
    ],
)
def test_usage_that_cannot_be_used_is_booked_at_no_less_than_it_says(tmp_path: Path, usage: Any, nano: int) -> None:
    """M3: Unusable usage is booked at the reservation, or at what the service does report if that is more."""
    settings = _job(tmp_path, ["Translate: good day"])
    run_steps(settings, transport=Service(lambda _: usage).open)
    summary, row = summary_of(settings), results(settings)[0]
    worst = Decimal(summary["estimate"]["cost_usd_worst"])
    assert row["cost_usd"] == max(worst, Decimal(nano).scaleb(-9))
    assert (row["prompt_tokens"], row["cache_write_tokens"], summary["usage_unknown"]) == (None, None, 1)


@pytest.mark.parametrize(
    ("tier", "times", "flags"),
    [(None, 1, {}), ("default", 1, {}), ("on_demand", 1, {}), ("priority", 2, {}), ("ultrafast", 2, {"tier": 1})],
)
def test_the_tier_that_a_reply_names_is_booked(tmp_path: Path, tier: str | None, times: int, flags: Any) -> None:
    """M6: A reply is booked at the price of the tier that it names.
    A tier without a known price is booked at the highest price, and flagged.
    """
    settings = _job(tmp_path, ["Translate: good day"], price=None, model="gpt-6-luna")
    usage = {"prompt_tokens": 1_000, "completion_tokens": 10, "prompt_tokens_details": {"cache_write_tokens": 900}}
    run_steps(settings, transport=Service(lambda _: usage, service_tier=tier).open)
    assert results(settings)[0]["cost_usd"] == times * Decimal(100 * 100 + 900 * 125 + 10 * 500).scaleb(-9)
    assert summary_of(settings)["usage_flags"] == flags


def test_a_later_start_pays_with_the_plans_prices(tmp_path: Path) -> None:
    """M6: The plan holds the tiers of a run's price, so a start after an interruption books by them."""
    texts = [f"Translate {number}: good day" for number in range(6)]
    settings = _job(tmp_path, texts, price=None, model="gpt-6-luna", budget={"run_usd": 0.0001})
    usage = {"prompt_tokens": 12, "completion_tokens": 50}
    run_steps(settings, transport=Service(lambda _: usage, service_tier="priority").open)
    assert summary_of(settings)["rows"]["not_sent"] > 0
    settings["budget"] = {"run_usd": 1}
    run_steps(settings, transport=Service(lambda _: usage, service_tier="priority").open)
    each = Decimal(12 * 200 + 50 * 1_000).scaleb(-9)
    assert [row["cost_usd"] for row in results(settings)] == [each] * 6


def test_price_as_prices_each_row_in_its_own_band(tmp_path: Path) -> None:
    """M6: `price_as` prices row by row: many small prompts never fall into the price band of one large prompt."""
    texts = [f"Translate {number}: good day" for number in range(3)]
    settings = _job(tmp_path, texts, price_as="gpt-5.6-sol")
    usage = {
        "prompt_tokens": 200_000,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cache_write_tokens": 100_000},
    }
    run_steps(settings, transport=Service(lambda _: usage).open)
    exact = 3 * (100_000 * 4_000 + 100_000 * 5_000 + 10 * 20_000)
    assert Decimal(summary_of(settings)["price_as"]["cost_usd"]) == Decimal(exact).scaleb(-9)


def test_an_estimate_expects_the_shares_that_were_seen(tmp_path: Path) -> None:
    """An estimate expects the same shares of cached and cache-written input as in the answers of the last run."""
    usage = {"prompt_tokens": 1_000, "completion_tokens": 10, "total_tokens": 1_010}
    usage["prompt_tokens_details"] = {"cached_tokens": 300, "cache_write_tokens": 500}  # type: ignore[assignment]
    text = "word " * 990
    settings = _job(tmp_path, [f"{text} {number}" for number in range(10)])
    run_steps(settings, transport=Service(lambda _: usage).open)
    settings = _job(tmp_path, [f"{text} {number}" for number in range(10, 20)])
    run_steps(settings, transport=Service(lambda _: usage).open)
    summary = summary_of(settings)
    assert Decimal(summary["estimate"]["cost_usd_expected"]) == pytest.approx(
        Decimal(summary["cost_usd"]), rel=Decimal("0.01")
    )


class Stumbling(httpx.AsyncBaseTransport):
    """Answers the requests of a run with these replies in turn, and repeats the last one forever."""

    def __init__(self, *replies: dict[str, Any]) -> None:
        self.replies, self.asked = list(replies), 0

    def open(self) -> Stumbling:
        """Return itself, for a caller that opens a transport."""
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        reply = self.replies[min(self.asked, len(self.replies) - 1)]
        self.asked += 1
        return httpx.Response(200, content=orjson.dumps(reply), request=request)


HALF = {
    "choices": [{"message": {"content": "Guten"}, "finish_reason": "error", "error": {"code": 502, "message": "lost"}}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
}
WHOLE = {
    "choices": [{"message": {"content": "Guten Tag"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27},
}


def test_a_failure_that_was_billed_is_booked_and_tried_again(tmp_path: Path) -> None:
    """M4, M5: A row shows the sum of all its billed requests, and the summary and the ledger show the same sum."""
    settings = _job(tmp_path, ["Translate: good day"], retry={"attempts": 3})
    service = Stumbling(HALF, WHOLE)
    run_steps(settings, transport=service.open)
    row, summary = results(settings)[0], summary_of(settings)
    assert (service.asked, row["status"], row["completion"], row["attempts"]) == (2, "ok", "Guten Tag", 2)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (40, 12)
    assert row["cost_usd"] == Decimal(40 * 1_000 + 12 * 10_000).scaleb(-9)
    assert row["in_doubt_usd"] == 0
    assert summary["cost_usd"] == summary["paid_usd"] == str(row["cost_usd"])
    assert (summary["tokens"]["prompt"], summary["tokens"]["completion"]) == (40, 12)
    # the run learns from the answer alone
    assert (summary["counted"]["answers"], summary["counted"]["prompt_tokens_reported"]) == (1, 20)


def test_a_row_whose_failures_were_all_billed_shows_them(tmp_path: Path) -> None:
    """M4, M7: A billed failure is sent at most once more.
    The row shows what was paid, and a later run adds to it.
    """
    settings = _job(tmp_path, ["Translate: good day"], retry={"attempts": 3})
    run_steps(settings, transport=Stumbling(HALF).open)
    row = results(settings)[0]
    each = 20 * 1_000 + 5 * 10_000
    assert (row["status"], row["error_code"], row["attempts"]) == ("failed", "server_error", 2)
    assert row["completion"] is None
    assert (row["cost_usd"], row["in_doubt_usd"]) == (Decimal(2 * each).scaleb(-9), 0)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (40, 10)
    assert summary_of(settings)["paid_usd"] == str(row["cost_usd"])
    run_steps(settings, transport=Stumbling(WHOLE).open)
    row = results(settings)[0]
    assert (row["status"], row["attempts"]) == ("ok", 3)
    assert row["cost_usd"] == Decimal(2 * each + 20 * 1_000 + 7 * 10_000).scaleb(-9)


def test_billed_failures_survive_a_stop(tmp_path: Path) -> None:
    """M1, M4: If a row has paid but has no outcome, its cost is in the books and results of the stopped run.
    It is also in the sums at the end.
    """
    settings = _job(tmp_path, ["Translate: good day"], retry={"attempts": 3})
    broke = {"error": {"code": 402, "message": "credits"}}
    run_steps(settings, transport=Stumbling(HALF, broke).open)
    each = Decimal(20 * 1_000 + 5 * 10_000).scaleb(-9)
    row, summary = results(settings)[0], summary_of(settings)
    assert (summary["state"], summary["exit_code"]) == ("stopped", 1)
    assert (row["status"], row["error_code"], row["cost_usd"]) == ("failed", "quota_exhausted", each)
    assert summary["cost_usd"] == summary["paid_usd"] == str(each)
    assert (row["prompt_tokens"], summary["tokens"]["prompt"]) == (20, 20)
    run_steps(settings, transport=Stumbling(WHOLE).open)
    row, summary = results(settings)[0], summary_of(settings)
    assert (row["status"], row["cost_usd"]) == ("ok", each + Decimal(20 * 1_000 + 7 * 10_000).scaleb(-9))
    assert summary["cost_usd"] == summary["paid_usd"] == str(row["cost_usd"])


@pytest.mark.parametrize(
    ("first", "status", "doubt"),
    [
        ({"error": {"code": 502, "message": "down"}}, "ok", False),
        ({"choices": [{"message": {"content": "Gu"}, "finish_reason": "abort"}]}, "ok", True),
        ({"error": {"code": 400, "message": "no"}}, "failed", False),
        ({"error": {"message": "who knows"}}, "ok", True),
    ],
)
def test_failures_without_usage(tmp_path: Path, first: dict[str, Any], status: str, *, doubt: bool) -> None:
    """M5: A reply that the service calls a failure is unpaid; half an answer, or an unknown failure, may be paid."""
    settings = _job(tmp_path, ["Translate: good day"], retry={"attempts": 3})
    run_steps(settings, transport=Stumbling(first, WHOLE).open)
    row = results(settings)[0]
    assert (row["status"], row["in_doubt_usd"] > 0) == (status, doubt)
    assert row["cost_usd"] == (Decimal(20 * 1_000 + 7 * 10_000).scaleb(-9) if status == "ok" else 0)


def test_cut_prompts_teach_nothing(tmp_path: Path) -> None:
    """Rows with cut prompts are marked and counted, and their usage is paid.
    The next estimate does not change.
    """
    texts = [f"Summarize {number}: " + "chapter " * 7_000 for number in range(12)]
    settings = _job(tmp_path, texts)
    usage = {"prompt_tokens": 4_096, "completion_tokens": 5, "total_tokens": 4_101}
    run_steps(settings, transport=Service(lambda _: usage).open)
    summary, rows = summary_of(settings), results(settings)
    assert {(row["status"], row["error_code"], row["completion"]) for row in rows} == {
        ("truncated", "prompt_cut", "No")
    }
    assert (summary["prompts_cut_at"], summary["errors"]) == ({"4096": 12}, {"prompt_cut": 12})
    assert summary["counted"]["answers"] == 0
    assert Decimal(summary["cost_usd"]) == 12 * Decimal(4_096 * 1_000 + 5 * 10_000).scaleb(-9)
    assert "the server cut the prompts of 12 rows" in (Path(settings["output"]) / "report.html").read_text()
    assert "the server cut the prompts of 12 rows" in money_table(summary).replace("\\", "")
    first = summary["estimate"]
    again = _job(tmp_path, [f"{text} again" for text in texts])
    run_steps(again, transport=Service(lambda _: usage).open)
    second = summary_of(again)["estimate"]
    assert second["prompt_tokens"] == pytest.approx(first["prompt_tokens"], rel=0.01)
    assert second["completion_tokens_expected"] == first["completion_tokens_expected"]


USAGE_OF_A_PART = {"prompt_tokens": 20, "completion_tokens": 5}


@pytest.mark.parametrize(("text", "usage"), [("Guten Ta", USAGE_OF_A_PART), ("Guten Ta", None), (None, None)], ids=str)
def test_a_broken_answer_is_paid_twice_at_most(tmp_path: Path, text: str | None, usage: dict[str, int] | None) -> None:
    """An answer that the service broke off is requested only once more, because each request is or may be billed."""
    choice = {"message": {"content": text}, "finish_reason": "network_error"}
    service = Service(lambda _: usage, choices=[choice])
    settings = _job(tmp_path, ["Translate: good day"], retry={"attempts": 6})
    run_steps(settings, transport=service.open)
    (row,) = results(settings)
    assert len(service.asked) == row["attempts"] == 2
    assert (row["status"], row["error_code"]) == ("failed", "broken_answer")
    paid = 0 if usage is None else 2 * Decimal(20 * 1_000 + 5 * 10_000).scaleb(-9)
    assert row["cost_usd"] == paid
    assert (row["in_doubt_usd"] > 0) is (usage is None)


def test_billed_failures_use_up_the_budget(tmp_path: Path) -> None:
    """M1: Billed failures count against the budget, and a request that no longer fits is not sent."""
    settings = _job(tmp_path, ["Translate: good day"], retry={"attempts": 4}, max_output_tokens=5)
    settings["budget"] = {"run_usd": 0.00013}
    service = Stumbling(HALF)
    run_steps(settings, transport=service.open)
    summary = summary_of(settings)
    assert service.asked == 1  # for $0.00007: the worst case of a second one does not fit
    assert (summary["exit_code"], Decimal(summary["paid_usd"])) == (4, Decimal(20 * 1_000 + 5 * 10_000).scaleb(-9))
