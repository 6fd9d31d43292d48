"""A job becomes a run that is planned completely or not at all, resumed, or refused before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect.server.schemas.schedules import CronSchedule

from parquill.flows.cli.preview import preview_rows
from parquill.tasks.errors import BadInput, BadJob
from parquill.tasks.job.load import make_job
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.prompts.base import RunOptions
from parquill.tasks.prompts.prepare import check_rejected, estimate_job, open_source, prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.shards import PREFIX
from parquill.tasks.records import Action, Outcome
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.journal import Journal
from tests.tasks.prompts.test_planner import COLUMNS, VIEWS

DAY = date(2026, 11, 23)
OPTIONS = RunOptions(day=DAY)


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger for this test only, so that the user's ledger is neither read nor written."""
    path = tmp_path / "ledger.sqlite"
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{path}")
    return path


def _job(folder: Path, table: pa.Table | dict[str, Any] | None = None, **changes: Any) -> ResolvedJob:
    """Return a resolved job over a table."""
    if table is not None:
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), folder / "in.parquet")
    settings = {
        "name": "prepare",
        "input": str(folder / "in.parquet"),
        "output": str(folder / "out"),
        "prompt": {"user": "{{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 10,
        **changes,
    }
    resolved, _ = resolve_job(make_job(settings), DAY, None, ())
    return resolved


def _prepare(job: ResolvedJob, options: RunOptions = OPTIONS) -> Run:
    Folders.of(job.output, job.state).create()
    run = prepare_run(job, options)
    assert run is not None
    return run


def _rows(run: Run) -> pa.Table:
    return pa.concat_tables(pq.read_table(run.folder.shard(shard.number)) for shard in run.shards)


def _texts(run: Run) -> list[str]:
    cells: Sequence[Any] = _rows(run).column(f"{PREFIX}messages").to_pylist()
    return [orjson.loads(cell)[-1]["content"] for cell in cells if cell]


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_has_every_row_in_its_shards(tmp_path: Path) -> None:
    """Shards hold every row once and in order, with the counts of their plan, and are small."""
    texts = [f"text {number}" if number % 3 else "same" for number in range(2500)]
    run = _prepare(_job(tmp_path, {"text": texts}))
    rows = _rows(run)
    assert rows.column("text").to_pylist() == texts
    assert rows.column(f"{PREFIX}row_number").to_pylist() == list(range(2500))
    assert [shard.number for shard in run.shards] == list(range(len(run.shards)))
    assert len(run.shards) > 1
    for shard in run.shards:
        found = pq.read_table(run.folder.shard(shard.number))
        assert found.num_rows == shard.rows
        assert found.num_rows - found.column(f"{PREFIX}messages").null_count == shard.to_send
    assert sum(shard.to_send for shard in run.shards) == run.estimate.to_send == 2500 - 834 + 1
    assert run.input_rows == 2500


@pytest.mark.parametrize("name", [*COLUMNS, *VIEWS])
def test_every_type_survives_its_shard(tmp_path: Path, name: str) -> None:
    """A column of any type keeps its type and values in a shard's file."""
    run = _prepare(_job(tmp_path, {"text": ["a", "b", "c"], "other": {**COLUMNS, **VIEWS}[name]}))
    read = pq.read_table(tmp_path / "in.parquet").column("other")
    found = _rows(run).column("other")
    assert found.type == read.type
    assert found.combine_chunks().equals(read.combine_chunks())


def test_strange_texts_survive_their_shard(tmp_path: Path) -> None:
    """A shard keeps the planned text byte for byte."""
    texts = ["{{ 7*7 }}", "\0", "\ufeff\u202e", "e\u0301", '"\\', "<|endoftext|>", "\U0001f600"]
    assert _texts(_prepare(_job(tmp_path, {"text": texts}))) == texts


def test_started_again_it_is_the_same_run(tmp_path: Path) -> None:
    """Starting the same job again resumes the planned run without planning it again."""
    job = _job(tmp_path, {"text": ["a", "b"]})
    first = _prepare(job)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in _files(tmp_path) if "shards" in name}
    again = _prepare(job)
    assert again.run_id == first.run_id
    assert (again.shards, again.estimate, again.price) == (first.shards, first.estimate, first.price)
    assert before == {name: (tmp_path / name).stat().st_mtime_ns for name in _files(tmp_path) if "shards" in name}


