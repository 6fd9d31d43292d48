"""Crash, and the state of a job: no answer in it is paid for again by any run, and missing files are noticed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from parquill.tasks.errors import DamagedJournal, Interrupted
from parquill.tasks.job.load import make_job
from parquill.tasks.llm.open_senders import open_senders
from parquill.tasks.llm.pilot import run_pilot
from parquill.tasks.money.ledger import Ledger
from parquill.tasks.prompts.prepare import estimate_job, prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.restore import LOST_JOURNALS
from parquill.tasks.prompts.run_money import read_standing
from parquill.tasks.storage.folders import Folders, lock_folders
from parquill.tasks.storage.journal import read_journal
from tests.tools.answering import Answering
from tests.tools.direct import job_of, results, run_steps, summary_of
from tests.tools.small_job import stripped

AT_ONCE = 2
TEXTS = [f"text {n}" for n in range(20)]


@pytest.fixture(autouse=True)
def small_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    for setting in ("prepare.MIN_SHARD", "input_parquet.BATCH_ROWS"):
        monkeypatch.setattr(f"parquill.tasks.prompts.{setting}", 6)


class CutOff(Answering):
    """Stops its run, at once and without a grace period, after a number of requests."""

    def __init__(self, after: int, never: str = "") -> None:
        """Answer each prompt after 2 ms, except for the prompt `never`."""
        super().__init__(lambda prompt: 3_600.0 if prompt == never else 0.002)
        self._after = after

    async def handle_async_request(self, request: Any) -> Any:
        reply = await super().handle_async_request(request)
        if self.billed.total() >= self._after:
            for run_sender in open_senders():
                run_sender.request_stop(0)
        return reply


def _night(folder: Path, name: str, texts: list[str] = TEXTS, **more: Any) -> dict[str, Any]:
    """Return a job with its own output, over the state that all jobs share."""
    changes = {"output": str(folder / name), "state": str(folder / "state"), "name": name, **more}
    return job_of(folder / f"in-{name}", texts, "http://127.0.0.1:9/v1", limits={"max_at_once": AT_ONCE}, **changes)


def _run(settings: dict[str, Any], **how: Any) -> Counter[str]:
    """Run a job to its end; return what was billed."""
    service = Answering()
    run_steps(settings, transport=service.open, **how)
    return service.billed


def _cut(settings: dict[str, Any], after: int, never: str = "", **how: Any) -> Counter[str]:
    """Run a job until a number of requests have come, with no answer to the prompt `never`; return what was billed."""
    service = CutOff(after, never)
    with pytest.raises(Interrupted):
        run_steps(settings, transport=service.open, **how)
    return service.billed


def _check_money(settings: dict[str, Any]) -> None:
    """Check that the summary is the sum of the rows of its run, and equals the ledger."""
    summary, rows = summary_of(settings), results(settings)
    mine = [row for row in rows if row["run_id"] == summary["run_id"]]
    ledger = Ledger()
    booked = ledger.of_run(summary["run_id"], datetime.now(UTC))
    ledger.close()
    for name, nano in (("cost_usd", booked.settled_nano), ("in_doubt_usd", booked.in_doubt_nano)):
        assert sum(int(row[name].scaleb(9)) for row in mine) == nano
        assert summary[name] == f"{nano / 10**9:.9f}"


@pytest.mark.parametrize("more", [{}, {"dedupe": False}, {"retry": {"in_doubt": "hold"}}], ids=str)
def test_a_resumed_run_pays_for_nothing_that_its_state_holds(tmp_path: Path, more: dict[str, Any]) -> None:
    """C1, C4: If night 1 is cut off and night 2 completes its rows in another output, night 1 sends nothing when it is
    resumed. Its rows show the answers of night 2 at no cost, and the run that paid.
    """
    first, second = _night(tmp_path, "first", **more), _night(tmp_path, "second", **more)
    begun = _cut(first, 7)
    rest = _run(second)
    assert set(rest) | set(begun) == set(TEXTS)
    assert (begun + rest).total() - len(TEXTS) <= AT_ONCE
    assert _run(first) == Counter()
    rows, paid = results(first), summary_of(second)["run_id"]
    assert [row["completion"] for row in rows] == [f"answer to {text}" for text in TEXTS]
    assert summary_of(first)["rows"]["reused"] == len(rest) == sum(row["reused"] for row in rows)
    for row in rows:
        if row["text"] in rest:
            assert (row["reused"], row["cost_usd"]) == (True, 0)
            assert row["run_id"] == (summary_of(first)["run_id"] if row["in_doubt_usd"] else paid)
        else:
            assert row["cost_usd"] > 0
    assert len([row for row in rows if row["in_doubt_usd"]]) <= AT_ONCE
    for settings in (first, second):
        _check_money(settings)
        assert _run(settings) == Counter()
    assert float(summary_of(first)["saved_usd"]) == pytest.approx(float(summary_of(second)["paid_usd"]))
    # the next night reuses these answers like any others
    grown = _night(tmp_path, "first", [*TEXTS, "one more"], **more)
    assert _run(grown) == Counter(["one more"])
    assert stripped(results(grown))[:-1] == stripped(rows)


def test_a_reused_row_keeps_what_its_own_run_has_in_doubt(tmp_path: Path) -> None:
    """M4: If a run is cut off while a row is under way, and another run answers the row, the first run reuses that
    answer. What it has in doubt for the row stays the row's, so that its rows add up to its summary.
    """
    first, second = _night(tmp_path, "first"), _night(tmp_path, "second")
    _cut(first, 7, never=TEXTS[0])
    _run(second)
    assert _run(first) == Counter()
    summary = summary_of(first)
    (doubtful,) = (row for row in results(first) if row["in_doubt_usd"])
    assert (doubtful["text"], doubtful["reused"], doubtful["run_id"]) == (TEXTS[0], True, summary["run_id"])
    assert doubtful["completion"] == f"answer to {TEXTS[0]}"
    assert float(doubtful["in_doubt_usd"]) == pytest.approx(float(summary["in_doubt_usd"]))
    _check_money(first)


def test_an_interruption_does_not_ask_again_what_was_reused(tmp_path: Path) -> None:
    """C1: A run copies the answers that it reuses into its own journal.
    It can be cut off and resumed at any time without the other journal.
    """
    first, second = _night(tmp_path, "first"), _night(tmp_path, "second", TEXTS[:6])
    _cut(first, 4)
    _run(second)
    _cut(first, 3)
    paid = summary_of(second)["run_id"]
    shutil.rmtree(tmp_path / "state" / "runs" / paid)
    last = _run(first)
    assert set(last) <= set(TEXTS[6:])
    assert [row["completion"] for row in results(first)] == [f"answer to {text}" for text in TEXTS]
    _check_money(first)


def test_runs_that_share_a_state_go_on_in_turn(tmp_path: Path) -> None:
    """C1: Two runs that are cut off and resumed in turn pay for each row once, except for rows under way at a cut."""
    first, second = _night(tmp_path, "first"), _night(tmp_path, "second")
    billed = _cut(first, 3) + _cut(second, 3) + _cut(first, 3) + _cut(second, 2)
    billed += _run(first) + _run(second)
    assert set(billed) == set(TEXTS)
    assert billed.total() - len(TEXTS) <= 4 * AT_ONCE
    for settings in (first, second):
        assert [row["completion"] for row in results(settings)] == [f"answer to {text}" for text in TEXTS]
        _check_money(settings)


def test_after_a_budget_stop(tmp_path: Path) -> None:
    """C1: A run that was stopped by its budget reuses what was paid since, and the gate counts nothing left to pay."""
    budget = {"run_usd": "0.00008", "when_short": "partial"}
    first, second = _night(tmp_path, "first", budget=budget), _night(tmp_path, "second")
    begun = _run(first)
    assert 0 < len(begun) < len(TEXTS)
    assert len(_run(second)) == len(TEXTS) - len(begun)
    tight = {**first, "budget": {"run_usd": "0.00008"}}
    job, options = resolve_job(make_job(tight), None, None, ())
    with lock_folders(Folders.of(job.output, job.state), "a test"):
        run = prepare_run(job, options)
        assert run is not None
        verdict = read_standing(run).verdict
    assert (verdict.fits, verdict.left) == (True, 0)
    assert _run(tight) == Counter()
    assert {row["status"] for row in results(tight)} == {"ok"}


def test_a_pilot_asks_for_nothing_that_was_paid_since(tmp_path: Path) -> None:
    """C1: A resumed pilot counts the rows that another run has paid, and learns from its own rows only."""
    first, second = _night(tmp_path, "first"), _night(tmp_path, "second")

    def pilot(rows: int) -> tuple[int, Counter[str]]:
        service = Answering()
        job, options = resolve_job(make_job(first), None, None, ())
        folders = Folders.of(job.output, job.state)
        folders.create()
        with lock_folders(folders, "a test"):
            run = prepare_run(job, options)
            assert run is not None
            found = run_pilot(run, rows, transport=service.open)
        return found.rows, service.billed

    rows, billed = pilot(5)
    assert (rows, billed.total()) == (5, 5)
    _run(second)
    assert pilot(12) == (5, Counter())
    assert _run(first) == Counter()
    _check_money(first)


def test_a_redo_that_was_cut_off_is_not_paid_twice(tmp_path: Path) -> None:
    """C1: Rows that an interrupted `--redo` has done are not sent again by the next `--redo`.
    Rows that the results already show are sent.
    """
    texts = [*TEXTS[:3], *(f"a long one {n}" for n in range(6))]
    settings = _night(tmp_path, "night", texts)
    _run(settings)
    shown = results(settings)
    begun = _cut(settings, 3, redo=["truncated"])
    assert begun.total() <= 3 + AT_ONCE
    answered = {
        entry.record["completion"].removeprefix("answer to ")
        for path in max((tmp_path / "state" / "runs").iterdir()).glob("journals/*")
        for entry in read_journal(path)
        if entry.record["type"] == "outcome"
    }
    assert answered
    rest = _run(settings, redo=["truncated", "invalid"])
    assert set(rest) == set(texts[3:]) - answered
    for row, before in zip(results(settings), shown, strict=True):
        assert (row["text"], row["status"]) == (before["text"], before["status"])
        if row["text"] in texts[3:]:
            assert row["cost_usd"] == 2 * before["cost_usd"]
            assert row["attempts"] >= 2
            assert row["run_id"] != before["run_id"]
    assert float(summary_of(settings)["paid_usd"]) == pytest.approx(len(rest) * float(shown[-1]["cost_usd"]))
    assert set(_run(settings, redo=["truncated"])) == set(texts[3:])


def test_a_failed_row_that_another_run_has_answered(tmp_path: Path) -> None:
    """C1: `--redo failed` sends no row whose answer has come into the state meanwhile."""
    first, second = _night(tmp_path, "first", tolerate={"not_ok": 1}), _night(tmp_path, "second")

    class Refusing(Answering):
        async def handle_async_request(self, request: Any) -> Any:
            reply = await super().handle_async_request(request)
            if b"text 1" in request.content:
                reply.status_code = 400
            return reply

    run_steps(first, transport=Refusing)
    failed = {row["text"] for row in results(first) if row["status"] == "failed"}
    assert len(failed) == 11
    assert set(_run(second)) == failed
    assert _run(first, redo=["failed"]) == Counter()
    assert {row["status"] for row in results(first)} == {"ok"}
    assert {row["run_id"] for row in results(first) if row["text"] in failed} == {summary_of(second)["run_id"]}


def _journals(state: Path, run: str = "*") -> list[Path]:
    return sorted(state.glob(f"runs/{run}/journals/*.journal"))


def _no_journals(state: Path) -> None:
    for path in _journals(state):
        path.unlink()


def _no_runs(state: Path) -> None:
    shutil.rmtree(state / "runs")


def _no_index_either(state: Path) -> None:
    _no_journals(state)
    for path in state.glob("answers.sqlite*"):
        path.unlink()


def _one_less(state: Path) -> None:
    _journals(state)[1].unlink()


def _no_state(state: Path) -> None:
    shutil.rmtree(state)


@pytest.mark.parametrize("remove", [_no_journals, _no_runs, _no_index_either, _one_less, _no_state])
def test_the_results_of_a_finished_run_are_enough(tmp_path: Path, remove: Callable[[Path], None]) -> None:
    """C1, C4: If the journals of finished nights were removed, the next night takes their answers from the results.
    It pays for new rows only, and ends as if nothing had been removed.
    """
    more: dict[str, Any] = {"tolerate": {"not_ok": 1}, "column_prefix": "llm_", "for_each": {"language": ["fr", "de"]}}
    more["prompt"] = {"user": "{{ text }} in {{ language }}"}
    texts = ["same", *TEXTS, "a long one", "same"]
    night = _night(tmp_path, "night", texts[:-3], **more)
    other = _night(tmp_path, "other", texts[:4], **more)
    _run(other)
    _run(night)
    grown = _night(tmp_path, "night", texts, **more)
    _run(grown)
    before = results(grown)
    more_rows = ["new 1", *texts, "new 2"]
    remove(tmp_path / "state")
    job, options = resolve_job(make_job(grown), None, None, ())
    assert estimate_job(job, options).reuse_note == LOST_JOURNALS
    assert _run(grown) == Counter()
    last = _night(tmp_path, "night", more_rows, **more)
    assert _run(last) == Counter(f"new {n} in {language}" for n in (1, 2) for language in ("fr", "de"))
    assert estimate_job(job, options).reuse_note is None
    rows = results(last)
    by_text = {(row["text"], row["language"], row["id"][:0]): row for row in before}
    for row in rows:
        if not row["text"].startswith("new"):
            old = by_text[row["text"], row["language"], ""]
            for name in ("completion", "status", "cost_usd", "run_id", "finished_at", "attempts", "prompt_tokens"):
                if row["text"] != "same":
                    assert row[f"llm_{name}"] == old[f"llm_{name}"], name
    assert _run(last) == Counter()
    later = _night(tmp_path, "night", [*more_rows, "new 3"], **more)
    assert set(_run(later)) == {"new 3 in fr", "new 3 in de"}


def test_parsed_answers_come_back_from_the_results(tmp_path: Path) -> None:
    """C4: With a response_format, validated answers are taken from the results too."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "tags": {"type": "array"}}, "required": ["n"]}

    class Structured(Answering):
        @staticmethod
        def answer(prompt: str) -> bytes:
            reply = orjson.loads(Answering.answer(prompt))
            text = orjson.dumps({"n": len(prompt), "tags": ["a", 1]}).decode()
            reply["choices"][0]["message"]["content"] = text if prompt != "bad" else "no JSON"
            return orjson.dumps(reply)

    settings = _night(tmp_path, "night", ["bad", *TEXTS[:4]], response_format=schema, tolerate={"not_ok": 1})
    run_steps(settings, transport=Structured)
    before = results(settings)
    assert [row["status"] for row in before] == ["invalid", *["ok"] * 4]
    _no_runs(tmp_path / "state")
    grown = _night(tmp_path, "night", ["bad", *TEXTS[:5]], response_format=schema, tolerate={"not_ok": 1})
    service = Structured()
    run_steps(grown, transport=service.open)
    assert service.billed == Counter([TEXTS[4]])
    assert results(grown)[:-1] == before


