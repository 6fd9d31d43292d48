"""The results: one line for each row, input columns unchanged, and Parquill's columns as the contract defines them."""

from __future__ import annotations

import re
import shutil
import tempfile
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from tests.fakes.answers import echo
from tests.tools.expected import COLUMNS, PRICES, billed_usd, check_books, request_key, row_usd
from tests.tools.jobs import Jobs


def _many_types(start: int, count: int) -> pa.Table:
    """Return a table with a column of nearly every type, nulls included."""

    def each(make: Any, kind: pa.DataType) -> pa.Array:
        return pa.array([None if n % 3 == 2 else make(n) for n in range(start, start + count)], kind)

    noon = datetime(2026, 3, 29, 12, tzinfo=UTC)
    struct = pa.struct([("x", pa.int16()), ("y", pa.list_(pa.string()))])
    columns = {
        "text": pa.array([f"row {n} \u00e9" for n in range(start, start + count)]),
        "int8": each(lambda n: n - 100, pa.int8()),
        "uint64": each(lambda n: 2**64 - 1 - n, pa.uint64()),
        "float32": each(lambda n: n / 3, pa.float32()),
        "float64": each(lambda n: float("-inf") if n % 2 else -0.0, pa.float64()),
        "flag": each(lambda n: n % 2 == 0, pa.bool_()),
        "decimal": each(lambda n: Decimal(n) / 100, pa.decimal128(20, 2)),
        "day": each(lambda n: date(2026, 1, 1) + timedelta(days=n), pa.date32()),
        "at": each(lambda n: noon + timedelta(microseconds=n), pa.timestamp("us", tz="Europe/Paris")),
        "nanos": each(lambda n: 10**18 + n, pa.timestamp("ns")),
        "clock": each(lambda n: time(1, 2, 3, n), pa.time64("us")),
        "large": each(lambda n: "x" * n, pa.large_string()),
        "bytes": each(lambda n: bytes([n, 255, 0]), pa.binary()),
        "fixed": each(lambda n: bytes([n] * 4), pa.binary(4)),
        "list": each(lambda n: [n, None, -n], pa.list_(pa.int32())),
        "struct": each(lambda n: {"x": n, "y": ["a", None]}, struct),
        "map": each(lambda n: [("k", n)], pa.map_(pa.string(), pa.int64())),
        "dictionary": pa.array(["a", "b", None][n % 3] for n in range(start, start + count)).dictionary_encode(),
        "null": pa.nulls(count),
        "Größe {{ 7*7 }}": each(str, pa.string()),
    }
    return pa.table(columns)


@pytest.mark.parametrize("for_each", [None, {"language": ["fr", "no"], "tone": [1, 2]}])
def test_every_row_has_its_line_and_every_column_its_values(jobs: Jobs, for_each: dict[str, list[Any]] | None) -> None:
    """Results have one line for each row (and value) in input order, with the input's types and values unchanged."""
    first, second, third = _many_types(0, 7), _many_types(7, 4), _many_types(11, 3)
    jobs.write(second, "in/b.parquet")
    jobs.write(first, "in/a.parquet")
    jobs.write(third.select(third.column_names[::-1]), "in/c/c.parquet")  # another order of the same columns
    user = "{{ text }}" + (" {{ language }} {{ tone }}" if for_each else "")
    settings = jobs.job(input=str(jobs.folder / "in"), for_each=for_each, prompt={"user": user})
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    whole = pa.concat_tables([first, second, third.select(first.column_names)])
    locations = [("a.parquet", n) for n in range(7)] + [("b.parquet", n) for n in range(4)]
    locations += [("c/c.parquet", n) for n in range(3)]
    combinations: list[tuple[Any, ...]] = (
        [(lang, tone) for lang in ("fr", "no") for tone in (1, 2)] if for_each else [()]
    )
    repeated = whole.take([n for n in range(whole.num_rows) for _ in combinations])
    found = done.table.select(whole.column_names)
    assert found.schema.types == whole.schema.types
    for name in whole.column_names:
        assert found.column(name).combine_chunks().equals(repeated.column(name).combine_chunks()), name
    assert done.table.column_names == [*whole.column_names, *(for_each or {}), *COLUMNS]
    assert list(zip(done.column("source_file"), done.column("row_number"), strict=True)) == [
        location for location in locations for _ in combinations
    ]
    texts = [f"row {n} \u00e9" for n in range(14)]
    if for_each:
        assert list(zip(done.column("language"), done.column("tone"), strict=True)) == combinations * 14
        assert done.table.schema.field("language").type == pa.string()
        assert done.table.schema.field("tone").type == pa.int64()
        prompts = [f"{text} {lang} {tone}" for text in texts for lang, tone in combinations]
    else:
        prompts = texts
    assert done.column("completion") == [echo([prompt]) for prompt in prompts]
    check_books(done)


