"""The end of a run: its summary, its error and so its exit code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from parquill.tasks.errors import (
    DiskFailed,
    LedgerFailed,
    ParquillError,
    ServiceStopped,
    StoppedByBudget,
    WaitsForBatch,
)
from parquill.tasks.llm.outcomes import TABLE, Retry
from parquill.tasks.llm.shard_report import SendResult
from parquill.tasks.money.amounts import format_usd, usd_to_nano
from parquill.tasks.money.learning import keep_counts, keep_past
from parquill.tasks.money.month import month_figures
from parquill.tasks.prompts.run import Run
from parquill.tasks.prompts.run_uses import uses_of
from parquill.tasks.results.summary import make_summary, write_interrupted, write_running, write_summary
from parquill.tasks.results.tolerance import check_not_ok, warn_of_not_ok
from parquill.tasks.results.totals import ResultTotals
from parquill.tasks.storage.disk import DISK, TEMPORARY, Disk, read_json, remove_folder, sweep

ROOM_BYTES = 64 << 10  # enough for several summaries


def final_error(run: Run, sums: ResultTotals, ending: SendResult) -> ParquillError | None:
    """Return the error that a run ends with; None for exit 0."""
    rows, job = sums.rows, run.job
    left = f"{rows['not_sent']:,} of {rows['total']:,} rows were not sent"
    if ending.rule is not None:
        left = f"{rows['not_sent'] + rows['failed']:,} of {rows['total']:,} rows have no answer"
        # an outage and endless throttling pass by themselves; anything else needs a person first
        passes = TABLE[ending.rule].retry in {Retry.THROTTLE, Retry.OUTAGE}
        advice = "Run again to resume" if passes else "Fix this, then run again to resume"
        # promise: service: a run that the service stopped exits with its own exit code
        return ServiceStopped(f"stopped: {ending.message}; {left}. {advice}")
    if ending.over_budget:
        limits = {"run_usd": job.budget.run_usd, "monthly_usd": job.budget.monthly_usd}
        limits_text = " or ".join(
            f"{name} = {format_usd(usd_to_nano(usd))}" for name, usd in limits.items() if usd is not None
        )
        return StoppedByBudget(f"the budget is used up ({limits_text}); {left}. Raise it, then run again to resume")
    return check_not_ok(job, rows, sums.errors, sums.first_failure)


def finish_run(
    run: Run, sums: ResultTotals, ending: SendResult, disk: Disk = DISK
) -> tuple[dict[str, Any], ParquillError | None]:
    """Write a run's summary and remove what only a resumed run would need; return the summary and the run's error.

    Raises DiskFailed, LedgerFailed.
    """
    error, now, totals = final_error(run, sums, ending), datetime.now(UTC), run.totals()
    summary = make_summary(
        run,
        sums,
        totals,
        state="stopped" if ending.is_stop else "finished",
        exit_code=error.exit_code if error else 0,
        finished_at=now,
        month=month_figures(run.run_id),
        message=str(error) if error else warn_of_not_ok(run.job, sums.rows, sums.errors),
    )
    # promise: reconcile: a run that ends leaves in the ledger what it bought
    keep_past(run.job, run.run_id, sums.history, None if ending.is_stop else now, uses_of(run, totals))
    write_summary(run, sums, summary, disk)
    with contextlib.suppress(LedgerFailed):  # only what the run learned would be lost
        keep_counts(run.job, run.run_id, sums.compared.classes)
    if not ending.is_stop:
        clear_run(run, disk)
    return summary, error


def clear_run(run: Run, disk: Disk = DISK) -> None:
    """Remove what only a resumed run would need: the output's current run and its shards. The journals stay.

    Raises DiskFailed.
    """
    own = run.folders.meta
    try:
        disk.remove(own / "current.json")
        # before the shards are removed: a run that is still the current one needs them
        # promise: C4 the removal of the current-run entry is synced before the shards are removed
        disk.sync_folder(own)
    except OSError as error:
        raise DiskFailed(f"cannot write into {own}: {error.strerror}") from None
    remove_folder(run.folder.path / "shards")


@contextlib.contextmanager
def summary_while_running(run: Run, disk: Disk = DISK) -> Iterator[None]:
    """Write in summary.json that the run is under way, and if the run is cut off at any step, that it stopped.

    Space for that is reserved from the beginning, because a full disk may be what cuts the run off.
    """
    room = run.folders.meta / f".room{TEMPORARY}"
    disk.write_whole(room, os.urandom(ROOM_BYTES), 0o600)
    write_running(run, disk)
    try:
        yield
    except WaitsForBatch:
        # promise: M8 the summary of a run that waits for its batches says that it is running
        write_running(run, disk)
        raise
    except BaseException as error:
        message, exit_code = "interrupted; run again to resume", 130
        if isinstance(error, ParquillError):
            message, exit_code = str(error), error.exit_code
        elif isinstance(error, Exception):
            message, exit_code = type(error).__name__, 1
        with contextlib.suppress(ParquillError):
            # a run that ended with an error of `finish_run` has written its summary already
            # promise: C3 the end of a run is written to summary.json only once
            if (read_json(run.folders.output / "summary.json") or {}).get("state") == "running":
                _record_stop(run, message, exit_code, room, disk)
        raise
    finally:
        sweep(run.folders.meta)


def _record_stop(run: Run, message: str, exit_code: int, room: Path, disk: Disk) -> None:
    try:
        write_interrupted(run, message, exit_code, disk)
    except DiskFailed:
        remove_folder(run.folders.staging)  # results that could not be written whole
        try:
            # promise: C5 a stopped run can write its summary even after the disk was full
            disk.remove(room)
        except OSError as error:
            raise DiskFailed(f"cannot remove {room}: {error.strerror}") from None
        write_interrupted(run, message, exit_code, disk)
