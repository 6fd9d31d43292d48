"""The same job again: an answer that is paid is never paid for twice, and only changed rows are sent."""

from __future__ import annotations

import shutil
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from tests.tools.expected import billed_usd, check_books, files_of, total
from tests.tools.jobs import Jobs
from tests.tools.kills import wait_for_requests

TEXTS = [f"text {n}" for n in range(12)]


def _sent(jobs: Jobs) -> int:
    """Return the number of requests so far and reset the count."""
    count: int = jobs.service.stats()["requests"]
    jobs.service.reset()
    return count


def test_a_finished_job_sends_nothing(jobs: Jobs) -> None:
    """A finished job that runs again exits 0, sends nothing, and leaves every byte of its output unchanged."""
    settings = jobs.job(TEXTS)
    first = jobs.run(settings)
    assert (first.exit_code, _sent(jobs)) == (0, 12)
    before = files_of(jobs.folder / "out")
    again = jobs.run(settings)
    assert (again.exit_code, _sent(jobs)) == (0, 0)
    assert files_of(jobs.folder / "out") == before
    # a setting that does not change a request does not change the output either
    other = jobs.run({**settings, "budget": {"run_usd": 7}, "limits": {"max_at_once": 3}, "labels": {"a": "b"}})
    assert (other.exit_code, _sent(jobs)) == (0, 0)
    assert files_of(jobs.folder / "out") == before


def test_a_finished_job_with_kept_rows_sends_nothing(jobs: Jobs) -> None:
    """Truncated, refused and invalid rows are kept: a second start sends nothing and leaves the files unchanged."""
    jobs.service.configure(faults=[{"kind": "length", "match": "text 3"}, {"kind": "refusal", "match": "text 4"}])
    settings = jobs.job(TEXTS, tolerate={"not_ok": 0.5})
    assert (jobs.run(settings).exit_code, _sent(jobs)) == (0, 12)
    before = files_of(jobs.folder / "out")
    jobs.service.configure(faults=[])
    assert (jobs.run(settings).exit_code, _sent(jobs)) == (0, 0)
    assert files_of(jobs.folder / "out") == before


@pytest.mark.nightly
def test_a_changed_input_pays_only_its_new_rows(jobs: Jobs) -> None:
    """New and changed rows are paid; all others keep their answers, their cost and the id of the run that paid."""
    first = jobs.run(jobs.job(TEXTS))
    paid = {row["text"]: row for row in first.rows}
    jobs.service.reset()
    texts = ["new at the top", *TEXTS[1:6], "changed", *TEXTS[7:], "new at the end"]
    second = jobs.run(jobs.job(texts))
    assert (second.exit_code, jobs.service.stats()["requests"]) == (0, 3)
    assert second.column("text") == texts
    assert second.summary["run_id"] != first.summary["run_id"]
    for row in second.rows:
        if row["text"] in paid:
            same = paid[row["text"]]
            for name in ("completion", "status", "cost_usd", "run_id", "request_id", "request_key", "prompt_tokens"):
                assert row[name] == same[name], name
        else:
            assert row["run_id"] == second.summary["run_id"]
    assert Decimal(second.summary["cost_usd"]) == billed_usd(jobs.service)
    check_books(second)
    fewer = jobs.run(jobs.job(TEXTS[2:5]))
    assert (fewer.exit_code, jobs.service.stats()["requests"]) == (0, 3)
    assert fewer.column("text") == TEXTS[2:5]
    check_books(fewer)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"prompt": {"user": "Say {{ text }}"}}, id="prompt"),
        *(
            pytest.param(change, marks=pytest.mark.nightly, id=name)
            for name, change in {
                "system": {"prompt": {"system": "New.", "user": "{{ text }}"}},
                "model": {"model": "gpt-4o"},
                "maximum": {"max_output_tokens": 51},
                "parameters": {"parameters": {"temperature": 0.5}},
            }.items()
        ),
    ],
)
def test_a_changed_request_pays_for_all(jobs: Jobs, change: dict[str, Any]) -> None:
    """If a setting changes the request, the run pays for every row again, and the results show only the new answers."""
    first = jobs.run(jobs.job(TEXTS[:4]))
    jobs.service.reset()
    second = jobs.run(jobs.job(TEXTS[:4], **change))
    assert (second.exit_code, jobs.service.stats()["requests"]) == (0, 4)
    assert set(second.column("run_id")) == {second.summary["run_id"]}
    assert not set(second.column("request_key")) & set(first.column("request_key"))
    assert Decimal(second.summary["cost_usd"]) == billed_usd(jobs.service, change.get("model", "gpt-4o-mini"))
    check_books(second)


