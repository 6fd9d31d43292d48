"""`parquill report`: find the summary and the results of the latest run of a job or an output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import load_job
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.storage.disk import DISK, read_json
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.published import WrittenRun, latest_summary, parts_of, result_batches, written_run
from parquill.tasks.storage.uri import check_uri, is_uri

STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest run of an output: its summary, its parts with their checksums, and its address.

    `output` is its local folder, None if only the store has it.
    """

    summary: dict[str, Any]
    parts: Sequence[tuple[str, int | None]]
    output_uri: str
    output: Path | None


def write_page(latest: Latest, file: str) -> None:
    """Make the report page again from the results, and write it to a file, or to stdout if that is `-`.

    Raises BadInput, DiskFailed.
    """
    from parquill.tasks.results.overview import Overview  # slow to import
    from parquill.tasks.results.report import render_report
    from parquill.tasks.results.report_plan import ReportPlan

    run = _written(latest)
    plan = ReportPlan.from_json(run.report)
    page = render_report(run.summary, Overview.of(run.summary["run_id"], plan, result_batches(latest.parts)))
    if file == STDOUT:
        sys.stdout.buffer.write(page.encode())
    else:
        DISK.write_whole(Path(file), page.encode())


def _written(latest: Latest) -> WrittenRun:
    if latest.output is not None:
        folder = latest.output
        return written_run(lambda name: read_json(folder / name), str(folder))
    from parquill.tasks.storage.publish import stored_run  # slow to import

    return stored_run(latest.output_uri)


def find_latest(where: str, overrides: Sequence[str], day: date | None) -> Latest:
    """Find the latest run by a job file, an output folder or an address. Raises BadJob, BadInput."""
    if is_uri(where):
        try:
            check_uri(where, is_written=True)
        except ValueError as error:
            raise BadJob(f"the address {error}") from None
        return _stored(where)
    if Path(where).is_dir():
        folder = Path(where)
        return Latest(latest_summary(folder), parts_of(folder), where, folder)
    resolved, _ = resolve_job(load_job(Path(where), overrides), day, None, ())
    folders = Folders.of(resolved.output, resolved.state)
    if is_uri(folders.output_uri) and not (folders.output / "summary.json").exists():
        return _stored(folders.output_uri)
    return Latest(latest_summary(folders.output), parts_of(folders.output), folders.output_uri, folders.output)


def _stored(named: str) -> Latest:
    """Read the latest run from a store, whichever machine it ran on."""
    from parquill.tasks.storage.publish import stored_parts, stored_summary  # slow to import

    return Latest(stored_summary(named), stored_parts(named), named, None)
