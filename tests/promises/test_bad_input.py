"""Bad input gives a clear error: nothing is sent and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parquill.tasks.errors import BadInput, BadJob, DiskFailed, RowFault
from parquill.tasks.job.load import load_job, make_job
from parquill.tasks.job.parameters import OUTPUT_LIMITS, OWNED, RANGES, REFUSED
from parquill.tasks.llm.open_senders import open_sender
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.request import check_parameters
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.source import find_source, read_batches
from parquill.tasks.prompts.template import Templates
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.published import failed_rows, parts_of
from tests.fakes.running import FakeService
from tests.tools import bad_files, bad_rows, bad_settings
from tests.tools.bad_files import CANARY, good
from tests.tools.direct import job_of, results, run_steps
from tests.tools.expected import check_books, request_key
from tests.tools.flips import flipped
from tests.tools.jobs import Jobs
from tests.tools.measured import peak_of
from tests.tools.timing import within


def _job(folder: Path, service: FakeService, source: Path, **changes: Any) -> dict[str, Any]:
    return {**job_of(folder, ["unused"], service.url), "id_column": None, "input": str(source), **changes}


@pytest.mark.timed
@pytest.mark.parametrize("name", bad_files.BAD)
def test_a_bad_file_stops_the_run(tmp_path: Path, service: FakeService, name: str) -> None:
    """A faulty file stops the run before any payment.
    The error names the file and what is wrong, shows no cell, and nothing is sent.
    """
    make, words = bad_files.BAD[name]
    source = make(tmp_path)
    with within(30), pytest.raises((BadInput, BadJob)) as caught:
        run_steps(_job(tmp_path, service, source))
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert [word for word in words if word not in message] == [], message
    assert CANARY not in message
    assert "\n" not in message
    assert service.stats()["requests"] == 0
    assert not list(tmp_path.glob("out/.parquill/runs/*/shards/*")), "a refused input left prompts behind"


@pytest.mark.parametrize("name", bad_files.GOOD)
def test_an_odd_file_is_no_fault(tmp_path: Path, service: FakeService, name: str) -> None:
    """A run reads every Arrow type that can be text, and files that are only odd.
    It writes one result row for each input row, and none for 0 rows.
    """
    make, rows = bad_files.GOOD[name]
    job = _job(tmp_path, service, make(tmp_path))
    run_steps(job)
    found = results(job)
    assert len(found) == rows
    assert {row["status"] for row in found} <= {"ok"}
    positions = [(row["source_file"], row["row_number"]) for row in found]
    assert positions == sorted(set(positions))
    assert run_steps(job) is None


def test_a_bomb_stays_small(tmp_path: Path) -> None:
    """A file of some kilobytes that unpacks to gigabytes is refused, or read, within 700 MB of memory."""
    for name in ("a bomb of large values", "a bomb of small values"):
        source = bad_files.BAD[name][0](tmp_path)
        assert source.stat().st_size < 2_000_000
        assert peak_of(f"list(read_batches(find_source({str(source)!r})))") < 700


@pytest.mark.parametrize(
    "texts",
    [
        ["a" * 180_000] * 5_000,
        pytest.param([*map(str, range(4_000)), *["a" * 700_000] * 1_500], marks=pytest.mark.nightly),
    ],
    ids=["all", "most"],
)
def test_rows_far_larger_than_they_look(tmp_path: Path, texts: list[str]) -> None:
    """Text that a dictionary stores once is read in batches of bounded size, whatever size the file claims."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": texts}), path, compression="zstd")
    assert path.stat().st_size < 50_000
    assert peak_of(f"for _ in read_batches(find_source({str(path)!r})): pass") < 400


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, service: FakeService) -> None:
    """If the input changes after it was planned, the planned rows are completed with their planned text.
    The next start makes a new plan and pays for new rows only.
    """
    source = good(tmp_path / "in.parquet")
    job = _job(tmp_path, service, source, budget={"run_usd": 1})
    run_steps(job)
    pq.write_table(pa.table({"text": [*bad_files.TEXTS[:4], "new", "newer"]}), source)
    run_steps(job)
    assert [row["text"] for row in results(job)] == [*bad_files.TEXTS[:4], "new", "newer"]
    assert len({row["run_id"] for row in results(job)}) == 2
    assert service.stats()["billed"] == 10


def _grow(source: Path) -> None:
    pq.write_table(pa.table({"text": [*bad_files.TEXTS, "one more"]}), source)