@pytest.mark.nightly
def test_outputs_that_share_state_share_answers(jobs: Jobs) -> None:
    """A second output over the same state sends nothing: its rows are reused at cost 0, with what they save."""
    state = str(jobs.folder / "state")
    first = jobs.run(jobs.job(TEXTS, state=state))
    jobs.service.reset()
    second = jobs.run(jobs.job(TEXTS, state=state, output=str(jobs.folder / "out2")))
    assert (second.exit_code, jobs.service.stats()["requests"]) == (0, 0)
    assert second.column("completion") == first.column("completion")
    assert set(second.column("reused")) == {True}
    assert set(second.column("run_id")) == {first.summary["run_id"]}
    assert total(second.column("cost_usd")) == 0
    assert second.summary["cost_usd"] == "0.000000000"
    assert second.summary["saved_usd"] == first.summary["cost_usd"]
    assert second.summary["rows"]["reused"] == 12
    check_books(second)
    more = jobs.run(jobs.job([*TEXTS, "one more"], state=state, output=str(jobs.folder / "out3")))
    assert (more.exit_code, jobs.service.stats()["requests"]) == (0, 1)
    assert Decimal(more.summary["cost_usd"]) == billed_usd(jobs.service) == total(more.column("cost_usd"))
    check_books(more)


def test_without_dedupe_every_row_pays(jobs: Jobs) -> None:
    """With `dedupe: false` equal rows are sent one by one, each under its own key, and each only once."""
    settings = jobs.job(["a", "b", "a", "a"], dedupe=False)
    done = jobs.run(settings)
    assert (done.exit_code, _sent(jobs)) == (0, 4)
    assert len(set(done.column("request_key"))) == 4
    assert done.column("reused") == [False] * 4
    check_books(done)
    again = jobs.run(jobs.job(["a", "b", "a", "a", "a"], dedupe=False))
    assert (again.exit_code, _sent(jobs)) == (0, 1)


def test_a_limit_first_and_then_the_rest(jobs: Jobs) -> None:
    """`--limit N` completes the first N rows; the full run after it pays only for the others."""
    settings = jobs.job(TEXTS)
    some = jobs.run(settings, "--limit", "5")
    assert (some.exit_code, _sent(jobs)) == (0, 5)
    assert some.column("text") == TEXTS[:5]
    check_books(some)
    everything = jobs.run(settings)
    assert (everything.exit_code, _sent(jobs)) == (0, 7)
    assert everything.column("text") == TEXTS
    assert total(everything.column("cost_usd")[:5]) == Decimal(some.summary["cost_usd"])
    assert everything.column("run_id")[:5] == [some.summary["run_id"]] * 5
    check_books(everything)


def test_a_smaller_limit_and_back(jobs: Jobs) -> None:
    """A limit after a full run has nothing to do: all rows, the summary and the report stay unchanged.
    A full run after it has nothing to do either.
    """
    settings = jobs.job(TEXTS)
    everything = jobs.run(settings)
    before = files_of(jobs.folder / "out")
    some = jobs.run(settings, "--limit", "3")
    assert (some.exit_code, some.table.equals(everything.table)) == (0, True)
    assert "nothing to do: no row of the first 3 lacks its outcome" in some.stdout
    again = jobs.run(settings)
    assert (again.exit_code, jobs.service.stats()["requests"]) == (0, 12)
    assert files_of(jobs.folder / "out") == before


