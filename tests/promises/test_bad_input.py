"""Bad input: a clear error, nothing sent, nothing lost."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadInput, BadJob
from parquill.tasks.job_file import load_job, make_job
from tests.direct import job_of, results, run_steps
from tests.end_to_end.jobs import Jobs
from tests.end_to_end.truth import check_books, request_key
from tests.promises import bad_files, bad_rows, bad_settings
from tests.promises.bad_files import CANARY, good
from tests.promises.measured import peak_of
from tests.services.running import FakeService


def _job(folder: Path, service: FakeService, source: Path, **changes: Any) -> dict[str, Any]:
    return {**job_of(folder, ["unused"], service.url), "id_column": None, "input": str(source), **changes}


@pytest.mark.parametrize("name", bad_files.BAD)
def test_a_bad_file_stops_the_run(tmp_path: Path, service: FakeService, name: str) -> None:
    """A fault of a file stops the run before any payment: the file and what is wrong are named, no cell is shown, nothing is sent and soon."""
    make, words = bad_files.BAD[name]
    source = make(tmp_path)
    began = time.monotonic()
    with pytest.raises((BadInput, BadJob)) as caught:
        run_steps(_job(tmp_path, service, source))
    assert time.monotonic() - began < 30
    told = str(caught.value)
    assert caught.value.exit_code == 2
    assert [word for word in words if word not in told] == [], told
    assert CANARY not in told
    assert "\n" not in told
    assert service.stats()["requests"] == 0
    assert not list(tmp_path.glob("out/.parquill/runs/*/shards/*")), "prompts of a refused input are left behind"


@pytest.mark.parametrize("name", bad_files.GOOD)
def test_an_odd_file_is_no_fault(tmp_path: Path, service: FakeService, name: str) -> None:
    """Every type of Arrow that can be text, and files that are only odd, are read: a row of results for each row, of 0 rows none."""
    make, rows = bad_files.GOOD[name]
    job = _job(tmp_path, service, make(tmp_path))
    run_steps(job)
    found = results(job)
    assert len(found) == rows
    assert {row["status"] for row in found} <= {"ok"}
    assert [row["row_number"] for row in found] == sorted(row["row_number"] for row in found) or "folders" in name
    assert run_steps(job) is None


def test_a_bomb_stays_small(tmp_path: Path) -> None:
    """Kilobytes that unpack to gigabytes are refused, or read, within 700 MB of memory."""
    for name in ("a bomb of large values", "a bomb of small values"):
        source = bad_files.BAD[name][0](tmp_path)
        assert source.stat().st_size < 2_000_000
        assert peak_of(f"list(read_batches(find_source({str(source)!r})))") < 700


def test_rows_far_larger_than_they_look(tmp_path: Path) -> None:
    """Rows whose text a dictionary holds once are read in batches of bounded size, whatever the file says of their size."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a" * 180_000] * 5_000}), path, compression="zstd")
    assert path.stat().st_size < 50_000
    assert peak_of(f"for _ in read_batches(find_source({str(path)!r})): pass") < 400


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, service: FakeService) -> None:
    """An input that is changed after it was planned is another input: the rows that were planned are completed as they were, the next start plans anew and pays for new rows only."""
    source = good(tmp_path / "in.parquet")
    job = _job(tmp_path, service, source, budget={"run_usd": 1})
    run_steps(job)
    pq.write_table(pa.table({"text": [*bad_files.TEXTS[:4], "new", "newer"]}), source)
    run_steps(job)
    assert [row["text"] for row in results(job)] == [*bad_files.TEXTS[:4], "new", "newer"]
    assert len({row["run_id"] for row in results(job)}) == 2
    assert service.stats()["billed"] == 10


@pytest.mark.parametrize("name", bad_rows.BAD)
def test_a_bad_row_is_rejected(tmp_path: Path, service: FakeService, name: str) -> None:
    """A fault of a row makes that row `rejected`, with code and place; it is not sent, costs nothing, and the others are completed."""
    cell, code = bad_rows.BAD[name]
    text = pa.concat_arrays([pa.array([f"{CANARY} before"]), cell, pa.array([f"{CANARY} after"])])
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": text}), path)
    job = _job(tmp_path, service, path)
    run_steps(job)
    with pq.ParquetFile(next((tmp_path / "out" / "results").glob("*.parquet"))) as parquet:
        rows = parquet.read([name for name in parquet.schema_arrow.names if name != "text"]).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "rejected", "ok"]
    bad = rows[1]
    assert (bad["error_code"], bad["row_number"], bad["attempts"], bad["cost_usd"]) == (code, 1, 0, 0)
    assert CANARY not in bad["error_message"]
    assert service.stats()["billed"] == 2


def test_odd_texts_come_through(jobs: Jobs) -> None:
    """Whatever a cell holds that is text reaches the service byte for byte, is no template and no format, and stands in the results as it was."""
    texts = list(bad_rows.FINE.values())
    settings_ = jobs.job([*texts])
    done = jobs.run(settings_)
    assert done.exit_code == 0, done.stderr
    assert done.column("text") == texts
    for text, key in zip(texts, done.column("request_key"), strict=True):
        assert key == request_key(settings_, [{"role": "user", "content": text}])
    check_books(done)