def _rename(source: Path) -> None:
    pq.write_table(pa.table({"words": bad_files.TEXTS}), source)


def _cut(source: Path) -> None:
    source.write_bytes(source.read_bytes()[:200])


def _touch(source: Path) -> None:
    stat = source.stat()
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [_grow, _rename, _cut, Path.unlink, _touch])
def test_a_file_that_changes_between_look_and_end(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """The reader refuses a file by name if it changed after the first look, even before its first row is read.
    No row of another file is lost, and none is made up.
    """
    folder = tmp_path / "in"
    for name in ("a", "b"):
        good(folder / f"{name}.parquet")
    source = find_source(str(folder))
    change(folder / "a.parquet")
    with pytest.raises(BadInput, match=r"a\.parquet was changed while it was read"):
        list(read_batches(source))
    good(folder / "a.parquet")
    batches = read_batches(find_source(str(folder)))
    next(batches)
    change(folder / "a.parquet")
    with pytest.raises(BadInput, match=r"a\.parquet was changed while it was read"):
        list(batches)


def _planned(job: dict[str, Any]) -> Run:
    """Return a run in the state in which a kill just before sending leaves it."""
    placed, options = resolve_job(make_job(job), None, None, ())
    Folders.of(placed.output, placed.state).create()
    run = prepare_run(placed, options)
    assert run is not None
    return run


def test_a_flipped_bit_in_a_plan(tmp_path: Path, service: FakeService) -> None:
    """If a bit is flipped anywhere in the files of a cut-off run, the next start stops and names the file.
    Nothing is sent, and no other text, price or setting is used in place of the planned one.
    """
    job = _job(tmp_path, service, good(tmp_path / "in.parquet"))
    run = _planned(job)
    own = run.folders.meta / "current.json"
    for path in (run.folder.shard(0), run.folder.plan, run.folder.path / "job.json", own):
        for offset in flipped(path):
            with pytest.raises(DiskFailed) as caught:
                run_steps(job)
            assert str(path) in str(caught.value), offset
            assert CANARY not in str(caught.value)
    assert service.stats()["requests"] == 0
    run_steps(job)
    assert {row["status"] for row in results(job)} == {"ok"}


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_shard_that_is_damaged_when_it_is_paid(tmp_path: Path, service: FakeService, damage: str) -> None:
    """If a shard is damaged before its results are written, the run keeps the answers to it and says what to remove.
    After the removal nothing is paid twice.
    """
    job = _job(tmp_path, service, good(tmp_path / "in.parquet"))
    run = _planned(job)
    with open_sender(run) as run_sender:
        run_sender.complete(run.shards[0])
    shard = run.folder.shard(0)
    data = bytearray(shard.read_bytes())
    data[-40] ^= 1
    shard.unlink()
    if damage == "flipped":
        shard.write_bytes(data)
    with pytest.raises(DiskFailed, match=r"current\.json and run again") as caught:
        run_steps(job)
    assert str(shard) in str(caught.value)
    (run.folders.meta / "current.json").unlink()
    run_steps(job)
    assert [row["text"] for row in results(job)] == bad_files.TEXTS
    assert service.stats()["billed_requests"] == len(bad_files.TEXTS)


def test_a_plan_that_is_gone_takes_no_answer_with_it(tmp_path: Path, service: FakeService) -> None:
    """A run whose plan is gone keeps its journals, so no answered row is paid for again."""
    job = _job(tmp_path, service, good(tmp_path / "in.parquet"))
    run = _planned(job)
    with open_sender(run) as run_sender:
        run_sender.complete(run.shards[0])
    run.folder.plan.unlink()
    run_steps(job)
    assert run.folder.journal(0).exists()
    assert [row["status"] for row in results(job)] == ["ok"] * len(bad_files.TEXTS)
    assert service.stats()["billed_requests"] == len(bad_files.TEXTS)


def _without_checksums(path: Path, parts: str) -> None:
    found = orjson.loads(path.read_bytes())
    for each in (found, *found.get(parts, ())):
        del each["crc32"]
    path.write_bytes(orjson.dumps(found))


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path, service: FakeService) -> None:
    """A cut-off run is resumed, and results are redone, even if their files were written before files had checksums."""
    job = _job(tmp_path, service, good(tmp_path / "in.parquet"))
    run = _planned(job)
    _without_checksums(run.folder.plan, "shards")
    _without_checksums(run.folder.path / "job.json", "")
    _without_checksums(run.folders.meta / "current.json", "")
    run_steps(job)
    assert {row["run_id"] for row in results(job)} == {run.run_id}
    _without_checksums(run.folders.meta / "manifest.json", "parts")
    run_steps(job, redo=["ok"])
    assert [row["text"] for row in results(job)] == bad_files.TEXTS
    assert service.stats()["billed_requests"] == 2 * len(bad_files.TEXTS)


