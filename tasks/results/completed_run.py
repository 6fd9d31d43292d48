"""What a run gives to the Python code that called it: the summary, and the rows of its results.

run = complete_prompts("job.yaml")
print(run.summary["rows"]["ok"], run.cost_usd)
frame = run.to_pandas()
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from parquill.tasks.errors import BadInput
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.results.summary_type import Summary
from parquill.tasks.storage.disk import read_json
from parquill.tasks.storage.folders import Folders, local_output
from parquill.tasks.storage.published import Parts, latest_summary, parts_of, result_table
from parquill.tasks.storage.uri import is_uri

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class CompletedRun:
    """A run and its results: `summary` as in summary.json, `output` as an absolute path or a URI."""

    run_id: str
    output: str
    summary: Summary = field(repr=False)
    _folder: Path = field(repr=False)  # where the results are on this machine

    @classmethod
    def of(cls, job: ResolvedJob, summary: Mapping[str, Any]) -> CompletedRun:
        """Return the run that the results of a job are of; `summary` is empty if its file was removed."""
        folders = Folders.of(job.output, job.state)
        manifest = read_json(folders.meta / "manifest.json") or summary
        return cls(manifest["run_id"], job.output, cast("Summary", summary), folders.output)

    @classmethod
    def load(cls, output: str | os.PathLike[str]) -> CompletedRun:
        """Return the latest run of an output, a folder or a URI; also one that ended with an error.

        Raises BadInput if no run has begun there.
        """
        named = os.fspath(output)
        folder = local_output(named)
        if is_uri(named) and not (folder / "summary.json").exists():
            from parquill.tasks.storage.publish import stored_summary  # the store's libraries take a while

            summary = stored_summary(named)
        else:
            summary = latest_summary(folder)
        return cls(
            summary["run_id"], named if is_uri(named) else str(folder.resolve()), cast("Summary", summary), folder
        )

    @property
    def cost_usd(self) -> Decimal:
        """The sum of the column `cost_usd` over the rows of this run, in dollars; exact."""
        return Decimal(self.summary["cost_usd"])

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of the results in input order: all columns, or those named.

        Raises BadInput if a column does not exist, if there are no results, or if those of another run are there now;
        DiskFailed if a file is damaged.
        """
        return result_table(self._parts(), columns)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the rows of the results as a DataFrame, in input order, with a new index from 0.

        `cost_usd` and `in_doubt_usd` hold `Decimal` objects, so their sum is exact; a column of integers with nulls
        holds floats. Raises what `to_arrow` raises.
        """
        # the input's own metadata may name an index, which is a column here whatever the input was
        frame: pd.DataFrame = self.to_arrow(columns).to_pandas(ignore_metadata=True)
        return frame

    def _parts(self) -> Parts:
        if is_uri(self.output) and not (self._folder / ".parquill" / "manifest.json").exists():
            from parquill.tasks.storage.publish import stored_parts

            return stored_parts(self.output)
        manifest = read_json(self._folder / ".parquill" / "manifest.json") or {}
        # promise: api: a result never returns the rows of another run
        if manifest.get("run_id", self.run_id) != self.run_id:
            raise BadInput(f"the results in {self.output} are those of run {manifest['run_id']}, not of {self.run_id}")
        return parts_of(self._folder)