def _of_current(settings: dict[str, Any]) -> tuple[Path, str]:
    output = Path(settings["output"])
    run_id = orjson.loads((output / ".parquill" / "current.json").read_bytes())["run_id"]
    return Path(settings["state"]), run_id


@pytest.mark.parametrize("lost", ["a journal", "all journals", "of a finished shard", "the run"])
@pytest.mark.parametrize("grown", [False, True])
def test_missing_journals_of_an_unfinished_run_are_noticed(tmp_path: Path, lost: str, *, grown: bool) -> None:
    """C1: An unfinished run with a missing journal refuses before it sends anything, and says which one and what to do.
    This holds with or without the index, and for another input too; with the file restored, the run resumes.
    """
    settings = _night(tmp_path, "night")
    cuts, begun = 1, _cut(settings, 8)
    state, run_id = _of_current(settings)
    while not any((state / "runs" / run_id / "done").iterdir()):
        cuts, begun = cuts + 1, begun + _cut(settings, 1)
    kept = tmp_path / "kept"
    shutil.copytree(state / "runs", kept)
    done = sorted((state / "runs" / run_id / "done").iterdir())
    assert done
    assert len(done) < len(_journals(state, run_id))
    gone = {
        "a journal": _journals(state, run_id)[-1:],
        "all journals": _journals(state, run_id),
        "of a finished shard": [state / "runs" / run_id / "journals" / f"{done[0].stem}.journal"],
        "the run": [state / "runs" / run_id],
    }[lost]
    for path in gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = _night(tmp_path, "night", [*TEXTS, "one more"]) if grown else settings
    for with_index in (True, False):
        if not with_index:
            for path in state.glob("answers.sqlite*"):
                path.unlink()
        service = Answering()
        with pytest.raises(DamagedJournal) as caught:
            run_steps(again, transport=service.open)
        assert str(caught.value).startswith(f"{gone[0]} is missing")
        assert "Restore" in str(caught.value)
        assert not service.billed
    shutil.copytree(kept, state / "runs", dirs_exist_ok=True)
    rest = _run(again)
    assert set(begun) | set(rest) == set(TEXTS) | ({"one more"} if grown else set())
    assert (begun + rest).total() - len(set(rest) | set(begun)) <= cuts * AT_ONCE


