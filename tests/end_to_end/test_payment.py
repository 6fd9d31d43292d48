"""Which requests are paid: dedupe, reuse, grown inputs, redo, failures, and runs that were stopped."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.running import FakeService, fake_openai
from tests.tools.direct import job_of, results, run_steps
from tests.tools.expected import billed_usd


@pytest.fixture(scope="module")
def started() -> Iterator[FakeService]:
    with fake_openai(prompt_tokens="tiktoken:o200k_base", latency_ms=2) as service:
        yield service


@pytest.fixture
def service(started: FakeService) -> FakeService:
    started.configure(faults=[], output_tokens="fixed:16")
    started.reset()
    return started


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def _texts(count: int, same: int = 0) -> list[str]:
    return [f"text {max(number, same)}" for number in range(count)]


def _billed(service: FakeService) -> int:
    return int(service.stats()["billed_requests"])


def _check_sums(run: Any, sums: Any, rows: list[dict[str, Any]]) -> None:
    mine = sum((row["cost_usd"] for row in rows if row["run_id"] == run.run_id), Decimal(0))
    assert mine == Decimal(sums.cost_nano).scaleb(-9)


def test_identical_requests_are_paid_once(service: FakeService, tmp_path: Path) -> None:
    """The first of equal rows pays, the others repeat its answer at no cost, and a second start sends nothing.
    What the others would have cost is saved.
    """
    texts = ["a", "b", "a", "a", "c", "b"]
    settings = job_of(tmp_path, texts, service.url)
    done = run_steps(settings)
    assert done is not None
    rows = results(settings)
    assert _billed(service) == 3
    assert [row["reused"] for row in rows] == [False, False, True, True, False, True]
    assert [row["cost_usd"] > 0 for row in rows] == [not row["reused"] for row in rows]
    assert [row["prompt_tokens"] > 0 for row in rows] == [not row["reused"] for row in rows]
    paid = {row["text"]: row for row in rows if not row["reused"]}
    assert [row["completion"] for row in rows] == [paid[text]["completion"] for text in texts]
    assert len({row["completion"] for row in rows}) == 3
    assert sum(row["prompt_tokens"] for row in rows) == service.stats()["billed_tokens"]["prompt"]
    assert sum(row["cost_usd"] for row in rows) == billed_usd(service)
    assert Decimal(done[1].saved_nano).scaleb(-9) == 2 * paid["a"]["cost_usd"] + paid["b"]["cost_usd"]
    _check_sums(*done, rows)
    assert run_steps(settings) is None
    assert _billed(service) == 3


def test_dedupe_off_pays_every_row(service: FakeService, tmp_path: Path) -> None:
    """With `dedupe: false` every equal row is sent, and each is still paid only once over two runs."""
    settings = job_of(tmp_path, _texts(10, same=9), service.url, dedupe=False)
    run_steps(settings)
    assert run_steps(settings) is None
    assert _billed(service) == 10


def test_a_grown_input_pays_for_the_new_rows(service: FakeService, tmp_path: Path) -> None:
    """A run over a grown file sends only the new rows; the earlier rows keep their cost."""
    settings = job_of(tmp_path, _texts(20), service.url)
    run_steps(settings)
    before = results(settings)
    settings = job_of(tmp_path, _texts(25), service.url)
    done = run_steps(settings)
    assert done is not None
    assert _billed(service) == 25
    assert results(settings)[:20] == before
    assert done[1].saved_nano == 0
    _check_sums(*done, results(settings))


def test_another_output_reuses_the_answers_of_a_shared_state(service: FakeService, tmp_path: Path) -> None:
    """Outputs that share `state` pay once; the second shows `reused`, a cost of 0 and the amount saved."""
    settings = job_of(tmp_path, _texts(20), service.url, state=str(tmp_path / "state"))
    first = run_steps(settings)
    second_night = {**settings, "output": str(tmp_path / "second")}
    second = run_steps(second_night)
    assert first is not None
    assert second is not None
    assert _billed(service) == 20
    rows = results(second_night)
    assert all(row["reused"] and row["cost_usd"] == 0 and row["run_id"] == first[0].run_id for row in rows)
    assert second[1].saved_nano == first[1].cost_nano > 0


def test_redo_does_only_what_it_names(service: FakeService, tmp_path: Path) -> None:
    """`--redo truncated` sends those rows again and leaves the others unchanged, even if the settings have changed."""
    service.configure(output_tokens="lognormal:48:0.5")
    settings = job_of(tmp_path, _texts(40), service.url)
    run_steps(settings)
    before = results(settings)
    cut = [row["id"] for row in before if row["status"] == "truncated"]
    assert 0 < len(cut) < 40
    service.configure(output_tokens="fixed:7")
    paid = _billed(service)
    changed = {**settings, "prompt": {"user": "Please: {{ text }}"}}
    done = run_steps(changed, redo=["truncated"])
    assert done is not None
    after = results(changed)
    assert _billed(service) - paid == len(cut)
    for old, new in zip(before, after, strict=True):
        if old["id"] in cut:
            assert new["status"] == "ok"
            assert new["cost_usd"] > old["cost_usd"]  # includes what was paid before
            assert new["attempts"] == 2
        else:
            assert new == old
    _check_sums(*done, after)


def test_a_redo_that_was_cut_off_is_not_forgotten(service: FakeService, tmp_path: Path) -> None:
    """A plain run resumes a `--redo` that was cut off after it had paid, and its answers are in the results."""
    service.configure(output_tokens="fixed:90")
    settings = job_of(tmp_path, _texts(20), service.url)
    run_steps(settings)
    service.configure(output_tokens="fixed:7", faults=[{"kind": "status:401", "after": 5}])
    run_steps(settings, redo=["truncated"])  # stops on the way
    service.configure(faults=[])
    assert run_steps(settings) is not None
    assert [row["status"] for row in results(settings)] == ["ok"] * 20
    assert run_steps(settings) is None


def test_failed_rows_are_tried_again_and_no_others(service: FakeService, tmp_path: Path) -> None:
    """The same command retries failed rows and keeps refused and cut ones."""
    service.configure(
        faults=[
            {"kind": "status:400", "match": '"text 7"', "times": 1},
            {"kind": "content_filter", "match": '"text 8"', "times": 1},
        ]
    )
    settings = job_of(tmp_path, _texts(20), service.url)
    run_steps(settings)
    assert [row["status"] for row in results(settings)[6:9]] == ["ok", "failed", "refused"]
    paid = _billed(service)
    run_steps(settings)
    assert [row["status"] for row in results(settings)[6:9]] == ["ok", "ok", "refused"]
    assert _billed(service) - paid == 1
    assert results(settings)[7]["attempts"] == 2


def test_what_is_held_stays_held(service: FakeService, tmp_path: Path) -> None:
    """With `in_doubt: hold` no later run sends a row whose money is in doubt, even for another output of the same
    state, until `--redo failed` names it. A row that certainly was not paid for is tried again.
    """
    service.configure(
        faults=[
            {"kind": "disconnect_after", "match": '"text 7"', "times": 1},
            {"kind": "status:400", "match": '"text 9"', "times": 1},
        ]
    )
    hold = {"in_doubt": "hold"}
    settings = job_of(tmp_path, _texts(20, same=7), service.url, retry=hold, state=str(tmp_path / "state"))
    run_steps(settings)
    first = results(settings)
    assert [row["status"] for row in first] == ["failed"] * 8 + ["ok", "failed"] + ["ok"] * 10
    paid = _billed(service)
    run_steps(settings)  # row 9 again
    second = results(settings)
    assert second[:8] == first[:8]
    assert [row["status"] for row in second[8:]] == ["ok"] * 12
    assert _billed(service) - paid == 1
    assert run_steps(settings) is None
    grown = job_of(tmp_path, _texts(21, same=7), service.url, retry=hold, state=str(tmp_path / "state"))
    run_steps(grown)
    assert results(grown)[:20] == second
    run_steps({**grown, "output": str(tmp_path / "other")})
    others = results({**grown, "output": str(tmp_path / "other")})
    assert [row["status"] for row in others] == ["failed"] * 8 + ["ok"] * 13
    assert sum(row["in_doubt_usd"] for row in others) == 0
    assert _billed(service) - paid == 2
    run_steps(grown, redo=["failed"])
    redone = results(grown)
    assert [row["status"] for row in redone] == ["ok"] * 21
    assert (redone[0]["in_doubt_usd"], redone[0]["attempts"]) == (first[0]["in_doubt_usd"], 2)
    assert _billed(service) - paid == 3


def test_who_changes_its_mind_about_hold_has_it_sent(service: FakeService, tmp_path: Path) -> None:
    """After the setting changes back to `resend`, the next run sends the rows that were held.
    Their doubtful amount is kept.
    """
    service.configure(faults=[{"kind": "disconnect_after", "match": '"text 7"', "times": 1}])
    settings = job_of(tmp_path, _texts(10), service.url, retry={"in_doubt": "hold"})
    run_steps(settings)
    held = results(settings)[7]
    assert run_steps(settings) is None
    run_steps({**settings, "retry": {"in_doubt": "resend"}})
    sent = results(settings)[7]
    assert (held["status"], sent["status"]) == ("failed", "ok")
    assert sent["in_doubt_usd"] == held["in_doubt_usd"] > 0


def test_a_row_shows_what_its_own_output_paid(service: FakeService, tmp_path: Path) -> None:
    """If two outputs of one state pay for the same requests, the rows of each keep their own answer and cost."""
    service.configure(output_tokens="fixed:90")
    settings = job_of(tmp_path, _texts(10), service.url, state=str(tmp_path / "state"))
    run_steps(settings)
    before = results(settings)
    service.configure(output_tokens="fixed:7")
    other = {**settings, "output": str(tmp_path / "other")}
    run_steps(other)
    run_steps(other, redo=["truncated"])
    paid_there = results(other)
    assert [row["status"] for row in paid_there] == ["ok"] * 10
    grown = job_of(tmp_path, _texts(11), service.url, state=str(tmp_path / "state"))
    run_steps(grown)
    assert results(grown)[:10] == before
    (tmp_path / "state" / "answers.sqlite").unlink()
    for name in ("answers.sqlite-wal", "answers.sqlite-shm"):
        (tmp_path / "state" / name).unlink(missing_ok=True)
    run_steps(job_of(tmp_path, _texts(12), service.url, state=str(tmp_path / "state")))
    assert results(grown)[:10] == before
    run_steps({**job_of(tmp_path, _texts(12), service.url), "state": settings["state"], "output": other["output"]})
    assert results(other)[:10] == paid_there


def test_a_paid_answer_comes_before_a_failed_try(service: FakeService, tmp_path: Path) -> None:
    """A request that failed for one output and was then paid for by another of the same state is not paid for again."""
    service.configure(faults=[{"kind": "status:400", "match": '"text 7"', "times": 1}])
    settings = job_of(tmp_path, _texts(10), service.url, state=str(tmp_path / "state"))
    run_steps(settings)
    assert results(settings)[7]["status"] == "failed"
    run_steps({**settings, "output": str(tmp_path / "other")})
    paid = _billed(service)
    run_steps(settings)
    row = results(settings)[7]
    assert (row["status"], row["reused"], _billed(service) - paid) == ("ok", True, 0)


def test_a_limit_is_the_head_of_the_whole(service: FakeService, tmp_path: Path) -> None:
    """`--limit` completes the first rows; a full run after it pays only for the others."""
    settings = job_of(tmp_path, _texts(30), service.url)
    run_steps(settings, limit=10)
    assert len(results(settings)) == 10
    run_steps(settings)
    assert len(results(settings)) == 30
    assert _billed(service) == 30


@pytest.mark.parametrize(
    ("kind", "status", "code", "in_doubt"),
    [
        ("status:500", "ok", None, False),
        ("gateway:500", "ok", None, True),
        ("status:400", "failed", "bad_request", False),
        ("disconnect_before", "ok", None, True),
        ("disconnect_after", "ok", None, True),
        ("garbage", "ok", None, True),
        ("empty_body", "ok", None, True),
        ("truncated_json", "ok", None, True),
        ("invalid_utf8", "ok", None, True),
        ("nested", "ok", None, True),
        ("redirect", "failed", "redirect", True),
        ("endless_body", "failed", "reply_too_large", True),
        ("content_filter", "refused", "content_filter", False),
        ("refusal", "refused", "refusal", False),
        ("null_content", "failed", "no_answer", False),
        ("empty_choices", "failed", "no_answer", False),
        ("lone_surrogate", "ok", None, False),
        ("bad_usage:negative", "ok", None, False),
        ("bad_usage:huge", "ok", None, False),
        ("echo", "failed", "bad_request", False),
    ],
)
@pytest.mark.nightly  # test_service.py has each fault in one run
def test_every_fault_has_its_row(
    service: FakeService, tmp_path: Path, kind: str, status: str, code: str | None, *, in_doubt: bool
) -> None:
    """For each fault that a service shows once, the row gets the status, code and money that the table lists."""
    service.configure(faults=[{"kind": kind, "match": '"text 7"', "times": 1}])
    settings = job_of(tmp_path, _texts(12), service.url, retry={"attempts": 2, "timeout_s": 5})
    done = run_steps(settings)
    assert done is not None
    rows = results(settings)
    row = rows[7]
    assert (row["status"], row["error_code"]) == (status, code)
    assert (row["in_doubt_usd"] > 0) is in_doubt
    assert row["attempts"] == (2 if status == "ok" and (in_doubt or kind == "status:500") else 1)
    assert "text 7" not in (row["error_message"] or "")
    assert all(other["status"] == "ok" for index, other in enumerate(rows) if index != 7)
    _check_sums(*done, rows)


def test_a_result_file_that_was_cut_is_written_again(service: FakeService, tmp_path: Path) -> None:
    """If a result file is not whole, a second start writes the results again and pays nothing."""
    settings = job_of(tmp_path, _texts(10), service.url)
    run_steps(settings)
    part = next((tmp_path / "out" / "results").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    assert run_steps(settings) is not None
    assert _billed(service) == 10
    assert [row["status"] for row in results(settings)] == ["ok"] * 10