def test_budget_and_limits_may_change_on_the_way(tmp_path: Path) -> None:
    """A run that stopped at its budget resumes with a higher one as the same run."""
    first = _prepare(_job(tmp_path, {"text": ["a"]}, budget={"run_usd": 1}))
    again = _prepare(_job(tmp_path, budget={"run_usd": 2}, limits={"max_at_once": 5}, retry={"attempts": 1}))
    assert again.run_id == first.run_id
    assert again.job.budget.run_usd == 2
    assert again.job.limits.max_at_once == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "gpt-4o"},
        {"max_output_tokens": 11},
        {"prompt": {"user": "{{ text }}!"}},
        {"parameters": {"temperature": 0}},
        {"dedupe": False},
        {"for_each": {"language": ["fr"]}},
        {"column_prefix": "llm_"},
        {"vars": {"a": 1}},
    ],
)
def test_other_settings_are_another_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A setting that changes requests or rows starts another run."""
    first = _prepare(_job(tmp_path, {"text": ["a"]}))
    assert _prepare(_job(tmp_path, **changes)).run_id != first.run_id


def test_other_input_is_another_run(tmp_path: Path) -> None:
    """Changed input or another limit starts another run."""
    job = _job(tmp_path, {"text": ["a", "b"]})
    first = _prepare(job)
    limited = _prepare(job, replace(OPTIONS, limit=1))
    assert limited.run_id != first.run_id
    assert (_texts(limited), limited.input_rows) == (["a"], 1)
    changed = _prepare(_job(tmp_path, {"text": ["a", "b", "c"]}))
    assert changed.run_id not in {first.run_id, limited.run_id}
    assert _texts(changed) == ["a", "b", "c"]


def test_a_plan_that_was_cut_off_is_swept(tmp_path: Path) -> None:
    """A run without its plan sent nothing: its leftover files are removed and never read."""
    job = _job(tmp_path, {"text": ["a"]})
    folders = Folders.of(job.output, job.state)
    folders.create()
    torn = folders.run("20200101-000000-aaaa")
    torn.create()
    torn.shard(0).write_bytes(b"half a shard")
    run = _prepare(job)
    assert not torn.path.exists()
    assert [found.run_id for found in folders.runs()] == [run.run_id]


def test_too_many_bad_rows_stop_before_anything(tmp_path: Path) -> None:
    """If more rows are rejected than tolerated, the job is refused, the first is named, and no prompt stays on disk."""
    job = _job(
        tmp_path, {"text": ["a"] * 97 + [None, " ", "SECRET"]}, prompt={"user": "{{ text[:3] if text != 'SECRET' }}"}
    )
    Folders.of(job.output, job.state).create()
    with pytest.raises(BadInput) as caught:
        prepare_run(job, OPTIONS)
    message = str(caught.value)
    assert message.startswith(
        "3 of 100 rows cannot be sent (blank_prompt 2, null_value 1), more than tolerate.rejected = 0.01"
    )
    assert "the first: in.parquet, row 97" in message
    assert "SECRET" not in message
    assert not list(Folders.of(job.output, job.state).state.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("bad", "rows", "tolerated", "stops"),
    [
        (1, 1, 0.0, False),
        (1, 50, 0.0, False),
        (2, 50, 0.0, True),
        (2, 200, 0.01, False),
        (3, 200, 0.01, True),
        (50, 50, 1.0, False),
        (0, 0, 0.0, False),
    ],
)
def test_how_many_bad_rows_are_tolerated(tmp_path: Path, bad: int, rows: int, tolerated: float, stops: bool) -> None:  # noqa: FBT001
    """One bad row is always tolerated, and more are tolerated up to exactly their fraction."""
    texts = pa.array([None] * bad + ["a"] * (rows - bad), pa.string())
    job = _job(tmp_path, {"text": texts}, tolerate={"rejected": tolerated})
    total = estimate_job(job, OPTIONS)
    if stops:
        with pytest.raises(BadInput, match=f"{bad} of {rows} rows cannot be sent"):
            check_rejected(job, total)
    else:
        check_rejected(job, total)


def test_an_estimate_writes_nothing(tmp_path: Path) -> None:
    """Estimate and preview leave no file and no folder behind."""
    job = _job(tmp_path, {"text": ["a", "b"]})
    assert estimate_job(job, OPTIONS).result().to_send == 2
    assert len(preview_rows(job, OPTIONS, 3)) == 2
    assert [name for name in _files(tmp_path) if "ledger" not in name] == ["in.parquet"]
    assert not (tmp_path / "out").exists()


def test_an_estimate_is_that_of_the_run(tmp_path: Path) -> None:
    """The run plans exactly what was estimated."""
    job = _job(tmp_path, {"text": ["a", None, "a", "b" * 300]})
    assert estimate_job(job, OPTIONS).result() == _prepare(job).estimate


def test_an_estimate_needs_no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the ledger cannot be opened, the estimate is the one without past runs."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path}/no/such/folder/ledger.sqlite")
    estimate = estimate_job(_job(tmp_path, {"text": ["a"]}), OPTIONS).result()
    assert estimate.expected_nano == estimate.worst_nano
    assert estimate.is_worst_case


def test_folders_of_prompts_are_private(tmp_path: Path) -> None:
    """Only their owner can open folders and files that hold prompts."""
    run = _prepare(_job(tmp_path, {"text": ["a"]}))
    for folder in (
        tmp_path / "out/.parquill",
        run.folder.path,
        run.folder.path / "shards",
        run.folder.path / "journals",
    ):
        assert folder.stat().st_mode & 0o777 == 0o700
    for file in (run.folder.path / "job.json", run.folder.plan, tmp_path / "out/.parquill/current.json"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_what_cannot_work_is_found_before_reading(tmp_path: Path) -> None:
    """A bad schema, a model to compare with that has no price, or a missing input stops the job at once."""
    _job(tmp_path, {"text": ["a"]})
    with pytest.raises(BadJob, match="`response_format`"):
        open_source(_job(tmp_path, response_format={"type": "object"}))
    with pytest.raises(BadJob, match="no price is known for the model 'nobody'"):
        open_source(_job(tmp_path, price_as="nobody"))
    with pytest.raises(BadInput, match="does not exist"):
        open_source(_job(tmp_path, input="missing.parquet"))


def test_a_model_without_a_price_is_not_planned(tmp_path: Path) -> None:
    """A model without a price is refused with the nearest name, and no run begins."""
    job = _job(tmp_path, {"text": ["a"]}, model="gpt-4o-mni")
    Folders.of(job.output, job.state).create()
    with pytest.raises(BadJob, match="gpt-4o-mini"):
        prepare_run(job, OPTIONS)
    assert Folders.of(job.output, job.state).runs() == []


def test_a_damaged_input_leaves_no_run(tmp_path: Path) -> None:
    """If planning finds a damaged page, it stops and keeps nothing of the plan."""
    texts = [f"the text of row {number}" for number in range(3000)]
    path = tmp_path / "in.parquet"
    options = {"write_page_checksum": True, "use_dictionary": False, "compression": "none", "row_group_size": 1000}
    pq.write_table(pa.table({"text": texts}), path, write_statistics=False, **options)
    data = bytearray(path.read_bytes())
    data[data.index(b"row 2500")] ^= 1
    path.write_bytes(bytes(data))
    job = _job(tmp_path)
    Folders.of(job.output, job.state).create()
    with pytest.raises(BadInput, match="cannot be read"):
        prepare_run(job, OPTIONS)
    assert Folders.of(job.output, job.state).runs() == []


@pytest.mark.parametrize(
    ("now", "zone", "day"),
    [
        (datetime(2026, 11, 22, 23, 30, tzinfo=UTC), "Europe/Paris", date(2026, 11, 23)),
        (datetime(2026, 11, 22, 23, 30, tzinfo=UTC), "UTC", date(2026, 11, 22)),
        (datetime(2026, 11, 23, 3, 0, tzinfo=UTC), "America/New_York", date(2026, 11, 22)),
        (datetime(2026, 12, 31, 23, 0, tzinfo=UTC), "Asia/Tokyo", date(2027, 1, 1)),
        # midnight, and the half hours that a clock change skips or repeats
        (datetime(2026, 3, 28, 22, 59, tzinfo=UTC), "Europe/Paris", date(2026, 3, 28)),
        (datetime(2026, 3, 28, 23, 0, tzinfo=UTC), "Europe/Paris", date(2026, 3, 29)),
        (datetime(2026, 3, 29, 1, 30, tzinfo=UTC), "Europe/Paris", date(2026, 3, 29)),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "Europe/Paris", date(2026, 10, 25)),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "Europe/Paris", date(2026, 10, 25)),
        (datetime(2026, 10, 25, 22, 59, tzinfo=UTC), "Europe/Paris", date(2026, 10, 25)),
        (datetime(2026, 10, 25, 23, 0, tzinfo=UTC), "Europe/Paris", date(2026, 10, 26)),
    ],
)
def test_the_day_is_that_of_the_jobs_time_zone(tmp_path: Path, now: datetime, zone: str, day: date) -> None:
    """{date} and the prices use the scheduled moment in the job's own time zone."""
    job = make_job({**_job(tmp_path, {"text": ["a"]}).model_dump(), "output": "out/{date}", "timezone": zone})
    resolved, options = resolve_job(job, None, None, ("truncated", "failed", "failed"), now=now)
    assert options == RunOptions(day=day, limit=None, redo=("failed", "truncated"))
    assert Path(resolved.output).name == day.isoformat()
    assert resolve_job(job, DAY, 5, None, now=now)[1] == RunOptions(day=DAY, limit=5, redo=())


