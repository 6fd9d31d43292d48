"""`spend`: how it selects jobs and what it prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from parquill.flows.cli.commands import main
from parquill.flows.cli.spend import parse_query, read_spending, show_spending
from parquill.tasks.errors import BadJob
from parquill.tasks.money.ledger import Ledger
from tests.tools.ledger_machine import entry

TODAY = date(2026, 11, 28)
JOB = """\
name: fr
input: in.parquet
output: out
prompt: {user: "{{ text }}"}
model: gpt-4o-mini
max_output_tokens: 100
"""


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    monkeypatch.chdir(tmp_path)
    opened = Ledger()
    yield opened
    opened.close()


@pytest.mark.parametrize("name", ["nofile.yaml", "nighty", "folder", "Fr", "fr ", "/nowhere/job.yaml"])
@pytest.mark.parametrize("resolve", [None, "paid"])
def test_a_name_that_no_run_has(ledger: Ledger, tmp_path: Path, name: str, resolve: str | None) -> None:
    """A missing file, a misspelled job and a folder are refused with the known jobs, because $0.00 would be wrong."""
    (tmp_path / "folder").mkdir()
    for job in ("fr", "nightly"):
        ledger.open_run(entry(f"run of {job}", job), 5, 0, 0, datetime(2026, 10, 1, tzinfo=UTC))
    jobs = ledger.jobs()
    with pytest.raises(BadJob) as caught:
        read_spending(parse_query(name, None, TODAY), TODAY, resolve)
    assert repr(name) in str(caught.value)
    assert all(job in str(caught.value) for job in jobs)


def test_names_that_are_known(ledger: Ledger, tmp_path: Path) -> None:
    """A job with runs only in another month, and a job file without a run, have spent nothing this month."""
    with pytest.raises(BadJob, match="the ledger has no job yet"):
        read_spending(parse_query("fr", None, TODAY), TODAY)
    (tmp_path / "job.yaml").write_text(JOB)
    assert read_spending(parse_query("job.yaml", None, TODAY), TODAY)["rows"] == []
    ledger.open_run(entry("a run", "de"), 5, 0, 0, datetime(2026, 10, 1, tzinfo=UTC))
    assert read_spending(parse_query("de", None, TODAY), TODAY)["rows"] == []


def test_what_is_reserved_in_batches(ledger: Ledger) -> None:
    """M8: Money that waits at the service is shown by day and in total, only if there is any, and in the forecast."""
    query = parse_query(None, "2026-11", TODAY)
    ledger.open_run(entry("one", "fr"), 4_000_000_000, 0, 0, datetime(2026, 11, 14, tzinfo=UTC))
    assert not any("batches" in line for line in show_spending(read_spending(query, TODAY)))
    ledger.open_run(
        entry("two", "de"), 5_000_000_000, 1_000_000_000, 18_000_000_000, datetime(2026, 11, 28, tzinfo=UTC)
    )
    found = read_spending(query, TODAY)
    assert [row["submitted_usd"] for row in found["rows"]] == ["0.000000000", "18.000000000"]
    assert found["submitted_usd"] == "18.000000000"
    assert show_spending(found) == [
        "2026-11-14  fr  a-model  1 runs  $4.00",
        "2026-11-28  de  a-model  1 runs  $5.00  in doubt $1.00  reserved in batches $18.00",
        "2026-11: $9.00, in doubt $1.00, reserved in batches $18.00",
        "at this pace the month ends at $30.00",
    ]


def test_a_name_with_a_line_break(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """A name from the ledger cannot break the table: each row is one line, without control characters."""
    names = ["one\ntwo", "bell\x07", "back\rto", "\x1b[31mred", "para\u2029graph", "over\u202eride"]
    for number, name in enumerate(names):
        ledger.open_run(replace(entry(f"run-{number}", name), model="m\no"), 5, 0, 0, datetime.now(UTC))
    with pytest.raises(SystemExit) as ended:
        main(["spend"])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert sum("1 runs" in line for line in lines) == len(names)
    assert len(lines) == len(names) + 2
    assert all(character.isprintable() for line in lines for character in line)