def test_a_flipped_bit_in_results(tmp_path: Path, service: FakeService) -> None:
    """A flipped bit anywhere in the results or the manifest stops `--redo`, which would copy it, and `report --failed`.
    They name the file, and nothing is sent.
    """
    job = _job(tmp_path, service, good(tmp_path / "in.parquet"))
    run_steps(job)
    part = next((tmp_path / "out" / "results").glob("*.parquet"))
    billed = service.stats()["billed_requests"]
    for path in (part, tmp_path / "out" / ".parquill" / "manifest.json"):
        for offset in flipped(path):
            with pytest.raises((BadInput, DiskFailed)) as caught:
                run_steps(job, redo=["ok"])
            assert str(path) in str(caught.value), offset
            with pytest.raises(DiskFailed, match=re.escape(str(path))):
                list(failed_rows(parts_of(tmp_path / "out")))
    part.unlink()
    with pytest.raises(BadInput, match="is missing; run without --redo"):
        run_steps(job, redo=["ok"])
    assert service.stats()["billed_requests"] == billed
    run_steps(job)
    assert service.stats()["billed_requests"] == billed
    assert len(results(job)) == len(bad_files.TEXTS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly if name in bad_rows.LARGE else ()) for name in bad_rows.BAD],
)
def test_a_bad_row_is_rejected(tmp_path: Path, service: FakeService, name: str) -> None:
    """A faulty row becomes `rejected`, with its error code and row number; it is not sent and costs nothing.
    The other rows are completed.
    """
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
    """The service gets the text of any cell byte for byte, and the results keep it unchanged.
    The text is never used as a template or a format.
    """
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
    """A row is rejected if its parameters are not JSON.
    It is also rejected if they would raise its cost, change the protocol or be refused by the service.
    """
    path = tmp_path / "in.parquet"
    cells = [None, bad_rows.BAD_PARAMETERS[name], '{"temperature": 0.5}']
    pq.write_table(pa.table({"text": ["a", "b", "c"], "how": cells}), path)
    job = _job(tmp_path, service, path, parameters_column="how")
    run_steps(job)
    assert [row["status"] for row in results(job)] == ["ok", "rejected", "ok"]
    assert service.stats()["billed"] == 2


def test_ids_that_are_no_ids(tmp_path: Path, service: FakeService) -> None:
    """With an `id_column`, a row is rejected if its id is null or repeats an earlier row's id.
    The first row with an id is completed.
    """
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
    """If more rows are rejected than `tolerate.rejected` allows, the run stops before any payment with exit 2.
    The error gives the counts, and the file and row of the first one, and shows no cell.
    """
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
    """If a setting is unknown, impossible or incomplete, the command exits 2, names it and sends nothing.
    The same holds for a setting that names a missing column or file.
    """
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


@pytest.mark.timed
@pytest.mark.parametrize("name", YAML_TRAPS)
def test_a_job_file_that_is_none(tmp_path: Path, name: str) -> None:
    """A job file that is not a mapping of known settings, or is a YAML parser trap, is refused in a short message."""
    path = tmp_path / "job.yaml"
    path.write_text(YAML_TRAPS[name], encoding="latin-1")
    with within(10, time.process_time), pytest.raises(BadJob) as caught:
        load_job(path)
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


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(_SETTINGS), _value, min_size=1, max_size=3))
def test_any_setting_is_taken_or_refused(changes: dict[str, Any]) -> None:
    """Any settings either make a job, which can be written and read again, or are refused with a BadJob message.
    No other error is raised.
    """
    base = {
        "name": "fuzz",
        "input": "in.parquet",
        "output": "out",
        "prompt": {"user": "{{ text }}"},
        "model": "gpt-4o-mini",
        "max_output_tokens": 5,
    }
    try:
        made = make_job({**base, **changes})
    except BadJob as refused:
        assert 10 < len(str(refused)) < 5_000  # noqa: PT017 - the drawn settings decide whether it is raised
    else:
        assert make_job(made.model_dump(mode="json")).model_dump(mode="json") == made.model_dump(mode="json")


