"""Bad input: cells of megabytes. Every batch is bounded by bytes, wherever the cells go, and a bomb is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import BadInput
from parquill.tasks.prompts.source import find_source, read_batches
from tests.fakes.running import FakeService
from tests.tools.direct import job_of, results, run_steps
from tests.tools.large_cells import write_large_cells, write_map_bomb
from tests.tools.measured import ROOT, measure, peak_of

REJECTED = {"tolerate": {"rejected": 1, "not_ok": 1}}
FREE = {"price": {"usd_per_mtok_input": 0.1, "usd_per_mtok_output": 0.1}, "model": "a-model"}
PEAK_MIB = (520, 950)  # a request is in memory several times while it is under way
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "passed through": ("text", "{{ text }}", {}),
    "rejected as too long": ("text", "{{ blob }}", REJECTED),
    "sent": ("text", "{{ blob }}", FREE),
    "a list": ("list", "{{ blob | join(' ') }}", REJECTED),
    "a struct": ("struct", "{{ blob.body }}", REJECTED),
    "a map passed through": ("map", "{{ text }}", {}),
    "for each of ten languages": ("text", "{{ text }} {{ language }}", {"for_each": {"language": [*"abcdefghij"]}}),
}


def _job(folder: Path, service: FakeService, source: Path, prompt: str, **settings: Any) -> dict[str, Any]:
    found = job_of(folder, [], service.url, **{"model": "gpt-4o-mini", **settings})
    return {**found, "input": str(source), "prompt": {"user": prompt}, "id_column": None}


@pytest.mark.nightly
@pytest.mark.parametrize("shape", SHAPES)
def test_large_cells_take_little_memory(tmp_path: Path, service: FakeService, shape: str) -> None:
    """80 cells of 5 MB (8 for ten languages), 400 MB in all, are planned and written within 520 MiB, and sent within
    950 MiB. This holds if they are passed through, rejected, sent, or parts of a list, struct or map.
    """
    kind, prompt, settings = SHAPES[shape]
    source = write_large_cells(tmp_path / "in.parquet", kind, rows=8 if "for_each" in settings else 80)
    job = _job(tmp_path / "job", service, source, prompt, **settings)
    lines, _ = measure(tmp_path, [job], {}, timeout_s=400)
    assert lines[0]["peak_kib"] < PEAK_MIB[shape == "sent"] << 10


def _estimate(job: dict[str, Any], code: str = "estimate_job(job, options)") -> int:
    """Return the most memory (MB) of a process that plans a job and writes nothing."""
    lines = [
        "import sys, orjson",
        "from parquill.tasks.job.load import make_job",
        "from parquill.tasks.prompts.resolve import resolve_job",
        "from parquill.tasks.prompts.prepare import estimate_job",
        "from tests.tools.peak import peak_kib",
        "job, options = resolve_job(make_job(orjson.loads(sys.argv[1])), None, None, ())",
        code,
        "print(peak_kib() >> 10)",
    ]
    import orjson

    command = [sys.executable, "-c", "\n".join(lines), orjson.dumps(job).decode()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stdout)


@pytest.mark.nightly
def test_an_estimate_of_large_cells(tmp_path: Path, service: FakeService) -> None:
    """An estimate keeps none of the texts that it has counted, and does not read columns that no request uses."""
    source = write_large_cells(tmp_path / "in.parquet")
    assert _estimate(_job(tmp_path / "job", service, source, "{{ blob }}", **REJECTED)) < 450


@pytest.mark.nightly
@pytest.mark.parametrize("prompt", ["{{ text }}", "{{ blob }}"])
def test_one_page_of_large_cells(tmp_path: Path, service: FakeService, prompt: str) -> None:
    """Cells in one page of 450 MB, which the reader unpacks as a whole, are read within 1 GB."""
    source = write_large_cells(tmp_path / "in.parquet", rows=90, in_one_page=True)
    job = _job(tmp_path / "job", service, source, prompt, **REJECTED)
    lines, _ = measure(tmp_path, [job], {}, timeout_s=400)
    assert lines[0]["peak_kib"] < 1_000_000_000 >> 10


def test_a_bomb_of_two_cells(tmp_path: Path, service: FakeService) -> None:
    """Two map keys of 512 MiB from 4 KB are refused by name, whether or not a prompt uses them.
    An estimate refuses them too, and does not unpack them.
    """
    source = write_map_bomb(tmp_path / "in.parquet", key_bytes=512 << 20)
    assert source.stat().st_size < 4_000
    job = _job(tmp_path / "job", service, source, "Hello", **REJECTED)
    with pytest.raises(BadInput, match=r"in\.parquet .* decompression bomb"):
        run_steps(job)
    refused = (
        "from parquill.tasks.errors import BadInput\n"
        "try:\n    estimate_job(job, options)\nexcept BadInput:\n    pass\nelse:\n    raise AssertionError"
    )
    assert _estimate(job, refused) < 300
    assert service.stats()["requests"] == 0


HIDDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "a run of nulls": ("pa.nulls(1 << 27, pa.int8())", {}),
    "a run of one number": ("pa.array(bytes(1 << 27), pa.uint8())", {}),
    "values that share their beginning": (
        "pa.array(['x' * 1_000_000] * 800)",
        {"use_dictionary": False, "column_encoding": {"list.list.element": "DELTA_BYTE_ARRAY"}},
    ),
    "a dictionary's value": (
        "pa.DictionaryArray.from_arrays(pa.array(bytes(6_000), pa.uint8()), ['x' * 1_000_000])",
        {},
    ),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", HIDDEN)
def test_lists_that_a_file_hides(tmp_path: Path, name: str) -> None:
    """Lists of gigabytes that take some kilobytes in the file are refused within 300 MB."""
    items, options = HIDDEN[name]
    path = str(tmp_path / "in.parquet")
    write = [
        "import pyarrow as pa, pyarrow.parquet as pq",
        f"items = {items}",
        "lists = pa.ListArray.from_arrays(pa.array([0, len(items), len(items)], pa.int32()), items)",
        f"options = {options!r} | {{'compression': 'zstd', 'write_statistics': False}}",
        f"pq.write_table(pa.table({{'list': lists}}), {path!r}, **options)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(write)], check=True, timeout=300)
    assert Path(path).stat().st_size < 20_000
    with pytest.raises(BadInput, match=r"in\.parquet .* decompression bomb"):
        list(read_batches(find_source(path)))
    assert peak_of(f"list(read_batches(find_source({path!r})))") < 300


def test_a_row_of_ten_megabytes(tmp_path: Path, service: FakeService) -> None:
    """Cells of 10 MB are passed through byte for byte; a prompt of them is rejected with its row."""
    table = pa.table({"text": ["a", "b"], "blob": ["x" * 10_000_000, "word " * 2_000_000]})
    pq.write_table(table, tmp_path / "in.parquet")
    job = _job(
        tmp_path / "job",
        service,
        tmp_path / "in.parquet",
        "{{ text }}{% if text == 'b' %}{{ blob }}{% endif %}",
        **REJECTED,
    )
    run_steps(job)
    found = results(job)
    assert [row["blob"] for row in found] == table.column("blob").to_pylist()
    assert [(row["status"], row["error_code"]) for row in found] == [("ok", None), ("rejected", "too_long")]


def test_for_each_is_cut_within_a_row(tmp_path: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows `for_each` makes of an input row, few are in memory at once, each with its own values."""
    monkeypatch.setattr("parquill.tasks.prompts.planner.MAX_AT_ONCE", 25_000)
    names = [f"n{number}" for number in range(7)]
    table = pa.table({"text": ["a", "b", "c"], "blob": ["x" * 10_000, "y" * 10_000, "z" * 10]})
    pq.write_table(table, tmp_path / "in.parquet")
    job = _job(tmp_path / "job", service, tmp_path / "in.parquet", "{{ text }} {{ n }}", for_each={"n": names})
    run_steps(job)
    found = results(job)
    assert [(row["row_number"], row["text"], row["n"]) for row in found] == [
        (number, text, name) for number, text in enumerate("abc") for name in names
    ]
    assert [row["blob"] for row in found] == [blob for blob in table.column("blob").to_pylist() for _ in names]
    run_steps(job, redo=["ok"])
    assert [row["blob"][:1] for row in results(job)] == [*"xxxxxxxyyyyyyyzzzzzzz"]


@pytest.mark.parametrize("columns", [["text"], ["list"], ["a.b"], [], ["nothing"]])
def test_only_some_columns_are_read(tmp_path: Path, columns: list[str]) -> None:
    """If columns are named, the reader reads only them, and still returns every row.
    This includes nested columns and names with dots.
    """
    rows = 3_000
    table = pa.table(
        {"blob": ["x" * 100] * rows, "text": [*map(str, range(rows))], "list": [[{"v": "y"}]] * rows, "a.b": [1] * rows}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    batches = [batch for _, _, batch in read_batches(find_source(str(tmp_path / "in.parquet")), None, columns)]
    assert sum(batch.num_rows for batch in batches) == rows
    assert {name for batch in batches for name in batch.schema.names} == set(columns) & set(table.column_names) or {
        "a.b"
    }
    for name in set(columns) & set(table.column_names):
        assert [value for batch in batches for value in batch.column(name).to_pylist()] == table.column(
            name
        ).to_pylist()
