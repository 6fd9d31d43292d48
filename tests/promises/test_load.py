"""Load: time and memory that may grow are measured, at a size that a test can afford."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.prompts.source import find_source, read_batches
from parquill.tasks.storage.answer_index import AnswerIndex
from parquill.tasks.storage.replay import replay_shard
from tests.fakes.running import FakeService
from tests.tools.direct import job_of, run_steps
from tests.tools.many_records import write_journal
from tests.tools.measured import measure, peak_of

PARTS = 10  # of a million records
FEW = 700
ROW_BYTES = 2_000
BATCH = 100
# freed memory goes back to the system, so that a peak shows what is held and not how it was scattered
THRIFT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_TRIM_THRESHOLD_": "100000", "MALLOC_ARENA_MAX": "2"}


@pytest.mark.nightly  # it bounds CPU time
def test_a_million_records_replay_in_twenty_seconds(tmp_path: Path) -> None:
    """A million journal records are replayed in under 20 s of CPU, and indexed in under 20 s.
    The test measures a tenth of the records in a tenth of the time.
    """
    journals = [tmp_path / f"{number}.journal" for number in range(5)]
    for journal in journals:
        write_journal(journal, 1_000_000 // PARTS // len(journals) // 2)
    began = time.process_time()
    sent = sum(replay_shard(journal).totals().sent for journal in journals)
    replayed = time.process_time()
    index = AnswerIndex(tmp_path)
    index.add_run("r", "out")
    for number, journal in enumerate(journals):
        index.add_shard("r", number, journal)
    indexed = time.process_time()
    index.close()
    assert sent == 1_000_000 // PARTS // 2
    assert replayed - began < 20 / PARTS
    assert indexed - replayed < 20 / PARTS


def test_a_hundred_thousand_row_groups(tmp_path: Path) -> None:
    """A file of 100,000 row groups of one row is read in full batches within 400 MB, most of it for the footer."""
    path = tmp_path / "in.parquet"
    texts = pa.table({"text": ["t"] * 100_000})
    pq.write_table(texts, path, row_group_size=1, use_dictionary=False, write_statistics=False)
    batches = [batch.num_rows for _, _, batch in read_batches(find_source(str(path)))]
    assert sum(batches) == 100_000
    assert len(batches) < 200
    assert peak_of(f"for _ in read_batches(find_source({str(path)!r})): pass") < 400


def _held() -> tuple[Counter[str], int]:
    """Return the open descriptors by kind and the number of threads, after threads that are ending have ended."""
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("parquill"):
            thread.join(5)
    kinds: Counter[str] = Counter()
    with os.scandir("/proc/self/fd") as entries:
        for entry in entries:
            try:
                kinds[os.readlink(entry.path).partition(":")[0]] += 1  # noqa: PTH115 - the entry may be gone
            except FileNotFoundError:
                continue
    return kinds, threading.active_count()


def test_runs_leave_nothing_open(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten runs in one process, no more files, sockets, threads or event loops are open than after two."""
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    service.configure(
        faults=[{"kind": "disconnect_after", "probability": 0.05}, {"kind": "status:500", "probability": 0.05}]
    )

    def run(number: int) -> None:
        texts = [f"text {number} {n}" for n in range(60)]
        run_steps(job_of(tmp_path / str(number), texts, service.url, retry={"attempts": 1}, tolerate={"not_ok": 1}))

    with ThreadPoolExecutor(1) as threads:  # as under a Prefect worker: not the main thread
        list(threads.map(run, range(2)))
        before = _held()
        list(threads.map(run, range(2, 10)))
        assert _held() == before
    deadline = time.monotonic() + 10
    while service.stats()["connections_open"] > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert service.stats()["connections_open"] == 1  # the connection of this request


@pytest.mark.nightly
def test_memory_does_not_grow_with_the_rows(service: FakeService, tmp_path: Path) -> None:
    """Reading, completing and writing ten times the rows adds less memory than their texts alone would take.
    It leaves no more tasks, files or threads.
    """
    found = []
    for rows in (FEW, 10 * FEW):
        settings = job_of(tmp_path / str(rows), [], service.url, limits={"max_at_once": BATCH})
        texts = [f"{number} " + f"word{number % 97} ".ljust(8) * (ROW_BYTES // 8) for number in range(rows)]
        table = pa.table({"id": [f"r{number}" for number in range(rows)], "text": texts})
        pq.write_table(table, settings["input"], row_group_size=BATCH)
        lines, _ = measure(tmp_path / str(rows), [settings], THRIFT, batch_rows=BATCH)
        found.append(lines[0])
    few, many = found
    assert many["peak_kib"] - few["peak_kib"] < 9 * FEW * ROW_BYTES / 1024
    for held in ("files", "threads", "tasks"):
        assert many[held] - few[held] < 9 * FEW / BATCH / 4, f"more {held} are left by more shards"
