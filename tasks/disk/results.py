"""From shards and journals to the results: every input column, then Parquill's, one line for each planned row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from parquill.tasks.disk.answers import AnswerIndex, journals_of
from parquill.tasks.disk.files import DISK, Disk, private_folder, read_json, remove_folder
from parquill.tasks.disk.result_rows import ResultRows, RowSums
from parquill.tasks.disk.run import Run
from parquill.tasks.errors import DiskFailed

PART_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the results."""

    file: str
    rows: int
    bytes: int


def write_results(run: Run, *, budget_short: bool, disk: Disk = DISK) -> tuple[RowSums, list[Part]]:
    """Write all parts of a run's results and put them in the place of the earlier ones, all at once.

    Rows without an outcome are `not_sent` (`budget_short` says why). Raises DiskFailed, DamagedJournal.
    """
    folders = run.folders
    staging = folders.own / "staging"
    remove_folder(staging)
    private_folder(staging)
    staging.chmod(0o755)
    answers = AnswerIndex(folders.state)
    try:
        for number, journal in answers.missing(run.run_id, journals_of(run.folder.path)):
            answers.add_shard(run.run_id, number, journal)
        writer = _PartWriter(run, staging, disk)
        sums = RowSums()
        rows = ResultRows(run, answers, sums, "over_budget" if budget_short else "stopped")
        for shard in run.shards:
            for table in rows.of_shard(shard):
                writer.write(table)
        parts = writer.close()
    finally:
        answers.close()
    _swap(folders.output / "results", staging, folders.own / "replaced", disk)
    manifest = read_json(folders.own / "manifest.json")
    # rows that --redo kept may be of other settings: a plain run after it must still see that
    digest = manifest["digest"] if run.redo and manifest else run.digest
    disk.write_json(
        folders.own / "manifest.json",
        {
            "manifest": 1,
            "run_id": run.run_id,
            "digest": digest,
            "rows": sums.rows,
            "parts": [asdict(part) for part in parts],
        },
        0o600,
    )
    return sums, parts


def _swap(results: Path, staging: Path, replaced: Path, disk: Disk) -> None:
    """Put a whole folder of parts in the place of another, so that no reader ever sees parts of two runs."""
    remove_folder(replaced)
    try:
        if results.exists():
            disk.rename(results, replaced)
        disk.rename(staging, results)
        disk.sync_folder(results.parent)
    except OSError as error:
        raise DiskFailed(f"cannot put the results into {results}: {error.strerror}") from None
    remove_folder(replaced)


class _PartWriter:
    def __init__(self, run: Run, folder: Path, disk: Disk) -> None:
        self._run, self._folder, self._disk = run, folder, disk
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0
        self._parts: list[Part] = []

    def write(self, table: pa.Table) -> None:
        name = f"{self._run.run_id}-{len(self._parts):05d}.parquet"
        try:
            if self._writer is None:
                self._writer = pq.ParquetWriter(
                    self._folder / name, table.schema, compression="zstd", write_page_checksum=True
                )
            self._writer.write_table(table)
            self._rows += table.num_rows
            if self._rows >= PART_ROWS:
                self._finish()
        except OSError as error:
            raise DiskFailed(f"cannot write {self._folder / name}: {error.strerror or error}") from None

    def _finish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        name = f"{self._run.run_id}-{len(self._parts):05d}.parquet"
        with (self._folder / name).open("rb") as file:
            self._disk.sync(file.fileno())
        self._parts.append(Part(name, self._rows, (self._folder / name).stat().st_size))
        self._writer, self._rows = None, 0

    def close(self) -> list[Part]:
        try:
            self._finish()
            self._disk.sync_folder(self._folder)
        except OSError as error:
            raise DiskFailed(f"cannot write {self._folder}: {error.strerror or error}") from None
        return self._parts
