"""What a start leaves of the results that are there: with `--redo`, and with a `--limit` below their rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from parquill.tasks.errors import BadInput, OtherRows
from parquill.tasks.job.settings import Job
from parquill.tasks.prompts.previous import PreviousResults
from parquill.tasks.prompts.run import digest_of
from parquill.tasks.prompts.source import Source
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.folders import Folders


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What is chosen for one start of a job: `day` for dates in paths and prices, a row limit, statuses to redo."""

    day: date
    limit: int | None = None
    redo: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Base:
    """The results that a plan begins with, None for none, and how many rows of the input it reads (None: all).

    Rows of the input after `open_rows` are kept, whatever they are; of the others those that have no status of `redo`,
    or, without one, those that have their outcome. `keeps_digest` says that the results are complete after it if they
    were before.
    """

    options: RunOptions
    output: str
    shown: int  # rows of the input that the results have
    previous: PreviousResults | None = None
    rows: int | None = None
    open_rows: int | None = None
    keeps_digest: bool = False

    @property
    def kept(self) -> tuple[PreviousResults | None, frozenset[str], int | None]:
        """What a Planner is given of it."""
        return self.previous, frozenset(self.options.redo), self.open_rows

    @contextlib.contextmanager
    def refusals(self) -> Iterator[None]:
        """Say what to do about results of another input. Raises BadInput."""
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


def find_base(job: Job, options: RunOptions, source: Source) -> Base:
    """What a start of a placed job begins with. Raises BadInput."""
    folders = Folders.of(job.output, job.state)
    manifest = read_json(folders.meta / "manifest.json") or {}
    combinations = math.prod(len(values) for values in (job.for_each or {}).values())
    shown = (manifest.get("rows") or {}).get("total", 0) // combinations
    is_smaller = options.limit is not None and options.limit < shown
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
        rows=shown if is_smaller else options.limit,
        open_rows=options.limit,
        # what `--redo` keeps may be of other settings: a plain run after it must still see that
        keeps_digest=bool(options.redo) or manifest["digest"] == digest_of(job, source.fingerprint, None),
    )
