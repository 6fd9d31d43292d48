"""Restores the answers that only the results have, since their journals were removed (which is allowed) or lost.

The results of a finished run are enough to continue from. Before anything is planned, answers that are in the results
but in no journal are written into a new journal. So they are reused like any other answer, and not paid for again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from parquill.tasks.prompts.redo import prior_charge
from parquill.tasks.records import REUSABLE, Outcome
from parquill.tasks.storage.answer_index import AnswerIndex
from parquill.tasks.storage.columns import result_fields
from parquill.tasks.storage.disk import DISK, Disk, private_folder, read_json
from parquill.tasks.storage.folders import Folders, RunFolder, new_run_id
from parquill.tasks.storage.journal import append_groups
from parquill.tasks.storage.parquet_reader import ChecksummedReader
from parquill.tasks.storage.published import parts_of, prefix_of

LOST_JOURNALS = (
    "the journals of earlier answers were removed, so this estimate counts their rows as open; `run` takes the answers "
    "from the results and pays only for what they lack"
)
READ_ROWS = 500
JOURNAL_ROWS, JOURNAL_CHARACTERS = 20_000, 32 << 20  # of one journal, which is held in memory as a whole
_TEXTS = (
    *("status", "completion", "error_code", "error_message"),
    *("finish_reason", "model_used", "request_id", "lane", "endpoint"),
)


def restore_answers(folders: Folders, answers: AnswerIndex, disk: Disk = DISK) -> int:
    """Write the answers that only the latest results have into the state. Returns how many there were.

    The caller holds the folders. Raises DiskFailed.
    """
    if not needs_results(folders):
        return 0
    run, rows = folders.run(new_run_id(datetime.now(UTC))), 0
    for number, outcomes in enumerate(_lacking(folders, answers)):
        if number == 0:
            _begin(run, folders, answers, disk)
        header = {"run_id": run.run_id, "shard": number}
        groups = (outcomes[at : at + READ_ROWS] for at in range(0, len(outcomes), READ_ROWS))
        rows += append_groups(run.journal(number), header, groups, disk)
        answers.add_shard(run.run_id, number, run.journal(number))
    return rows


def needs_results(folders: Folders) -> bool:
    """Whether journals with answers of the latest results are gone."""
    manifest = read_json(folders.meta / "manifest.json")
    runs = [folders.run(run_id) for run_id in (manifest or {}).get("held_by", ())]
    return any(not run.plan.exists() or not run.has_journals() or run.lost_journals() for run in runs)


def lacks_answers(folders: Folders, answers: AnswerIndex | None) -> bool:
    """Whether the latest results have answers that no journal has, so that only a run can reuse them."""
    return needs_results(folders) and (answers is None or any(_lacking(folders, answers)))


def _begin(run: RunFolder, folders: Folders, answers: AnswerIndex, disk: Disk) -> None:
    """Create a run that only holds answers, without rows and settings."""
    for folder in (run.path.parent, run.path, run.path / "journals"):
        private_folder(folder, disk)
    disk.write_own(run.path / "job.json", {"output": folders.output_uri})
    disk.write_own(run.plan, {"plan": 1, "restored": True, "shards": []})
    answers.add_run(run.run_id, folders.output_uri)


def _lacking(folders: Folders, answers: AnswerIndex) -> Iterator[list[Outcome]]:
    """Yield the answers that no journal has, in portions of one journal; each is indexed before the next is taken."""
    found: dict[str, Outcome] = {}
    size = 0
    for name, crc32 in parts_of(folders.output):
        path = Path(name)
        if not path.exists():  # removed too: these rows are sent again
            continue
        with ChecksummedReader(path, crc32) as part:
            names = part.schema.names
            prefix = prefix_of(names)
            own = [prefix + field.name for field in result_fields(None)]
            # without a response_format, a column of this name may be of the input
            has_parsed = names.index(f"{prefix}status") - names.index(f"{prefix}completion") == 2
            parsed = [f"{prefix}parsed"] if has_parsed else []
            for batch in part.batches(READ_ROWS, [*own, *parsed]):
                for outcome in _of_batch(_bare(batch, prefix), folders, answers):
                    if outcome.key not in found:  # the first of equal rows carries the cost
                        found[outcome.key] = outcome
                        size += len(outcome.completion or "")
                if len(found) >= JOURNAL_ROWS or size >= JOURNAL_CHARACTERS:
                    yield list(found.values())
                    found, size = {}, 0
    if found:
        yield list(found.values())


def _bare(batch: pa.RecordBatch, prefix: str) -> pa.Table:
    table = pa.Table.from_batches([batch])
    table = table.rename_columns([name.removeprefix(prefix) for name in table.column_names])
    moments = table.column("finished_at").cast(pa.int64())  # as a journal has them
    return table.set_column(table.column_names.index("finished_at"), "finished_at", moments)


def _of_batch(table: pa.Table, folders: Folders, answers: AnswerIndex) -> Iterator[Outcome]:
    """Yield the outcomes of rows that no journal has, by the results' own columns without prefix."""
    rows = table.to_pylist()
    keys = [bytes.fromhex(row["request_key"]) for row in rows if row["request_key"] is not None]
    known = answers.find(keys, folders.output_uri)
    for row in rows:
        status, key = row["status"], row["request_key"]
        if key is None or (status not in REUSABLE and status != "failed"):
            continue
        there = known.get(bytes.fromhex(key))
        if there is None or (status in REUSABLE and not there.reusable):
            charge = prior_charge(row)
            yield Outcome(
                row=0,
                key=key,
                cost_nano=charge.cost_nano,
                in_doubt_nano=charge.in_doubt_nano,
                attempts=charge.attempts,
                usage=charge.usage,
                parsed=row.get("parsed"),
                latency_s=row["latency_s"],
                finished_at=row["finished_at"],
                paid_by=row["run_id"],
                reused_nano=0 if row["reused"] else None,
                **{name: row[name] for name in _TEXTS},
            )
