"""A small job in which everything happens; it runs without Prefect and without a socket, hundreds of times."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from parquill.tasks.job.load import make_job
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.storage.disk import DISK, Disk
from parquill.tasks.storage.folders import Folders
from tests.tools.answering import Answering
from tests.tools.direct import job_of, results, run_steps
from tests.tools.disks import Image, photograph, to_folder

AT_ONCE = 2
OLD = ["first", "second"]
# new rows, rows with results, equal rows, an answer that is cut off
TEXTS = ["first", *(f"new {n}" for n in range(5)), "second", "same", "same", "a long one"]
# What a crash may change in a row: the run that paid, what is in doubt, and the times.
MAY_DIFFER = ("run_id", "attempts", "latency_s", "request_id", "finished_at", "in_doubt_usd")


@dataclass
class SmallJob:
    """A job with results over an input that has grown since; `before` is the content of its output."""

    root: Path
    settings: dict[str, Any]
    before: Image
    wanted: list[dict[str, Any]]  # the rows of an undisturbed run

    @classmethod
    def make(cls, folder: Path) -> SmallJob:
        """Run the job over its old input, write the new input, and keep the rows of an undisturbed run of it."""
        limits = {"max_at_once": AT_ONCE}
        settings = job_of(folder, OLD, "http://127.0.0.1:9/v1", limits=limits, tolerate={"not_ok": 1})
        root = Path(settings["output"])
        service = Answering()
        run_steps(settings, transport=service.open)
        settings = job_of(folder, TEXTS, "http://127.0.0.1:9/v1", limits=limits, tolerate={"not_ok": 1})
        before = photograph(root)
        run_steps(settings, transport=service.open)
        assert service.billed == Counter(set(TEXTS))
        job = cls(root, settings, before, stripped(results(settings)))
        to_folder(before, root)
        return job

    def start(self, disk: Disk = DISK) -> Answering:
        """Run the job; return the service."""
        service = Answering()
        self.run(service, disk)
        return service

    def run(self, service: Answering, disk: Disk = DISK) -> None:
        """Run the job against a service. Raises what ends the run."""
        run_steps(self.settings, transport=service.open, disk=disk)

    def planned(self) -> Run:
        """Return its run in the state in which a kill just before sending leaves it."""
        placed, options = resolve_job(make_job(self.settings), None, None, None)
        Folders.of(placed.output, placed.state).create()
        run = prepare_run(placed, options)
        assert run is not None
        return run

    def check_resume(self, billed: Counter[str]) -> None:
        """Start the job on a healthy disk, after `billed` was paid since `before`: it ends as if undisturbed."""
        bills = billed + self.start().billed
        assert stripped(results(self.settings)) == self.wanted
        assert set(bills) == set(TEXTS) - set(OLD)
        twice = {prompt for prompt, times in bills.items() if times > 1}
        assert len(twice) <= AT_ONCE, f"paid twice: {twice}"
        assert max(bills.values()) <= 2
        doubtful = {row["text"] for row in results(self.settings) if row["in_doubt_usd"]}
        assert twice <= doubtful, f"paid twice, and not in doubt: {twice - doubtful}"
        self.check_tidy()
        assert self.start().billed == Counter(), "a finished job sends nothing"

    def check_tidy(self) -> None:
        """Check that nothing is left half written, and that prompts are only in input and results."""
        names = [path.name for path in self.root.rglob("*")]
        assert not [name for name in names if name.endswith(".tmp") or name.startswith(".probe")]
        left = {"staging", "replaced", "current.json", "shards", "seen.sqlite"} & set(names)
        assert not left, left

    def check_reader(self) -> None:
        """Check that a reader now sees whole results: all the old rows, all the new rows, or none."""
        found = Path(self.settings["output"]) / "results"
        if found.exists():
            rows = sum(pq.read_table(path).num_rows for path in found.glob("*.parquet"))
            assert rows in {len(OLD), len(TEXTS)}


def stripped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without what a crash may change."""
    return [{name: value for name, value in row.items() if name not in MAY_DIFFER} for row in rows]