_NAMES = st.sampled_from("text number nothing items none loop self vars x range dict".split())
_FILTERS = st.sampled_from("upper default('',true) tojson join(',') length first int round trim list no_such e".split())
_EXPRESSION = st.recursive(
    _NAMES | st.sampled_from(["'{{'", "1", "[]", "{}", "none", "1/0", "''.__class__", "items[9]", "x.y"]),
    lambda inner: (
        st.tuples(inner, _FILTERS).map(lambda pair: f"{pair[0]} | {pair[1]}")
        | st.tuples(inner, st.sampled_from(["+", "~", "==", "in", "if", ".", "["]), inner).map(" ".join)
        | inner.map(lambda text: f"({text})")
    ),
    max_leaves=4,
)
_TEMPLATE = st.lists(
    _EXPRESSION.map(lambda text: "{{ " + text + " }}")
    | _EXPRESSION.map(lambda text: "{% if " + text + " %}a{% endif %}")
    | _EXPRESSION.map(lambda text: "{% for x in " + text + " %}{{ x }}{% endfor %}")
    | st.text(alphabet="{}%#-| ab\n\u00e9\0", max_size=8),
    max_size=4,
).map("".join)
_CELL = st.none() | st.text(max_size=20) | st.integers() | st.floats() | st.binary(max_size=4) | st.lists(st.none())


@settings(max_examples=150)
@given(_TEMPLATE, st.text(max_size=20), _CELL)
def test_any_template_renders_or_is_refused(template: str, text: str, cell: Any) -> None:
    """Any template either is refused with BadJob, or renders the row, or rejects it without showing its values.
    No other error is raised.
    """
    text = CANARY + text
    values = {"text": text, "number": 7, "nothing": None, "items": [cell, None]}
    try:
        messages = Templates(template, "{{ text }}", values, {"a": 1}).render(values)
    except BadJob:
        return
    except RowFault as error:
        fault = error
    else:
        assert messages[-1]["content"] == text
        assert isinstance(messages[0]["content"], str)
        return
    assert fault.code in {"null_value", "template_error", "invalid_utf8"}
    assert CANARY not in fault.message


@settings(max_examples=300)
@given(st.text(alphabet="{}%#-| a7*.'_\n\u00e9", max_size=40), st.sampled_from(["{{ text }}", "{{ items[0] }}"]))
def test_a_value_is_never_parsed(value: str, template: str) -> None:
    """If a cell, or a list in a cell, holds text that looks like a template, the text is sent unchanged."""
    values = {"text": value, "items": [value]}
    assert Templates(None, template, values, None).render(values)[0]["content"] == value


@settings(max_examples=150)
@given(
    _value
    | st.text(max_size=30)
    | st.dictionaries(
        st.sampled_from([*sorted(REFUSED.keys() | OUTPUT_LIMITS | OWNED), *RANGES, "seed", "stop", "tools", "user"]),
        _value,
        max_size=3,
    ).flatmap(lambda cell: st.sampled_from([cell, json.dumps(cell)]))
)
@example({"seed": 2**60})
@example('{"seed": 9007199254740993}')
@example({"logit_bias": {"1": float("nan")}})
@example({"user": "\ud800"})
@example({"metadata": {"day": date(2026, 11, 23)}})
def test_any_parameters_are_taken_or_reject_their_row(cell: Any) -> None:
    """Any cell of parameters, a struct or JSON, is valid and costs no more, or it rejects its row.
    No other error is raised.
    """
    try:
        parameters = check_parameters(cell)
    except RowFault as error:
        fault = error
    else:
        _check_parameters(parameters or {})
        return
    assert fault.code == "bad_parameters"


def _check_parameters(parameters: dict[str, Any]) -> None:
    for name, (low, high) in RANGES.items():
        assert low <= parameters.get(name, low) <= high
    assert not parameters.keys() & (REFUSED.keys() | OUTPUT_LIMITS | OWNED | {"tools"})
    rfc8785.dumps(parameters)  # as for the request key
    orjson.dumps(parameters)  # as for the request body


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(alphabet="{}[]&*!|>%@`'\"#,?:-\n\t ab0.~", max_size=60).map(str.encode))
def test_any_bytes_are_no_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """A job file with any bytes is read or refused with BadJob; no other error is raised."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(data)
    with pytest.raises(BadJob):  # no drawn file has the required settings
        load_job(path)