@pytest.mark.nightly
def test_a_limit_keeps_the_rows_after_it(jobs: Jobs) -> None:
    """`--limit` on larger results completes only the first rows and leaves the others unchanged.
    A run without it completes the others too.
    """
    jobs.service.configure(faults=[{"kind": "status:400", "match": "bad", "times": 1}])
    texts = ["bad 0", "fine 1", "fine 2", "bad 3", "fine 4"]
    each: dict[str, Any] = {"for_each": {"lang": ["fr", "de"]}, "prompt": {"user": "{{ text }} {{ lang }}"}}
    settings = jobs.job(texts, tolerate={"not_ok": 1}, **each)
    first = jobs.run(settings)
    assert (first.column("status").count("failed"), _sent(jobs)) == (4, 10)
    jobs.service.configure(faults=[])
    some = jobs.run(settings, "--limit", "2")
    assert (some.exit_code, _sent(jobs)) == (0, 2), some.stderr
    assert some.column("text") == [text for text in texts for _ in range(2)]
    assert some.column("status") == ["ok"] * 6 + ["failed"] * 2 + ["ok"] * 2
    assert some.rows[2:] == first.rows[2:]
    check_books(some)
    everything = jobs.run(settings)
    assert (everything.exit_code, _sent(jobs)) == (0, 2)
    assert everything.column("status") == ["ok"] * 10
    check_books(everything)
    redone = jobs.run(settings, "--redo", "ok", "--limit", "1")
    assert (redone.exit_code, _sent(jobs)) == (0, 2)
    assert redone.rows[2:] == everything.rows[2:]


@pytest.mark.nightly
def test_a_limit_to_try_another_prompt(jobs: Jobs) -> None:
    """`--limit` with another prompt pays for the first rows and keeps the old answers of the others.
    A run without it completes all rows, with either prompt.
    """
    settings = jobs.job(TEXTS)
    first = jobs.run(settings)
    jobs.service.reset()
    other = {**settings, "prompt": {"user": "Say {{ text }}"}}
    some = jobs.run(other, "--limit", "4")
    assert (some.exit_code, _sent(jobs)) == (0, 4)
    assert some.rows[4:] == first.rows[4:]
    assert not set(some.column("request_key")[:4]) & set(first.column("request_key"))
    again = jobs.run(other, "--limit", "4")
    assert (again.exit_code, _sent(jobs)) == (0, 0)
    back = jobs.run(settings)
    assert (back.exit_code, _sent(jobs)) == (0, 0)
    assert back.rows == first.rows
    everything = jobs.run(other)
    assert (everything.exit_code, _sent(jobs)) == (0, 8)
    assert everything.rows[:4] == some.rows[:4]
    assert not set(everything.column("request_key")) & set(first.column("request_key"))
    check_books(everything)


@pytest.mark.nightly
def test_a_limit_over_the_results_of_another_input(jobs: Jobs) -> None:
    """If `--limit` would lose rows of another input, it exits 2 and says what to do.
    Nothing is sent, and nothing is lost.
    """
    jobs.run(jobs.job(TEXTS))
    before, _ = files_of(jobs.folder / "out"), _sent(jobs)
    for texts in (["another", *TEXTS], TEXTS[:6], list(reversed(TEXTS))):
        refused = jobs.run(jobs.job(texts), "--limit", "3")
        assert (refused.exit_code, _sent(jobs)) == (2, 0)
        assert "has results of 12 rows of another input, and --limit 3 would lose them" in refused.stderr
        assert files_of(jobs.folder / "out") == before
    grown = jobs.run(jobs.job([*TEXTS, "one more"]), "--limit", "3")  # the rows of the results are unchanged
    assert (grown.exit_code, _sent(jobs)) == (0, 0)
    assert files_of(jobs.folder / "out") == before
    assert jobs.run(jobs.job([*TEXTS, "one more"])).table.num_rows == 13


def test_redo_with_a_limit_keeps_the_other_rows(jobs: Jobs) -> None:
    """`--redo failed --limit 5` sends the failed rows among the first five and keeps all others.
    The plain run after it completes those.
    """
    texts = [f"{'bad' if n % 3 == 0 else 'fine'} {n}" for n in range(20)]
    jobs.service.configure(faults=[{"kind": "status:400", "match": "bad", "times": 1}])
    settings = jobs.job(texts, tolerate={"not_ok": 1})
    first = jobs.run(settings)
    assert first.column("status").count("failed") == 7
    _sent(jobs)
    jobs.service.configure(faults=[])
    some = jobs.run(settings, "--redo", "failed", "--limit", "5")
    assert (some.exit_code, _sent(jobs)) == (0, 2), some.stderr
    assert (some.column("text"), some.column("status").count("failed")) == (texts, 5)
    assert some.rows[5:] == first.rows[5:]
    check_books(some)
    everything = jobs.run(settings)
    assert (everything.exit_code, _sent(jobs)) == (0, 5)
    assert everything.column("status") == ["ok"] * 20
    check_books(everything)
    again = jobs.run(settings, "--redo", "ok", "--limit", "1")
    assert (again.exit_code, again.table.num_rows, _sent(jobs)) == (0, 20, 1)