@pytest.mark.parametrize("name", bad_rows.BAD_PARAMETERS)
def test_bad_parameters_of_a_row(tmp_path: Path, service: FakeService, name: str) -> None:
    """Parameters of a row that would raise its cost, change the protocol, be refused by the service or are no JSON make the row rejected."""
    path = tmp_path / "in.parquet"
    cells = [None, bad_rows.BAD_PARAMETERS[name], '{"temperature": 0.5}']
    pq.write_table(pa.table({"text": ["a", "b", "c"], "how": cells}), path)
    job = _job(tmp_path, service, path, parameters_column="how")
    run_steps(job)
    assert [row["status"] for row in results(job)] == ["ok", "rejected", "ok"]
    assert service.stats()["billed"] == 2


def test_ids_that_are_no_ids(tmp_path: Path, service: FakeService) -> None:
    """With an `id_column`, a row whose id is null or that of an earlier row is rejected; the first with the id is completed."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c", "d"], "id": ["x", "x", None, "y"]}), path)
    job = _job(tmp_path, service, path, id_column="id", tolerate={"rejected": 0.5})
    run_steps(job)
    assert [(row["id"], row["text"], row["error_code"]) for row in results(job)] == [
        ("x", "a", None),
        ("x", "b", "bad_id"),
        (None, "c", "bad_id"),
        ("y", "d", None),
    ]


def test_more_bad_rows_than_tolerated(jobs: Jobs) -> None:
    """More rejected rows than `tolerate.rejected` stop the run before any payment: exit 2, the counts, file and row of the first, no cell."""
    texts = [None if row % 10 == 3 else f"{CANARY} {row}" for row in range(100)]
    done = jobs.run(jobs.job(texts))
    assert done.exit_code == 2
    assert "prompts.parquet, row 3" in done.stderr
    assert "null_value 10" in done.stderr
    assert CANARY not in done.stderr + done.stdout
    assert jobs.service.stats()["requests"] == 0


@pytest.mark.parametrize(("changes", "words"), bad_settings.BAD, ids=str)
def test_a_bad_setting_is_refused(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: list[str]
) -> None:
    """A setting that is unknown, impossible or half, or whose column or file is not there, exits 2, is named, and nothing is sent."""
    monkeypatch.chdir(jobs.folder)
    jobs.write(["one"], "in.parquet")
    done = jobs.run(jobs.job([f"{CANARY} {row}" for row in range(3)], **changes))
    assert done.exit_code == 2, done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stderr
    assert jobs.service.stats()["requests"] == 0


YAML_TRAPS = {
    "a bomb of anchors": "a: &a [x]\n"
    + "".join(f"b{n}: &b{n} [*{'a' if n == 0 else f'b{n - 1}'}, *a]\n" for n in range(40)),
    "deep": "[" * 20_000,
    "a key twice": "name: a\nname: b\n",
    "a tag": "name: !!python/object/apply:os.system ['true']\n",
    "a list": "- name\n",
    "a text": "name\n",
    "nothing": "",
    "two documents": "name: a\n---\nname: b\n",
    "no text": "\x00\x01\xff",
    "half a mapping": "name: {a\n",
    "a tab": "name:\n\t- a\n",
    "a loop": "name: &a {b: *a}\n",
    "a key of a list": "? [a]\n: b\n",
    "a long number": "max_output_tokens: " + "9" * 10_000 + "\n",
    "a date": "name: 2026-11-23\n",
}


@pytest.mark.parametrize("name", YAML_TRAPS)
def test_a_job_file_that_is_none(tmp_path: Path, name: str) -> None:
    """A job file that is no mapping of known settings, or a trap for a YAML parser, is refused in a sentence and soon."""
    path = tmp_path / "job.yaml"
    path.write_text(YAML_TRAPS[name], encoding="latin-1")
    began = time.monotonic()
    with pytest.raises(BadJob) as caught:
        load_job(path)
    assert time.monotonic() - began < 10
    assert len(str(caught.value)) < 2_000


_scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_value = st.recursive(
    _scalar,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_SETTINGS = (
    "name input output state timezone id_column for_each vars prompt messages_column model max_output_tokens "
    "response_format parameters parameters_column endpoint price price_as tokenizer budget limits retry dedupe tolerate "
    "column_prefix labels"
).split()


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from(_SETTINGS), _value, min_size=1, max_size=3))
def test_any_setting_is_taken_or_refused(changes: dict[str, Any]) -> None:
    """Whatever the settings are, a job is made or refused with BadJob: never another error."""
    base = {
        "name": "fuzz",
        "input": "in.parquet",
        "output": "out",
        "prompt": {"user": "{{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 5,
    }
    with contextlib.suppress(BadJob):
        make_job({**base, **changes})


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=60) | st.text(alphabet="{}[]&*!|>%@`'\"#,?:-\n\t ab0.~", max_size=60).map(str.encode))
def test_any_bytes_are_no_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever a job file holds, it is read or refused with BadJob: never another error."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(data)
    with pytest.raises(BadJob):  # none of them has what is required
        load_job(path)
