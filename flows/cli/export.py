"""`parquill export`: write the results of an output, or the answers of an unfinished run, as CSV or JSON lines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa

from parquill.flows.cli.report import find_latest
from parquill.tasks.errors import BadInput, ParquillError
from parquill.tasks.job.load import load_job
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import current_run
from parquill.tasks.results.export import csv_blocks, json_line_blocks
from parquill.tasks.results.so_far import rows_so_far
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.published import result_batches
from parquill.tasks.storage.uri import is_uri

STDOUT = "-"


def export_results(
    location: str, overrides: Sequence[str], day: date | None, file: str, *, as_csv: bool, so_far: bool
) -> int:
    """Write the rows to a file, which appears when it is complete, or to stdout (`-`). Returns how many there are.

    Raises BadJob, BadInput, DiskFailed, DamagedJournal; ParquillError if the file cannot be written.
    """
    batches = _unfinished(location, overrides, day) if so_far else _finished(location, overrides, day)
    rows = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in batches:
            rows += batch.num_rows
            yield batch

    _write(file, csv_blocks(counted()) if as_csv else json_line_blocks(counted()))
    return rows


def _finished(location: str, overrides: Sequence[str], day: date | None) -> Iterator[pa.RecordBatch]:
    parts = find_latest(location, overrides, day).parts
    if not parts:
        raise BadInput(f"{location} has no results yet; `--so-far` exports the answers of an unfinished run")
    return result_batches(parts)


def _unfinished(location: str, overrides: Sequence[str], day: date | None) -> Iterator[pa.RecordBatch]:
    if is_uri(location):
        raise BadInput("the answers of an unfinished run are on the machine that runs it: name the job file there")
    if Path(location).is_dir():
        output = str(Path(location).absolute())
        folders = Folders.of(output, f"{output}/.parquill")
    else:
        resolved, _ = resolve_job(load_job(Path(location), overrides), day, None, ())
        folders = Folders.of(resolved.output, resolved.state)
    run = current_run(folders)
    if run is None:
        raise BadInput(
            f"no run of {folders.output_uri} is unfinished; leave out `--so-far`, or name the job file if its `state` "
            "is elsewhere"
        )
    return rows_so_far(run)


def _write(file: str, blocks: Iterable[bytes]) -> None:
    if file == STDOUT:
        for block in blocks:
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as out:
            out.writelines(blocks)
        partial.replace(path)
    except OSError as error:
        raise ParquillError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
