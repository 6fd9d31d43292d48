"""Commands that show real answers: `try`, `report --sample`, `export` and `diff`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from tests.fakes.running import FakeService
from tests.tools.jobs import Jobs

PRICE = {"usd_per_mtok_input": 1, "usd_per_mtok_output": 2}


def _settings(jobs: Jobs, rows: int = 30, **changes: Any) -> dict[str, Any]:
    table = pa.table({"id": list(range(rows)), "text": [f"{row} " + "word " * row for row in range(rows)]})
    return jobs.job(table, id_column="id", price=PRICE, **changes)


def _json(jobs: Jobs, command: str, settings: dict[str, Any], *arguments: str) -> dict[str, Any]:
    done = jobs.run(settings, "--json", *arguments, command=command)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found


def test_the_run_reuses_what_was_tried(jobs: Jobs, service: FakeService) -> None:
    """`try` completes rows that are spread over the input, shows request and answer, and the run pays for none again."""
    settings = _settings(jobs)
    tried = _json(jobs, "try", settings, "--rows", "4")
    assert service.stats()["billed"] == 4
    numbers = [row["row_number"] for row in tried["rows"]]
    assert (len(set(numbers)), max(numbers) - min(numbers) > 10) == (4, True)
    row = tried["rows"][0]
    assert row["request"] == [{"role": "user", "content": f"{numbers[0]} " + "word " * numbers[0]}]
    assert (row["status"], bool(row["completion"]), row["error_code"]) == ("ok", True, None)
    again = jobs.run(settings, "--rows", "4", command="try")
    assert service.stats()["billed"] == 4
    assert f"prompts.parquet, row {numbers[0]}: ok" in again.stdout
    assert "4 rows for $" in again.stdout
    done = jobs.run(settings)
    assert (done.exit_code, service.stats()["billed"], service.stats()["billed_twice"]) == (0, 30, [])
    assert set(done.column("run_id")) == {done.summary["run_id"]}
    ended = jobs.run(settings, command="try")
    assert ended.exit_code == 2
    assert "every row already has its answer; `parquill report JOB --sample 10`" in ended.stderr


def test_a_trial_keeps_the_budget(jobs: Jobs, service: FakeService) -> None:
    """Rows whose worst case does not fit into the budget are not sent: exit 3."""
    done = jobs.run(_settings(jobs, budget={"run_usd": "0.0001"}), "--rows", "20", command="try")
    assert (done.exit_code, service.stats()["billed"]) == (3, 0)
    assert "a pilot of 20 rows may cost" in done.stderr


def test_rows_of_a_kind_are_shown(jobs: Jobs, service: FakeService) -> None:
    """`report --where` shows rows with their input and their reason, and how many there are."""
    service.configure(faults=[{"kind": "status:400", "match": "word " * 24 + "word"}])
    settings = _settings(jobs, tolerate={"not_ok": 1})
    assert jobs.run(settings).exit_code == 0
    found = _json(jobs, "report", settings, "--where", "status=failed", "--sample", "3")
    assert (found["matching"], len(found["rows"])) == (5, 3)
    assert all(row["error_code"] == "bad_request" and row["id"] == row["row_number"] for row in found["rows"])
    shown = jobs.run(settings, "--where", "id=2", command="report")
    assert "prompts.parquet, row 2: ok" in shown.stdout
    assert "  text: 2 word word" in shown.stdout
    assert "1 of 1 rows with id=2" in shown.stdout
    both = jobs.run(settings, "--failed", "--sample", "2", command="report")
    assert both.exit_code == 2
    wrong = jobs.run(settings, "--where", "failed", command="report")
    assert wrong.exit_code == 2
    assert "is not COLUMN=VALUE" in wrong.stderr


def test_results_are_exported(jobs: Jobs) -> None:
    """CSV and JSON lines hold each row and column of the results, with exact money."""
    settings = _settings(jobs)
    done = jobs.run(settings)
    table, lines = jobs.folder / "rows.csv", jobs.folder / "rows.jsonl"
    assert jobs.run(settings, "--csv", str(table), command="export").exit_code == 0
    assert jobs.run(settings, "--jsonl", str(lines), command="export").exit_code == 0
    with table.open(newline="", encoding="utf-8") as file:
        of_csv = list(csv.DictReader(file))
    of_json = [orjson.loads(line) for line in lines.read_bytes().splitlines()]
    assert list(of_csv[0]) == list(of_json[0]) == done.table.column_names
    costs = [str(cost) for cost in done.column("cost_usd")]
    assert [row["cost_usd"] for row in of_csv] == [row["cost_usd"] for row in of_json] == costs
    assert [row["completion"] for row in of_csv] == done.column("completion")
    assert not list(jobs.folder.glob(".*partial"))
    missing = jobs.run(settings, "--csv", str(jobs.folder / "no" / "rows.csv"), command="export")
    assert missing.exit_code == 1
    assert "cannot write" in missing.stderr
    assert jobs.run(settings, command="export").exit_code == 2
    assert "no run of" in jobs.run(settings, "--csv", "-", "--so-far", command="export").stderr


def test_paid_answers_of_a_stopped_run_are_exported(jobs: Jobs, service: FakeService) -> None:
    """`--so-far` exports each row that has its outcome, and the run resumes after it without paying again."""
    settings = _settings(jobs, budget={"run_usd": "0.02", "when_short": "partial"}, limits={"max_at_once": 2})
    service.configure(faults=[{"kind": "status:401", "after": 12}])
    stopped = jobs.run(settings)
    assert stopped.exit_code == 1
    paid = service.stats()["billed"]
    lines = jobs.folder / "so-far.jsonl"
    done = jobs.run(settings, "--jsonl", str(lines), "--so-far", command="export")
    assert done.exit_code == 0, done.stderr
    rows = [orjson.loads(line) for line in lines.read_bytes().splitlines()]
    assert len(rows) == paid == 12
    assert {row["status"] for row in rows} == {"ok"}
    service.configure(faults=[])
    assert jobs.run(settings).exit_code == 0
    assert service.stats()["billed_twice"] == []


def test_an_export_does_not_disturb_a_run(jobs: Jobs, service: FakeService) -> None:
    """While a run is under way, `--so-far` exports its answers again and again, and the run sends each request once."""
    service.configure(latency_ms=100)
    settings = _settings(jobs, rows=60, limits={"max_at_once": 2})
    running = jobs.spawn(settings)
    lines, seen = jobs.folder / "so-far.jsonl", [0]
    while running.process.poll() is None:
        done = jobs.run(settings, "--jsonl", str(lines), "--so-far", command="export")
        if done.exit_code == 0:
            seen.append(len(lines.read_bytes().splitlines()))
    assert running.wait().exit_code == 0
    assert seen == sorted(seen)
    assert any(0 < count < 60 for count in seen)
    assert (service.stats()["requests"], service.stats()["billed_twice"]) == (60, [])


def test_two_outputs_are_compared(jobs: Jobs, service: FakeService) -> None:
    """`diff` counts rows whose answer or status changed, and shows both answers."""
    settings = _settings(jobs)
    assert jobs.run(settings).exit_code == 0
    other = {**settings, "output": str(jobs.folder / "other"), "tolerate": {"not_ok": 1}}
    service.configure(faults=[{"kind": "status:400", "match": "word " * 24 + "word"}])
    assert jobs.run(other).exit_code == 0
    found = _diff(Path(settings["output"]), Path(other["output"]), "--on", "id", "--rows", "1", "--json")
    result = orjson.loads(found)
    assert (result["changed"], result["same"], result["only_before"]) == (5, 25, 0)
    assert result["statuses"] == [{"before": "ok", "after": "failed", "rows": 5}]
    assert result["examples"][0]["key"] == {"id": 25}
    shown = _diff(Path(settings["output"]), Path(other["output"]), "--rows", "2")
    assert "statuses that changed ok to failed 5" in shown
    assert "2 of 5 changed rows; `--rows` shows more" in shown


def _diff(before: Path, after: Path, *arguments: str) -> str:
    from click.testing import CliRunner

    from parquill.flows.cli.commands import cli

    done = CliRunner().invoke(cli, ["diff", str(before), str(after), *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout
