"""Journals of many records, written fast, and the time to replay them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import orjson

from parquill.tasks.records import Outcome, Usage, to_json
from parquill.tasks.storage.journal import VERSION, _group
from parquill.tasks.storage.replay import replay_shard
from tests.tools.peak import peak_kib

AT_ONCE = 64  # rows in a group


def write_journal(path: Path, rows: int) -> None:
    """Write an intent and an outcome of 400 characters for each row."""
    groups = [_group(0, orjson.dumps({"journal": VERSION, "run_id": "r", "shard": 0}) + b"\n")]
    for first in range(0, rows, AT_ONCE):
        lines = []
        for row in range(first, min(rows, first + AT_ONCE)):
            lines += [
                orjson.dumps({"type": "intent", "row": row, "n": 1, "reserved": 50_000}),
                orjson.dumps(
                    Outcome(
                        row=row,
                        key=f"{row:064x}",
                        status="ok",
                        completion="x" * 400,
                        finish_reason="stop",
                        model_used="gpt-4o-mini-2024-07-18",
                        request_id=f"req_{row}",
                        usage=Usage(prompt=100, completion=50),
                        cost_nano=45_000,
                        attempts=1,
                        latency_s=0.5,
                        finished_at=1_795_410_888_123_456,
                        resolves=1,
                    ),
                    default=to_json,
                ),
            ]
        groups.append(_group(len(groups), b"\n".join(lines) + b"\n"))
    path.write_bytes(b"".join(groups))


def replay_records(rows: int, rows_of_shard: int = 20_000) -> tuple[int, float, int]:
    """Replay journals with two records per row; return the records, the seconds and the process's peak in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        journals = [Path(folder) / f"{number}.journal" for number in range(rows // rows_of_shard)]
        for journal in journals:
            write_journal(journal, rows_of_shard)
        began = time.monotonic()
        sent = sum(replay_shard(journal).totals().sent for journal in journals)
        took = time.monotonic() - began
    return 2 * sent, took, peak_kib() >> 10
