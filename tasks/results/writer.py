"""Write the results from shards and journals: one row for each planned row, input columns first, then Parquill's."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa

from parquill.tasks.errors import DiskFailed
from parquill.tasks.prompts.run import Run
from parquill.tasks.results.overview import Overview
from parquill.tasks.results.report_plan import ReportPlan
from parquill.tasks.results.rows import ResultRows
from parquill.tasks.results.totals import ResultTotals
from parquill.tasks.storage.answer_index import open_answers
from parquill.tasks.storage.disk import DISK, Disk, read_json, remove_folder
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.parquet_writer import ChecksummedWriter

PART_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the results."""

    file: str
    rows: int
    bytes: int
    crc32: int


def write_results(run: Run, *, budget_short: bool, disk: Disk = DISK) -> tuple[ResultTotals, list[Part]]:
    """Write all parts of a run's results, and replace the earlier parts all at once.

    Rows without an outcome are `not_sent` (`budget_short` says why). Raises DiskFailed, DamagedJournal.
    """
    folders = run.folders
    remove_folder(folders.staging)
    disk.make_folder(folders.staging)
    sums = ResultTotals()
    with contextlib.closing(open_answers(folders)) as answers, _PartWriter(run, folders.staging, disk) as writer:
        rows = ResultRows(run, answers, sums, "over_budget" if budget_short else "stopped")
        for shard in run.shards:
            for table in rows.of_shard(shard):
                if sums.overview is None:
                    plan = ReportPlan.of(run.job, table.column_names, run.estimate.output_shares)
                    sums.overview = Overview(run.run_id, plan)
                sums.overview.add_table(table)
                writer.write(table)
        parts = writer.finish()
    _swap(folders, disk)
    manifest = read_json(folders.meta / "manifest.json")
    held_by = rows.held_by | set((manifest or {}).get("held_by", ()) if rows.keeps else ())
    digest = manifest["digest"] if run.keeps_digest and manifest else run.digest
    disk.write_own(
        folders.meta / "manifest.json",
        {
            "manifest": 1,
            "run_id": run.run_id,
            "digest": digest,
            "rows": sums.rows,
            "failed_in_doubt": sums.failed_in_doubt,
            "held_by": sorted(held_by),
            "parts": [asdict(part) for part in parts],
            "report": None if sums.overview is None else sums.overview.plan.to_json(),
        },
    )
    return sums, parts


def _swap(folders: Folders, disk: Disk) -> None:
    """Replace the folder of parts as a whole, so that no reader ever sees parts of two runs.

    Raises DiskFailed after it has put the earlier parts back.
    """
    results = folders.output / "results"
    remove_folder(folders.replaced)
    try:
        if results.exists():
            disk.rename(results, folders.replaced)
        try:
            disk.rename(folders.staging, results)
        except OSError:
            # promise: C3 a failed swap puts the old results back
            if folders.replaced.exists():
                disk.rename(folders.replaced, results)
            raise
        # promise: C3 the swap is synced before the old parts are removed
        disk.sync_folder(folders.output)
        disk.sync_folder(folders.meta)
    except OSError as error:
        raise DiskFailed(f"cannot put the results into {results}: {error.strerror}") from None
    remove_folder(folders.replaced)


class _PartWriter:
    """Spreads result rows over files of about PART_ROWS rows."""

    def __init__(self, run: Run, folder: Path, disk: Disk) -> None:
        self._run, self._folder, self._disk = run, folder, disk
        self._file: ChecksummedWriter | None = None
        self._rows = 0
        self._parts: list[Part] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.abandon()

    def write(self, table: pa.Table) -> None:
        """Append rows. Raises DiskFailed."""
        if self._file is None:
            path = self._folder / f"{self._run.run_id}-{len(self._parts):05d}.parquet"
            self._file = ChecksummedWriter(path, table.schema, 0o644, self._disk)
        self._file.write(table)
        self._rows += table.num_rows
        if self._rows >= PART_ROWS:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            size = self._file.close()
            self._parts.append(Part(self._file.path.name, self._rows, size, self._file.crc32))
            self._file, self._rows = None, 0

    def finish(self) -> list[Part]:
        """Close the last file and sync the folder, so that all parts are durable. Raises DiskFailed."""
        self._close()
        try:
            # promise: C3 the folder of new parts is synced before the swap
            self._disk.sync_folder(self._folder)
        except OSError as error:
            raise DiskFailed(f"cannot write into {self._folder}: {error.strerror}") from None
        return self._parts
