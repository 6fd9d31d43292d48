"""A job that cannot work is refused before the first payment: exit 2, the problem named, nothing sent."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from tests.tools.expected import check_books
from tests.tools.jobs import Done, Jobs

TEXTS = ["one", "two", "three"]
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"


@pytest.mark.parametrize("value", [None, "", "  ", '"sk-quoted"', "sk-with blank", "sk-h\u00e9"], ids=repr)
def test_a_key_that_cannot_be_right_is_refused_by_name(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """A key that is missing, blank, quoted or not printable is refused by its variable's name and never shown."""
    if value is None:
        monkeypatch.delenv("E2E_KEY", raising=False)
    else:
        monkeypatch.setenv("E2E_KEY", value)
    done = jobs.run(jobs.job(TEXTS, endpoint={"api_key_env": "E2E_KEY"}))
    assert done.exit_code == 2
    assert "E2E_KEY" in done.stderr
    assert "sk-" not in done.stderr
    assert jobs.service.stats()["requests"] == 0


def test_a_key_with_a_newline_at_its_end_works(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """White space around a key, such as a file's last newline, is removed."""
    jobs.service.configure(require_key="sk-canary")
    monkeypatch.setenv("E2E_KEY", "sk-canary\n")
    assert jobs.run(jobs.job(TEXTS, endpoint={"api_key_env": "E2E_KEY"})).exit_code == 0


@pytest.mark.parametrize("name", ["completion", "status", "cost_usd", "finished_at"])
def test_a_column_like_one_of_ours_names_the_way_out(jobs: Jobs, name: str) -> None:
    """An input column named like an output column exits 2, and the refusal names `column_prefix`."""
    done = jobs.run(jobs.job(pa.table({"text": TEXTS, name: ["x", "y", "z"]})))
    assert done.exit_code == 2
    assert name in done.stderr
    assert "column_prefix" in done.stderr
    assert jobs.service.stats()["requests"] == 0


def test_files_that_are_no_tables_are_refused(jobs: Jobs) -> None:
    """A file that is empty, not Parquet, cut off or of another schema is named, and nothing is sent."""
    good = jobs.write(TEXTS, "good.parquet").read_bytes()
    for name, data in (("empty", b""), ("text", b"hello"), ("cut", good[:-20]), ("half", good[: len(good) // 2])):
        path = jobs.folder / f"{name}.parquet"
        path.write_bytes(data)
        done = jobs.run(jobs.job(input=str(path)))
        assert done.exit_code == 2, name
        assert str(path) in done.stderr
    jobs.write(TEXTS, "two/a.parquet")
    jobs.write(pa.table({"text": [1, 2]}), "two/b.parquet")
    done = jobs.run(jobs.job(input=str(jobs.folder / "two")))
    assert done.exit_code == 2
    assert "b.parquet" in done.stderr
    assert jobs.service.stats()["requests"] == 0


def test_an_output_inside_the_input_is_refused(jobs: Jobs) -> None:
    """If the output folder holds the input, the run exits 2, so that results cannot become prompts."""
    jobs.write(TEXTS, "data/in/a.parquet")
    done = jobs.run(jobs.job(input=str(jobs.folder / "data" / "in"), output=str(jobs.folder / "data" / "in")))
    assert done.exit_code == 2
    assert jobs.service.stats()["requests"] == 0


def test_too_many_rejected_rows_stop_the_run_before_any_payment(jobs: Jobs) -> None:
    """More rejected rows than tolerated exit 2 with counts and the first such row.
    A single rejected row is always tolerated.
    """
    texts = [None if n in {4, 7} else f"text {n}" for n in range(10)]
    refused = jobs.run(jobs.job(texts))
    assert refused.exit_code == 2
    assert "prompts.parquet, row 4" in refused.stderr
    assert "null_value 2" in refused.stderr
    assert jobs.service.stats()["requests"] == 0
    tolerated = jobs.run(jobs.job(texts, tolerate={"rejected": 0.2}))
    assert tolerated.exit_code == 5, "rejected rows are not ok: tolerate.not_ok decides the exit code"
    assert tolerated.column("status") == ["rejected" if text is None else "ok" for text in texts]
    assert tolerated.column("row_number") == list(range(10))
    check_books(tolerated)
    one = jobs.run(jobs.job(["a", None, "c"], output=str(jobs.folder / "one")))
    assert (one.exit_code, one.column("status")) == (5, ["ok", "rejected", "ok"])


@pytest.mark.parametrize(("not_ok", "exit_code"), [(0.0, 5), (0.19, 5), (0.2, 0), (1, 0)])
def test_tolerate_decides_the_exit_code(jobs: Jobs, not_ok: float, exit_code: int) -> None:
    """If at most `tolerate.not_ok` of the rows are not ok, the run exits 0 with a warning; above that it exits 5.
    The results are the same.
    """
    jobs.service.configure(faults=[{"kind": "length", "match": "cut"}, {"kind": "status:400", "match": "bad"}])
    texts = ["cut", "bad", *(f"fine {n}" for n in range(8))]
    done = jobs.run(jobs.job(texts, tolerate={"not_ok": not_ok}))
    assert done.exit_code == exit_code
    assert done.summary["exit_code"] == exit_code
    assert done.summary["state"] == "finished"
    assert done.column("status") == ["truncated", "failed", *["ok"] * 8]
    output = done.stdout + done.stderr
    assert "bad_request 1" in output
    assert "max_output_tokens 1" in output
    check_books(done)


def test_a_refused_parameter_is_shown_as_in_the_runbook(jobs: Jobs) -> None:
    """If the service refuses a parameter, the run stops after a few free requests, and the runbook shows its output."""
    page = RUNBOOK.read_text(encoding="utf-8")
    block = page.split("Here 600 rows ", 1)[1].split("```text\n", 1)[1].split("```", 1)[0]
    texts = [f"t{number}" for number in range(600)]
    done = jobs.run(jobs.job(texts, model="o4-mini", parameters={"temperature": 0}))
    assert done.exit_code == 1
    assert 30 <= jobs.service.stats()["requests"] < 100
    assert _plain(block) in _plain(_shown(done))
    again = jobs.run(jobs.job(texts, model="o4-mini"))
    assert again.column("status") == ["ok"] * 600


def _plain(text: str) -> str:
    """Remove line ends and the counts that depend on how many requests were under way."""
    return re.sub(r"(?<=failed )\d+|(?<=not_sent )\d+|\d+(?= requests in a row)", "N", " ".join(text.split()))


def _shown(done: Done) -> str:
    """Return the lines of a run's output that the runbook shows: rows, cost and the error sentence."""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("rows  ", "cost  "))]
    lines += [line for line in done.stderr.splitlines() if line.startswith("parquill: ")]
    return "\n".join(lines)
