"""Which of the existing results a start keeps: with `--redo`, and with a `--limit` below their number of rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from parquill.tasks.errors import BadInput, OtherRows
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.prompts.previous import PreviousResults
from parquill.tasks.prompts.run import digest_of
from parquill.tasks.prompts.source import Source
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.folders import Folders


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one start of a job: `day` for dates in paths and for prices, a row limit, statuses to redo."""

    day: date
    limit: int | None = None
    redo: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Base:
    """The results that a plan starts from (None: no results), and how many rows of the input it reads (None: all).

    Rows of the input after `open_rows` are always kept. Of the others, rows whose status is not in `redo` are kept, or,
    if `redo` is empty, rows that have their outcome. `keeps_digest` says that the results are complete after the run if
    they were before.
    """

    options: RunOptions
    output: str
    shown: int  # input rows in the results
    previous: PreviousResults | None = None
    rows: int | None = None
    open_rows: int | None = None
    keeps_digest: bool = False

    @property
    def kept(self) -> tuple[PreviousResults | None, frozenset[str], int | None]:
        """The arguments for a Planner: previous results, statuses to redo, open rows."""
        return self.previous, frozenset(self.options.redo), self.open_rows

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn the refusal of results of another input into BadInput with advice. Raises BadInput."""
        try:
            yield
        except OtherRows:
            if self.options.redo:
                raise
            raise _other_input(self.options, self.output, self.shown) from None


def _other_input(options: RunOptions, output: str, shown: int) -> BadInput:
    return BadInput(
        f"{output} has results of {shown:,} rows of another input, and --limit {options.limit} would lose them: run "
        "without --limit, or choose another `output`"
    )


def find_base(job: ResolvedJob, options: RunOptions, source: Source) -> Base:
    """Return what a start of a job begins with. Raises BadInput."""
    folders = Folders.of(job.output, job.state)
    manifest = read_json(folders.meta / "manifest.json") or {}
    combinations = math.prod(len(values) for values in (job.for_each or {}).values())
    shown = (manifest.get("rows") or {}).get("total", 0) // combinations
    is_smaller = options.limit is not None and options.limit < shown
    # promise: rerun: a smaller `--limit` keeps the rows beyond it
    if not options.redo and not is_smaller:
        return Base(options, job.output, shown, rows=options.limit)
    try:
        previous = PreviousResults(folders, job, [*source.schema.names, *(job.for_each or {})])
    except OtherRows:
        if options.redo:
            raise
        raise _other_input(options, job.output, shown) from None
    return Base(
        options,
        job.output,
        shown,
        previous,
        # promise: rerun: `--redo` with `--limit` keeps the rows beyond the limit
        rows=shown if is_smaller else options.limit,
        open_rows=options.limit,
        # `--redo` may keep results of other settings: a plain run after it must still see that
        # promise: rerun: results of other settings that `--limit` keeps do not count as current
        keeps_digest=bool(options.redo) or manifest["digest"] == digest_of(job, source.fingerprint, None),
    )
