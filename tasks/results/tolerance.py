"""How rows that are not ok end a run, and a start that finds nothing to do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from parquill.tasks.errors import ParquillError, TooManyNotOk
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.results.result_batch import ShownRow
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.folders import Folders


def check_not_ok(
    job: ResolvedJob, rows: Mapping[str, int], counts: Mapping[str, int], first: ShownRow | None = None
) -> TooManyNotOk | None:
    """Return the error of a finished run if more rows are not ok than tolerated, or None.

    `counts` has their number by status or code. `first` is one of them: its reason is shown.
    """
    not_ok = rows["total"] - rows["ok"]
    if not_ok <= Decimal(str(job.tolerate.not_ok)) * rows["total"]:
        return None
    reason = ""
    if first is not None:
        reason = f". The first is row {first.row_number:,} of {first.source_file}: {first.error_message}"
    return TooManyNotOk(
        f"{not_ok:,} of {rows['total']:,} rows are not ok ({_listed(counts)}), more than tolerate.not_ok = "
        f"{job.tolerate.not_ok} allows; `parquill report --failed {shlex.quote(job.output)}` lists them{reason}"
    )


def warn_of_not_ok(job: ResolvedJob, rows: Mapping[str, int], counts: Mapping[str, int]) -> str | None:
    """Return the warning of a run that ends well with some rows that are not ok; None if all are ok."""
    not_ok = rows["total"] - rows["ok"]
    if not not_ok:
        return None
    return (
        f"warning: {not_ok:,} of {rows['total']:,} rows are not ok ({_listed(counts)}), which tolerate.not_ok = "
        f"{job.tolerate.not_ok} allows"
    )


@dataclass(frozen=True, slots=True)
class NothingToDo:
    """The end of a start that finds nothing to do: it costs nothing, and its error depends on the existing results.

    `rows` counts those results by status; `summary` is that of the run that wrote them, empty if it was removed.
    """

    rows: dict[str, int]
    summary: dict[str, Any]
    sentence: str
    error: ParquillError | None

    @classmethod
    def of(cls, job: ResolvedJob, redo: Sequence[str] = (), limit: int | None = None) -> NothingToDo:
        """Judge the results of a job by what it tolerates now; `redo` and `limit` are those of the start."""
        folders = Folders.of(job.output, job.state)
        manifest = read_json(folders.meta / "manifest.json") or {}
        rows: dict[str, int] = manifest["rows"]
        by_status = {status: count for status, count in rows.items() if count and status != "total"}
        not_ok = {status: count for status, count in by_status.items() if status != "ok"}
        done = f"all {rows['total']:,} rows have their outcome already ({_listed(by_status)})"
        if redo or (limit is not None and limit < rows["total"]):
            wanted = f"is {' or '.join(redo)}" if redo else "lacks its outcome"
            first = "" if limit is None else f" of the first {limit:,}"
            done = f"no row{first} {wanted} ({_listed(by_status)} of {rows['total']:,})"
        nothing = f"nothing to {'redo' if redo else 'do'}"
        # promise: results: a start with an empty input says that it has no rows
        sentence = f"{nothing}: {done if rows['total'] else 'the input has no rows'}"
        # promise: P5 a start with nothing to do fails if its results exceed the tolerance
        error = check_not_ok(job, rows, not_ok)
        if error is not None:
            help_ = f"; {done}" if redo else ", --redo sends them again"
            error = TooManyNotOk(f"{nothing}, and nothing was sent: {error}{help_}")
        summary = read_json(folders.output / "summary.json") or {}
        if summary.get("run_id") != manifest.get("run_id"):  # another job's run was cut off here since
            summary = read_json(folders.output / "history" / f"{manifest.get('run_id')}.json") or {}
        return cls(rows, summary, f"{sentence}; nothing was sent, $0", error)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