def test_a_redo_with_nothing_to_redo(jobs: Jobs) -> None:
    """`--redo` of a status that no row has says so and leaves every file unchanged.
    The exit code follows from the results.
    """
    jobs.service.configure(faults=[{"kind": "length", "match": "text 3"}])
    settings = jobs.job(TEXTS, tolerate={"not_ok": 1})
    jobs.run(settings)
    before, _ = files_of(jobs.folder / "out"), _sent(jobs)
    for start in (["--redo", "failed"], ["--redo", "truncated", "--limit", "3"], ["--redo", "invalid,refused"]):
        idle = jobs.run(settings, *start)
        assert (idle.exit_code, _sent(jobs)) == (0, 0)
        assert "nothing to redo: no row" in idle.stdout
        assert files_of(jobs.folder / "out") == before
    strict = jobs.run({**settings, "tolerate": {"not_ok": 0}}, "--redo", "failed")
    assert (strict.exit_code, _sent(jobs)) == (5, 0)
    assert files_of(jobs.folder / "out") == before


@pytest.mark.parametrize("removed", [["summary.json"], ["summary.json", "history"]])
def test_a_summary_that_was_removed_is_made_again(jobs: Jobs, removed: list[str]) -> None:
    """If the summary of a finished output was deleted, the next start restores it from its history or its results.
    Nothing is sent.
    """
    settings = jobs.job(TEXTS)
    first = jobs.run(settings)
    _sent(jobs)
    for name in removed:
        path = jobs.folder / "out" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = jobs.run(settings)
    assert (again.exit_code, _sent(jobs)) == (0, 0)
    assert again.table.drop_columns(["run_id"]).equals(first.table.drop_columns(["run_id"]))
    assert (again.summary["state"], again.summary["rows"]["ok"]) == ("finished", 12)
    if len(removed) == 1:
        assert again.summary == first.summary
    check_books(again)


@pytest.mark.nightly
def test_a_killed_run_pays_for_nothing_that_another_has_paid(jobs: Jobs) -> None:
    """Run 1 is killed, and run 2 completes its rows into another output over the same state.
    Run 1 then sends nothing, exits 0, and shows those rows as reused at no cost.
    """
    jobs.service.configure(latency_ms=30)
    texts = [f"text {n}" for n in range(150)]
    state = str(jobs.folder / "state")
    first = jobs.job(texts, state=state, limits={"max_at_once": 8})
    second = {**first, "output": str(jobs.folder / "out2")}
    spawned = jobs.spawn(first)
    wait_for_requests(jobs.service, spawned, 40)
    spawned.process.kill()
    spawned.wait()
    jobs.service.configure(latency_ms=1)
    completed = jobs.run(second)
    assert completed.exit_code == 0, completed.stderr
    stats = jobs.service.stats()
    paid_there = completed.summary["requests"]["sent"]
    assert 60 < paid_there < 150
    again = jobs.run(first)
    assert again.exit_code == 0, again.stderr
    assert jobs.service.stats()["requests"] == stats["requests"]
    assert again.column("completion") == completed.column("completion")
    assert again.summary["rows"]["reused"] == paid_there
    assert total(row["cost_usd"] for row in again.rows if row["reused"]) == 0
    assert len([row for row in again.rows if row["in_doubt_usd"]]) <= 8
    check_books(again)
    check_books(completed)


def test_rows_move_and_keep_their_answers(jobs: Jobs) -> None:
    """With `dedupe: false` and ids, rows in another order or file keep the answers that were paid for them."""
    table = pa.table({"text": ["a", "b", "a"], "id": ["1", "2", "3"]})
    settings = jobs.job(table, dedupe=False, id_column="id")
    first = jobs.run(settings)
    second = jobs.run(jobs.job(table.take([2, 0, 1]), dedupe=False, id_column="id"))
    assert (second.exit_code, jobs.service.stats()["requests"]) == (0, 3)
    assert second.column("id") == ["3", "1", "2"]
    assert second.column("request_id") == [first.column("request_id")[index] for index in (2, 0, 1)]
    assert total(second.column("cost_usd")) == billed_usd(jobs.service)


