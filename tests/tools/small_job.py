"""A small job in which everything happens, run without Prefect and without a socket, hundreds of times."""

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
# new rows, a row that is there already, equal rows, an answer that is cut off
TEXTS = ["first", *(f"new {n}" for n in range(5)), "second", "same", "same", "a long one"]
# What a crash may change in a row: who paid, what is in doubt, and when.
MAY_DIFFER = ("run_id", "attempts", "latency_s", "request_id", "finished_at", "in_doubt_usd")


@dataclass
class SmallJob:
    """A job whose results are there already, over an input that has grown since: `before` is its output as it is."""

    root: Path
    settings: dict[str, Any]
    before: Image
    wanted: list[dict[str, Any]]  # the rows of an undisturbed run

    @classmethod
    def make(cls, folder: Path) -> SmallJob:
        """Run the job over its old input, write the new one, and see what an undisturbed run of it gives."""
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
        """Run it; gives the service."""
        service = Answering()
        self.run(service, disk)
        return service

    def run(self, service: Answering, disk: Disk = DISK) -> None:
        """Run it against a service. Raises what ends it."""
        run_steps(self.settings, transport=service.open, disk=disk)

    def planned(self) -> Run:
        """It as it is when the process is killed just before it sends."""
        placed, options = resolve_job(make_job(self.settings), None, None, None)
        Folders.of(placed.output, placed.state).create()
        run = prepare_run(placed, options)
        assert run is not None
        return run

    def check_resume(self, billed: Counter[str]) -> None:
        """Start it again on a healthy disk, of which `billed` was paid since `before`: it ends as if undisturbed."""
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
        """Nothing half written is left, and no prompt outside of input and results."""
        names = [path.name for path in self.root.rglob("*")]
        assert not [name for name in names if name.endswith(".tmp") or name.startswith(".probe")]
        left = {"staging", "replaced", "current.json", "shards", "seen.sqlite"} & set(names)
        assert not left, left

    def check_reader(self) -> None:
        """What a reader sees now is whole: all the old rows, all the new rows, or none."""
        found = Path(self.settings["output"]) / "results"
        if found.exists():
            rows = sum(pq.read_table(path).num_rows for path in found.glob("*.parquet"))
            assert rows in {len(OLD), len(TEXTS)}


def stripped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what a crash may change."""
    return [{name: value for name, value in row.items() if name not in MAY_DIFFER} for row in rows]