def test_folders_become_columns(jobs: Jobs) -> None:
    """key=value folders become columns: integers if all values are integers, text otherwise; files keep their order."""
    for shop, day, text in ((7, "2026-11-02", "b"), (7, "2026-11-01", "a"), (12, "2026-11-01", "c")):
        jobs.write([text, text + "2"], f"in/shop={shop}/dt={day}/part.parquet")
    settings = jobs.job(input=str(jobs.folder / "in"), prompt={"user": "{{ shop }} {{ dt }} {{ text }}"})
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.table.column_names[:3] == ["text", "shop", "dt"]
    assert done.table.schema.field("shop").type == pa.int64()
    assert done.table.schema.field("dt").type == pa.string()
    lines = list(zip(done.column("shop"), done.column("dt"), done.column("text"), strict=True))
    assert lines == [
        *((12, "2026-11-01", "c"), (12, "2026-11-01", "c2"), (7, "2026-11-01", "a"), (7, "2026-11-01", "a2")),
        *((7, "2026-11-02", "b"), (7, "2026-11-02", "b2")),
    ]
    assert done.column("completion") == [echo([f"{shop} {dt} {text}"]) for shop, dt, text in lines]
    assert done.column("source_file")[0] == "shop=12/dt=2026-11-01/part.parquet"


def test_a_glob_takes_the_files_that_match(jobs: Jobs) -> None:
    """A glob reads only the files that match."""
    jobs.write(["a"], "in/x-1.parquet")
    jobs.write(["b"], "in/x-2.parquet")
    jobs.write(["not me"], "in/y-1.parquet")
    done = jobs.run(jobs.job(input=str(jobs.folder / "in" / "x-*.parquet")))
    assert done.exit_code == 0, done.stderr
    assert done.column("text") == ["a", "b"]
    assert done.column("source_file") == ["x-1.parquet", "x-2.parquet"]


def test_the_columns_of_the_contract(jobs: Jobs) -> None:
    """Every output column has the type, order and meaning that the contract gives it."""
    jobs.service.configure(
        prompt_tokens="tiktoken:o200k_base", output_tokens="lognormal:12:0.4", latency_ms=30, model_suffix="-2024-07-18"
    )
    texts = [f"prompt number {n}, with some more words" for n in range(20)]
    settings = jobs.job(texts, prompt={"system": "Be brief.", "user": "{{ text }}"}, parameters={"temperature": 0})
    before = datetime.now(UTC)
    done = jobs.run(settings)
    after = datetime.now(UTC)
    assert done.exit_code == 0, done.stderr
    assert {name: done.table.schema.field(name).type for name in COLUMNS} == COLUMNS
    assert done.table.column_names == ["text", *COLUMNS]
    for index, row in enumerate(done.rows):
        text = texts[index]
        assert row["text"] == text
        assert row["completion"] == echo(["Be brief.", text], text)
        assert (row["status"], row["error_code"], row["error_message"]) == ("ok", None, None)
        assert row["finish_reason"] == "stop"
        assert row["model_used"] == "gpt-4o-mini-2024-07-18"
        assert row["request_id"].startswith("chatcmpl-")
        assert row["prompt_tokens"] == row["estimated_prompt_tokens"] > 10
        assert (row["cached_tokens"], row["reasoning_tokens"]) == (0, 0)
        tokens = (row["prompt_tokens"], 0, row["completion_tokens"])
        assert row["cost_usd"] == row_usd(tokens, PRICES["gpt-4o-mini"])
        assert (row["in_doubt_usd"], row["reused"], row["attempts"]) == (0, False, 1)
        assert row["run_id"] == done.summary["run_id"]
        assert 0.03 <= row["latency_s"] < 10
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        assert row["request_key"] == request_key(settings, messages)
        assert (row["source_file"], row["row_number"]) == ("prompts.parquet", index)
        assert before <= row["finished_at"] <= after
    assert len(set(done.column("request_id"))) == 20
    assert len(set(done.column("completion_tokens"))) > 3
    assert Decimal(done.summary["cost_usd"]) == billed_usd(jobs.service)
    check_books(done)