@pytest.mark.nightly
def test_redo_of_truncated_rows(jobs: Jobs) -> None:
    """`--redo truncated` sends only those rows; their cost includes both attempts, and other rows stay unchanged."""
    texts = ["fine 0", "cut 1", "fine 2", "cut 3", "fine 4"]
    jobs.service.configure(faults=[{"kind": "length", "match": "cut", "times": 1}])
    settings = jobs.job(texts, tolerate={"not_ok": 1})
    first = jobs.run(settings)
    assert first.column("status") == ["ok", "truncated", "ok", "truncated", "ok"]
    assert jobs.service.stats()["requests"] == 5
    second = jobs.run(settings, "--redo", "truncated")
    assert (second.exit_code, jobs.service.stats()["requests"]) == (0, 7)
    assert second.column("status") == ["ok"] * 5
    assert [second.rows[index] for index in (0, 2, 4)] == [first.rows[index] for index in (0, 2, 4)]
    for index in (1, 3):
        old, new = first.rows[index], second.rows[index]
        assert new["run_id"] == second.summary["run_id"] != old["run_id"]
        assert new["attempts"] == 2
        assert new["completion_tokens"] == old["completion_tokens"] + 16
        assert new["cost_usd"] > old["cost_usd"]
    assert total(second.column("cost_usd")) == billed_usd(jobs.service)
    check_books(second)
    # the job is finished now: nothing is left to redo or to do
    before = files_of(jobs.folder / "out")
    assert jobs.run(settings).exit_code == 0
    assert jobs.service.stats()["requests"] == 7
    assert files_of(jobs.folder / "out") == before


@pytest.mark.nightly
def test_redo_with_a_larger_limit(jobs: Jobs) -> None:
    """`--redo truncated --set max_output_tokens=N` sends only the truncated rows, with the new limit.
    The unchanged job then has nothing to do.
    """
    jobs.service.configure(faults=[{"kind": "length", "match": "cut"}])
    settings = jobs.job(["fine 0", "cut 1", "fine 2"], tolerate={"not_ok": 1})
    first = jobs.run(settings)
    jobs.service.configure(faults=[])
    second = jobs.run(settings, "--redo", "truncated", "--set", "max_output_tokens=400")
    assert (second.exit_code, jobs.service.stats()["requests"]) == (0, 4)
    assert second.column("status") == ["ok"] * 3
    assert [second.rows[index] for index in (0, 2)] == [first.rows[index] for index in (0, 2)]
    assert second.column("request_key")[1] != first.column("request_key")[1]
    assert jobs.run(settings).exit_code == 0
    assert jobs.service.stats()["requests"] == 4


@pytest.mark.nightly
def test_redo_of_another_input(jobs: Jobs) -> None:
    """An input in another order, other `for_each` values or another day's rows exit 2, so no row gets the answer of
    another. The same cells in a new file are the same input.
    """
    texts = ["apple", "cut pear", "plum"]
    jobs.service.configure(faults=[{"kind": "length", "match": "cut"}])
    each: dict[str, Any] = {"prompt": {"user": "{{ text }} {{ lang }}"}, "tolerate": {"not_ok": 1}}
    settings = jobs.job(texts, **each, for_each={"lang": ["fr", "de"]})
    first = jobs.run(settings)
    assert first.column("status").count("truncated") == 2
    sent = _sent(jobs)
    others = [
        ([texts[2], *texts[:2]], ["fr", "de"]),
        (texts[:2], ["fr", "de"]),
        (texts, ["de", "fr"]),
        (texts, ["ja", "ko"]),
    ]
    for rows, languages in others:
        refused = jobs.run(jobs.job(rows, **each, for_each={"lang": languages}), "--redo", "truncated")
        assert refused.exit_code == 2
        assert "the input is not the one of the results" in refused.stderr
        assert _sent(jobs) == 0
    jobs.write(texts)
    jobs.service.configure(faults=[])
    again = jobs.run(settings, "--redo", "truncated")
    assert (again.exit_code, _sent(jobs)) == (0, 2)
    assert again.column("status") == ["ok"] * 6
    assert again.column("text") == [text for text in texts for _ in range(2)]
    assert sent == 6


@pytest.mark.nightly
def test_redo_of_rows_that_share_a_key(jobs: Jobs) -> None:
    """If equal rows are redone, one request is sent, and all of them show the new answer."""
    jobs.service.configure(faults=[{"kind": "length", "match": "cut", "times": 1}])
    settings = jobs.job(["cut", "fine", "cut"], tolerate={"not_ok": 1})
    first = jobs.run(settings)
    assert first.column("status") == ["truncated", "ok", "truncated"]
    second = jobs.run(settings, "--redo", "truncated")
    assert jobs.service.stats()["requests"] == 3
    assert second.column("status") == ["ok"] * 3
    assert second.column("reused") == [False, False, True]
    assert total(second.column("cost_usd")) == billed_usd(jobs.service)
    check_books(second)


def test_redo_of_failed_rows(jobs: Jobs) -> None:
    """`--redo failed` sends only the failed rows, and what their first attempts left in doubt is still shown."""
    jobs.service.configure(
        faults=[{"kind": "gateway:500", "match": "bad", "times": 1}, {"kind": "length", "match": "cut"}]
    )
    settings = jobs.job(["fine", "bad", "cut"], retry={"attempts": 1}, tolerate={"not_ok": 1})
    first = jobs.run(settings)
    assert first.column("status") == ["ok", "failed", "truncated"]
    assert first.column("error_code") == [None, "bad_gateway", "max_output_tokens"]
    second = jobs.run(settings, "--redo", "failed")
    assert (second.exit_code, jobs.service.stats()["requests"]) == (0, 4)
    assert second.column("status") == ["ok", "ok", "truncated"]
    assert [second.rows[index] for index in (0, 2)] == [first.rows[index] for index in (0, 2)]
    assert second.rows[1]["in_doubt_usd"] == first.rows[1]["in_doubt_usd"] > 0
    assert second.rows[1]["attempts"] == 2
    check_books(second)


def test_failed_rows_are_tried_again_without_redo(jobs: Jobs) -> None:
    """A second start retries failed rows and keeps truncated, refused and invalid ones, which are paid for."""
    faults = [
        {"kind": "status:400", "match": "bad", "times": 1},
        {"kind": "length", "match": "cut", "times": 1},
        {"kind": "refusal", "match": "no", "times": 1},
    ]
    jobs.service.configure(faults=faults)
    settings = jobs.job(["fine", "bad", "cut", "no"], tolerate={"not_ok": 1})
    first = jobs.run(settings)
    assert first.column("status") == ["ok", "failed", "truncated", "refused"]
    second = jobs.run(settings)
    assert (second.exit_code, jobs.service.stats()["requests"]) == (0, 5)
    assert second.column("status") == ["ok", "ok", "truncated", "refused"]
    assert second.rows[1]["attempts"] == 2
    for index in (0, 2, 3):
        assert second.rows[index] == first.rows[index]
    assert total(second.column("cost_usd")) == billed_usd(jobs.service)
    check_books(second)


@pytest.mark.nightly
def test_equal_rows_that_failed_are_tried_once_more(jobs: Jobs) -> None:
    """If the request of equal rows fails, all of them are `failed`.
    A second start sends one request, and all rows get its answer.
    """
    jobs.service.configure(faults=[{"kind": "status:400", "match": "bad", "times": 1}])
    settings = jobs.job(["bad", "fine", "bad"], tolerate={"not_ok": 1})
    first = jobs.run(settings)
    assert first.column("status") == ["failed", "ok", "failed"]
    assert first.column("error_code") == ["bad_request", None, "bad_request"]
    second = jobs.run(settings)
    assert jobs.service.stats()["requests"] == 3
    assert second.column("status") == ["ok"] * 3
    assert second.column("reused") == [False, False, True]
    assert total(second.column("cost_usd")) == billed_usd(jobs.service)
    check_books(second)


def test_a_rejected_row_is_judged_anew(jobs: Jobs) -> None:
    """A rejected row is sent once its cell is corrected, and the other rows are not paid again."""
    assert jobs.run(jobs.job(["a", None, "c"], tolerate={"not_ok": 1})).column("status") == ["ok", "rejected", "ok"]
    jobs.service.reset()
    corrected = jobs.run(jobs.job(["a", "b", "c"]))
    assert (corrected.exit_code, jobs.service.stats()["requests"]) == (0, 1)
    assert corrected.column("status") == ["ok"] * 3


def test_redo_refuses_what_it_cannot_do(jobs: Jobs) -> None:
    """`--redo` of an unknown status, or without results, exits 2 and sends nothing."""
    settings = jobs.job(TEXTS)
    assert jobs.run(settings, "--redo", "broken").exit_code == 2
    assert jobs.run(settings, "--redo", "failed").exit_code == 2
    assert jobs.service.stats()["requests"] == 0