def test_a_person_may_pay_again_for_what_is_lost(tmp_path: Path) -> None:
    """The refusal's advice works: without current.json, the lost rows are paid for again, and no others."""
    settings = _night(tmp_path, "night")
    _cut(settings, 10)
    state, run_id = _of_current(settings)
    lost = {
        entry.record["completion"].removeprefix("answer to ")
        for entry in read_journal(_journals(state, run_id)[0])
        if entry.record["type"] == "outcome"
    }
    answered = {
        entry.record["completion"].removeprefix("answer to ")
        for path in _journals(state, run_id)
        for entry in read_journal(path)
        if entry.record["type"] == "outcome"
    }
    _journals(state, run_id)[0].unlink()
    with pytest.raises(DamagedJournal, match=r"remove .*current\.json"):
        _run(settings)
    (Path(settings["output"]) / ".parquill" / "current.json").unlink()
    assert set(_run(settings)) == lost | (set(TEXTS) - answered)
    assert {row["status"] for row in results(settings)} == {"ok"}


@pytest.mark.parametrize("has_results", [True, False])
def test_a_run_whose_reused_answers_are_gone(tmp_path: Path, *, has_results: bool) -> None:
    """C1: If the journals of a reused answer are gone, an unfinished run takes the answer from the results.
    If the results lack it, the run refuses before it sends anything, and never shows a paid row as not sent.
    """
    before = _night(tmp_path, "night" if has_results else "other", TEXTS[:8])
    _run(before)
    paid = summary_of(before)["run_id"]
    settings = _night(tmp_path, "night")
    begun = _cut(settings, 4)
    shutil.rmtree(tmp_path / "state" / "runs" / paid)
    if has_results:
        rest = _run(settings)
        assert set(begun) | set(rest) == set(TEXTS[8:])
        assert [row["run_id"] for row in results(settings)[:8]] == [paid] * 8
        _check_money(settings)
        return
    service = Answering()
    with pytest.raises(DamagedJournal, match=r"8 answers that the run .* reuses are gone"):
        run_steps(settings, transport=service.open)
    assert not service.billed


def test_an_index_alone_may_be_removed(tmp_path: Path) -> None:
    """The answer index can be deleted at any time.
    This holds even while a run is cut off and another run has answered its rows.
    """
    first, second = _night(tmp_path, "first"), _night(tmp_path, "second")
    _cut(first, 5)
    _run(second)
    for path in (tmp_path / "state").glob("answers.sqlite*"):
        path.unlink()
    assert _run(first) == Counter()


def test_a_kill_between_a_journal_and_its_mark(tmp_path: Path) -> None:
    """C1: If a kill leaves a journal without its mark as begun, the next start continues it like any other."""
    settings = _night(tmp_path, "night")
    begun = _cut(settings, 10)
    state, run_id = _of_current(settings)
    marks = sorted((state / "runs" / run_id / "begun").iterdir())
    assert len(marks) == len(_journals(state, run_id))
    for mark in marks:
        mark.unlink()
    rest = _run(settings)
    assert (begun + rest).total() - len(TEXTS) <= AT_ONCE
    assert {row["status"] for row in results(settings)} == {"ok"}