@pytest.mark.parametrize("first", [datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 10, 23, tzinfo=UTC)])
def test_each_night_has_a_day_of_its_own(tmp_path: Path, first: datetime) -> None:
    """With Prefect's schedule at 2:30, each night has its own {date} and {month}, even when clocks change at two."""
    job = make_job(
        {**_job(tmp_path, {"text": ["a"]}).model_dump(), "timezone": "Europe/Paris", "output": "{month}/{date}"}
    )
    schedule = CronSchedule(cron="30 2 * * *", timezone="Europe/Paris")
    nights = asyncio.run(schedule.get_dates(6, start=first))
    days = [first.date() + timedelta(days=night) for night in range(6)]
    outputs = [resolve_job(job, None, None, None, now=night)[0].output for night in nights]
    assert outputs == [str(Path.cwd() / f"{day:%Y-%m}" / day.isoformat()) for day in days]


def test_a_preview_shows_requests_as_they_are_sent(tmp_path: Path) -> None:
    """The preview shows each row's file, number, address, body and tokens, or why the row is not sent."""
    job = _job(
        tmp_path,
        {"text": ["a", None, "a", "b"]},
        parameters={"temperature": 0},
        endpoint={"base_url": "http://localhost:1/v1"},
    )
    shown = preview_rows(job, OPTIONS, 3)
    assert [(row["source_file"], row["row_number"]) for row in shown] == [("in.parquet", number) for number in range(3)]
    assert shown[0]["url"] == "http://localhost:1/v1/chat/completions"
    assert shown[0]["body"] == {
        "temperature": 0,
        "model": "gpt-4o-mini",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "a"}],
    }
    assert (shown[0]["prompt_tokens"], shown[0]["error"]) == (8, None)
    assert shown[1]["body"] is None
    assert "'text' is null" in shown[1]["error"]
    assert shown[2]["error"] == "the same request as an earlier row"