def test_a_service_with_a_name_may_move(jobs: Jobs) -> None:
    """If an endpoint has a name, the request key holds the name and not the address, so that the service may move."""
    settings = jobs.job(["a"], endpoint={"name": "house"})
    done = jobs.run(settings)
    assert done.column("request_key") == [request_key(settings, [{"role": "user", "content": "a"}])]


def test_an_empty_input_finishes(jobs: Jobs) -> None:
    """An input without rows exits 0, costs nothing, and leaves results with all columns.
    A second start says that it has no rows.
    """
    settings = jobs.job([])
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.table.num_rows == 0
    assert done.table.column_names == ["text", *COLUMNS]
    assert done.summary["cost_usd"] == "0.000000000"
    assert done.summary["state"] == "finished"
    again = jobs.run(settings)
    assert again.exit_code == 0
    assert "nothing to do: the input has no rows; nothing was sent, $0" in again.stdout
    assert jobs.service.stats()["requests"] == 0


def test_column_prefix_tells_columns_apart(jobs: Jobs) -> None:
    """With `column_prefix`, an input with columns named like Parquill's is completed, and both are kept."""
    table = pa.table({"text": ["a", "b"], "status": ["mine", None], "cost_usd": [1.5, 2.5]})
    settings = jobs.job(table, column_prefix="llm_")
    done = jobs.run(settings)
    assert done.exit_code == 0, done.stderr
    assert done.table.column_names == [*table.column_names, *(f"llm_{name}" for name in COLUMNS)]
    assert done.table.select(table.column_names).to_pylist() == table.to_pylist()
    assert done.column("llm_status") == ["ok", "ok"]
    check_books(done, "llm_")
    jobs.service.reset()
    assert jobs.run(settings, "--redo", "ok").exit_code == 0
    assert jobs.service.stats()["requests"] == 2


def test_cells_are_data(jobs: Jobs) -> None:
    """Braces, template syntax, control characters and special tokens in a cell reach the service byte for byte."""
    cells = [
        "{{ 7*7 }} {% for x in y %} {0} %s ${HOME} <|endoftext|>",
        "NUL \0 BOM \ufeff RTL \u202e ZWJ \u200d NFD e\u0301 \U0001f600",
        ' "quotes" \\ back\r\nline\ttab \u2028',
    ]
    jobs.service.configure(log=10, log_bodies=True)
    done = jobs.run(jobs.job(cells))
    assert done.exit_code == 0, done.stderr
    import orjson

    sent = {orjson.loads(entry["body"])["messages"][0]["content"] for entry in jobs.service.log()}
    assert sent == set(cells)
    assert done.column("text") == cells
    assert done.column("completion") == [echo([cell]) for cell in cells]


def test_every_file_is_whole_and_private(jobs: Jobs) -> None:
    """The output holds what the contract lists, and only the owner can read the files below .parquill/."""
    settings = jobs.job(["a", "b"], labels={"team": "search"})
    done = jobs.run(settings)
    output = jobs.folder / "out"
    assert {path.name for path in output.iterdir()} == {
        *("results", "summary.json", "history", "report.html", ".parquill"),
    }
    assert all(re.fullmatch(r".+\.parquet", path.name) for path in (output / "results").iterdir())
    assert [path.name for path in (output / "history").iterdir()] == [f"{done.summary['run_id']}.json"]
    for path in [output / ".parquill", *(output / ".parquill").rglob("*")]:
        if path.name != "manifest.json":
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("linked", ["results", ".parquill"])
def test_results_that_could_not_be_put_into_place(jobs: Jobs, linked: str) -> None:
    """If a link puts an output's results on another disk, the run is refused before it sends anything.
    An output folder that is itself a link works.
    """
    settings = jobs.job(["a"], output=str(jobs.folder / "linked"))
    (jobs.folder / "linked").mkdir()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (jobs.folder / "linked" / linked).symlink_to(elsewhere)
        refused = jobs.run(settings)
        assert (refused.exit_code, jobs.service.stats()["requests"]) == (2, 0)
        assert "must be folders on one disk" in refused.stderr
        (jobs.folder / "linked" / linked).unlink()
        shutil.rmtree(jobs.folder / "linked")
        (jobs.folder / "linked").symlink_to(elsewhere)
        done = jobs.run(settings)
        assert done.exit_code == 0, done.stderr
        assert (jobs.folder / "linked" / "results").is_dir()
