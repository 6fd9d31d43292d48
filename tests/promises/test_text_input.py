"""CSV and JSON lines keep the promises of Parquet: ids, row numbers, bad rows, and no row paid for twice."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from parquill.flows.cli.preview import preview_rows
from parquill.tasks.errors import BadInput
from parquill.tasks.job.load import make_job
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.prepare import estimate_job
from parquill.tasks.prompts.resolve import resolve_job
from tests.tools.answering import Answering
from tests.tools.direct import results, run_steps
from tests.tools.measured import peak_of

ENDINGS = ["csv", "jsonl"]


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a ledger of this test alone, and small batches."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    monkeypatch.setattr("parquill.tasks.prompts.input_text.BATCH_ROWS", 6)


def _write(path: Path, rows: list[tuple[str, Any]]) -> None:
    """Write rows of an id and a number; a number may be null."""
    if path.suffix == ".csv":
        path.write_text("id,n\n" + "".join(f'"{name}",{"" if n is None else n}\n' for name, n in rows))
    else:
        path.write_text("".join(json.dumps({"id": name, "n": n}) + "\n\n" for name, n in rows))


def _job(folder: Path, ending: str, rows: list[tuple[str, Any]], **more: Any) -> dict[str, Any]:
    _write(folder / f"in.{ending}", rows)
    return {
        "name": "texts",
        "input": str(folder / f"in.{ending}"),
        "output": str(folder / "out"),
        "id_column": "id",
        "prompt": {"user": "number {{ n }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 50,
        "endpoint": {"base_url": "http://127.0.0.1:9/v1"},
        **more,
    }


def _run(settings: dict[str, Any], **how: Any) -> Counter[str]:
    """Run a job to its end; return what was billed."""
    service = Answering()
    run_steps(settings, transport=service.open, **how)
    return service.billed


def _rows(count: int) -> list[tuple[str, Any]]:
    return [(f"r{number:03}", number) for number in range(count)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_results_hold_the_rows(tmp_path: Path, ending: str) -> None:
    """Results hold every column of every row in the order of the file, with file and row number.
    A null, or an id that repeats, rejects its own row only.
    """
    rows = _rows(20)
    rows[3], rows[7] = ("r003", None), ("r006", 7)
    job = _job(tmp_path, ending, rows, tolerate={"rejected": 0.5, "not_ok": 1})
    assert _run(job) == Counter(f"number {number}" for number in range(20) if number not in {3, 7})
    found = results(job)
    assert [(row["id"], row["n"]) for row in found] == rows
    assert [row["row_number"] for row in found] == list(range(20))
    assert {row["source_file"] for row in found} == {f"in.{ending}"}
    codes = {row["row_number"]: row["error_code"] for row in found if row["status"] != "ok"}
    assert codes == {3: "null_value", 7: "bad_id"}
    assert all(row["completion"] == f"answer to number {row['n']}" for row in found if row["status"] == "ok")


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_input_again(tmp_path: Path, ending: str) -> None:
    """A job on the same file again has nothing to do.
    A grown file pays for its new rows only, even if a column has become text.
    """
    job = _job(tmp_path, ending, _rows(15))
    assert _run(job).total() == 15
    assert run_steps(job, transport=Answering().open) is None
    _write(tmp_path / f"in.{ending}", [*_rows(15), ("r015", 15), ("r016", 16)])
    assert _run(job) == Counter(["number 15", "number 16"])
    assert [row["completion"] for row in results(job)] == [f"answer to number {number}" for number in range(17)]
    if ending == "csv":
        _write(tmp_path / "in.csv", [*_rows(17), ("r017", "017")])
        assert _run(job) == Counter(["number 017"])
    assert _run(job, redo=("ok",)).total() >= 17


@pytest.mark.parametrize("ending", ENDINGS)
def test_limit_and_then_all(tmp_path: Path, ending: str) -> None:
    """A run of the first rows and then a run of all rows pay for each row once."""
    job = _job(tmp_path, ending, _rows(30))
    first = _run(job, limit=10)
    assert first == Counter(f"number {number}" for number in range(10))
    assert _run(job) == Counter(f"number {number}" for number in range(10, 30))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_file_pays_nothing(tmp_path: Path, ending: str) -> None:
    """A file with a damaged last line stops the run before any request, and leaves no run behind."""
    job = _job(tmp_path, ending, _rows(20))
    with (tmp_path / f"in.{ending}").open("a") as file:
        file.write('"x')
    service = Answering()
    with pytest.raises(BadInput, match="line "):
        run_steps(job, transport=service.open)
    assert service.billed.total() == 0
    assert not list((tmp_path / "out" / ".parquill").glob("runs/*"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_estimate_and_preview_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """An estimate and a preview of a text file write nothing next to it and leave no temporary file."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    settings = _job(tmp_path, ending, _rows(20))
    job, _ = resolve_job(make_job(settings), date(2026, 11, 23), None, ())
    options = RunOptions(day=date(2026, 11, 23))
    before = {path for path in tmp_path.rglob("*") if "ledger" not in path.name}
    assert estimate_job(job, options).rows == 20
    shown = preview_rows(job, options, 2)
    assert [row["body"]["messages"][-1]["content"] for row in shown] == ["number 0", "number 1"]
    assert {path for path in tmp_path.rglob("*") if "ledger" not in path.name} == before


@pytest.mark.nightly  # it writes and reads some hundred megabytes
@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    """Reading a file ten times as large takes only a few megabytes more memory."""
    peaks = []
    for rows in (40_000, 400_000):
        text = "some words of a prompt " * 20
        with (tmp_path / name).open("w") as file:
            if name == "in.csv":
                file.write("id,text\n")
                file.writelines(f'{row},"{text}, {row}"\n' for row in range(rows))
            else:
                file.writelines(f'{{"id": {row}, "text": "{text} {row}"}}\n' for row in range(rows))
        peaks.append(peak_of(f"for _ in read_batches(find_source({str(tmp_path / name)!r})): pass"))
    assert peaks[1] < peaks[0] + 40