def _finished(run: Run, **rows: int) -> None:
    """Leave behind the files of a finished run: its manifest, its parts and its summary, and no current run."""
    output = Path(run.job.output)
    (output / "results").mkdir(exist_ok=True)
    (output / "results" / "part.parquet").touch()
    parts = [{"file": "part.parquet", "bytes": 0}]
    manifest = {"digest": run.digest, "rows": {"failed": 0, "not_sent": 0, **rows}, "parts": parts}
    (output / ".parquill" / "manifest.json").write_bytes(orjson.dumps(manifest))
    (output / "summary.json").write_bytes(b"{}")
    (output / ".parquill" / "current.json").unlink()


def test_a_finished_job_has_nothing_to_do(tmp_path: Path) -> None:
    """If a finished job is started again, it plans nothing and does not even start to prepare."""
    job = _job(tmp_path, {"text": ["a"]})
    begun: list[str] = []
    Folders.of(job.output, job.state).create()
    first = prepare_run(job, OPTIONS, lambda: begun.append("first"))
    assert first is not None
    assert prepare_run(job, OPTIONS, lambda: begun.append("going on")) is not None
    _finished(first)
    assert prepare_run(job, OPTIONS, lambda: begun.append("never")) is None
    assert begun == ["first", "going on"]


@pytest.mark.parametrize(
    "changed", ["failed", "not_sent", "input", "settings", "a part is gone", "the summary is gone"]
)
def test_a_finished_job_has_something_to_do_again(tmp_path: Path, changed: str) -> None:
    """Failed or unsent rows, other input or settings, and lost results start a new run."""
    job = _job(tmp_path, {"text": ["a"]})
    run = _prepare(job)
    _finished(run, **({changed: 1} if changed in {"failed", "not_sent"} else {}))
    if changed == "input":
        _job(tmp_path, {"text": ["a", "b"]})
    if changed == "settings":
        job = _job(tmp_path, max_output_tokens=11)
    if changed == "a part is gone":
        (tmp_path / "out/results/part.parquet").unlink()
    if changed == "the summary is gone":  # and with it the history
        (tmp_path / "out/summary.json").unlink()
    begun: list[str] = []
    again = prepare_run(job, OPTIONS, lambda: begun.append("again"))
    assert again is not None
    assert again.run_id != run.run_id
    assert begun == ["again"]


@pytest.mark.parametrize("indexed", [True, False])
def test_answers_are_found_also_when_their_index_is_lost(tmp_path: Path, indexed: bool) -> None:  # noqa: FBT001
    """Without answers.sqlite, every answer in the journals is still found and not paid again."""
    first = _prepare(_job(tmp_path, {"text": ["a"]}))
    key = _rows(first).column(f"{PREFIX}request_key")[0].as_py()

    async def answer() -> None:
        with ThreadPoolExecutor(1) as threads:
            journal = Journal(first.folder.journal(0), {"run_id": first.run_id, "shard": 0}, threads)
            await journal.append(Outcome(row=0, key=key.hex(), status="ok", completion="Hi", cost_nano=5))
            await journal.close()

    asyncio.run(answer())
    if not indexed:
        for path in (tmp_path / "out/.parquill").glob("answers.sqlite*"):
            path.unlink()
    again = _prepare(_job(tmp_path, {"text": ["a", "b"]}))
    assert again.run_id != first.run_id
    assert _rows(again).column(f"{PREFIX}action").to_pylist() == [Action.REUSE, Action.SEND]
    assert _rows(again).column(f"{PREFIX}carries_cost").to_pylist() == [True, True]
    assert again.estimate.to_send == 1
