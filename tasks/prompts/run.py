"""One run on disk: its plan, which never changes, and the settings with which it resumes, which may.

Settings that change requests or their cost are in the plan's digest: a change makes a new run, which reuses every
answer with the same key. The others (budget, limits, engine, retry and the like) may change between an interruption and
the next start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import orjson
import rfc8785

from parquill.tasks.errors import DamagedJournal, DiskFailed
from parquill.tasks.job.finish_by import finish_time
from parquill.tasks.job.lanes import LaneName, lane_of
from parquill.tasks.job.resolved import ResolvedJob
from parquill.tasks.money.calibration import Calibration
from parquill.tasks.money.model_price import ModelPrice
from parquill.tasks.prompts.shards import ShardReader
from parquill.tasks.records import Estimate, ShardRef, Totals
from parquill.tasks.storage.batch_state import BatchState
from parquill.tasks.storage.boot_clock import Moment
from parquill.tasks.storage.disk import DISK, Disk, damaged, read_json
from parquill.tasks.storage.folders import Folders, RunFolder
from parquill.tasks.storage.replay import ShardState, replay_shard

_OPERATIONAL = {
    "name",
    "output",
    "state",
    "timezone",
    "finish_by",
    "budget",
    "limits",
    "engine",
    "retry",
    "tolerate",
    "price_as",
    "labels",
}


def digest_of(job: ResolvedJob, fingerprint: str, limit: int | None) -> str:
    """Return the digest of a plan: of the input's files and all settings that change requests, prices or the output."""
    settings = job.model_dump(mode="json", exclude=_OPERATIONAL)
    settings["endpoint"] = {"name": job.endpoint.identity, "api": job.endpoint.api}
    del settings["endpoints"]
    if job.endpoints is not None:
        # what the prices of the plan follow from; keys, weights and limits may change
        # promise: endpoints: a run of other endpoints is another run, with their prices
        settings["endpoints"] = [
            [each.endpoint.base_url, each.model, each.model_dump(mode="json", include={"price"})]
            for each in job.each_endpoint
        ]
    # orjson first: it gives a clear error for values that JSON cannot hold, and turns dates and the like into text
    whole = orjson.loads(orjson.dumps({"settings": settings, "input": fingerprint, "limit": limit}, default=str))
    return hashlib.sha256(rfc8785.dumps(whole)).hexdigest()


@dataclass(frozen=True, slots=True)
class Run:
    """One plan and its progress. Any process can load it by (state, run_id)."""

    run_id: str
    job: ResolvedJob
    day: date
    digest: str
    redo: tuple[str, ...]
    shards: tuple[ShardRef, ...]
    estimate: Estimate
    price: ModelPrice
    started_at: datetime
    input_rows: int
    correction: Calibration | None = None  # of an approximate token count, as it was when the plan was made
    began: Moment | None = None  # when it was planned, by a clock that no user can set
    keeps_digest: bool = False  # whether the results keep the digest that they had before
    known_journals: str = ""  # a digest of the other runs' journals when the plan was made

    @property
    def lane(self) -> LaneName:
        """The lane in which the run buys; with `lane: auto` the cheap one."""
        return lane_of(self.price.asked)

    @property
    def finish_at(self) -> datetime | None:
        """When the run is to be done by its `finish_by`, in the job's time zone; None if it is in no hurry."""
        job = self.job
        return None if job.finish_by is None else finish_time(job.finish_by, self.started_at, job.zone)

    @property
    def folders(self) -> Folders:
        """The folders of the run's state and output."""
        return Folders.of(self.job.output, self.job.state)

    @property
    def folder(self) -> RunFolder:
        """The run's own files."""
        return self.folders.run(self.run_id)

    def save(self, disk: Disk = DISK) -> None:
        """Write the settings and the plan; once the plan is written, the run exists. Raises DiskFailed."""
        plan: dict[str, Any] = asdict(self)
        del plan["job"]
        plan["plan"] = 1
        # shards first: the plan implies that they are whole
        for folder in (self.folder.path / "shards", self.folder.path):
            # promise: C1 the folder that lists the shards is synced before the plan is written
            _sync(folder, disk)
        self.save_job(disk)
        disk.write_own(self.folder.plan, plan)

    def save_job(self, disk: Disk = DISK) -> None:
        """Write the settings with which the run resumes."""
        disk.write_own(self.folder.path / "job.json", self.job.model_dump(mode="json"))

    def open_shard(self, shard: ShardRef) -> ShardReader:
        """Open the planned rows of a shard. Raises DiskFailed if its file is not what was written."""
        advice = f"; remove {self.folders.meta / 'current.json'} and run again; answers are kept"
        return ShardReader(self.folder.shard(shard.number), shard.crc32, advice)

    def state(self, shard: int) -> ShardState:
        """Return the state of a shard by its journal. Raises DamagedJournal, also if the journal has disappeared."""
        self.check_journal(shard)
        return replay_shard(self.folder.journal(shard))

    def check_journal(self, shard: int) -> None:
        """Refuse to continue if the journal of a shard has disappeared (DamagedJournal)."""
        journal = self.folder.journal(shard)
        if not journal.exists() and (self.folder.begun(shard).exists() or self.folder.done(shard).exists()):
            raise self._lost(journal)

    def check_journals(self) -> None:
        """Refuse to continue if any journal of the run has disappeared (DamagedJournal)."""
        lost = self.folder.lost_journals()
        if lost:
            raise self._lost(lost[0])

    def _lost(self, journal: Path) -> DamagedJournal:
        return DamagedJournal(
            f"{journal} is missing; it records what the run {self.run_id} has paid for. Restore it from a backup; to "
            f"pay for its rows again, remove {self.folders.meta / 'current.json'}"
        )

    def mark_begun(self, shard: int, disk: Disk = DISK) -> None:
        """Record that a shard has its journal, before anything is sent for it. Raises DiskFailed."""
        if not self.folder.begun(shard).exists():
            disk.write_own(self.folder.begun(shard), {"shard": shard})

    def is_done(self, shard: ShardRef) -> bool:
        """Whether every row of the shard that was to be sent has its outcome."""
        return shard.to_send == 0 or self.folder.done(shard.number).exists()

    def finish_shard(self, shard: ShardRef, state: ShardState, disk: Disk = DISK) -> None:
        """Write the totals of a shard whose rows all have an outcome."""
        disk.write_own(self.folder.done(shard.number), state.totals().to_json())

    def totals_of(self, shard: ShardRef) -> Totals:
        """Return requests, money and tokens of a shard so far: by its totals if it is done, else by its journal."""
        done = done_totals(self.folder, shard)
        return self.state(shard.number).totals() if done is None else done

    @property
    def open_batches(self) -> int:
        """How many batches this run has made and not collected. Raises DamagedJournal, DiskFailed."""
        if not (self.folder.path / "batches").exists():
            return 0
        return sum(len(self.batches_of(shard)) for shard in self.shards)

    def batches_of(self, shard: ShardRef) -> list[BatchState]:
        """Return the batches of a shard that are not collected. Raises DamagedJournal, DiskFailed."""
        return [] if self.is_done(shard) else list(self.state(shard.number).batches.values())

    def totals(self) -> Totals:
        """Return requests, money and tokens of the run so far."""
        total = Totals()
        for shard in self.shards:
            total.add(self.totals_of(shard))
        return total


def done_totals(folder: RunFolder, shard: ShardRef) -> Totals | None:
    """Return the totals of a shard in which every row has its outcome; None for any other. Raises DiskFailed."""
    if shard.to_send == 0:  # such a shard has no journal and no mark that it is done
        return Totals()
    done = read_json(folder.done(shard.number))
    return None if done is None else Totals.from_json(done)


def _sync(folder: Path, disk: Disk) -> None:
    try:
        disk.sync_folder(folder)
    except OSError as error:
        raise DiskFailed(f"cannot write into {folder}: {error.strerror}") from None


def load_run(state: Path, run_id: str) -> Run:
    """Read a run from its state folder. Raises DiskFailed."""
    folder = RunFolder(state / "runs" / run_id)
    plan, settings = read_json(folder.plan), read_json(folder.path / "job.json")
    if plan is None or settings is None:
        raise DiskFailed(f"the run {run_id} is not in {state}")
    try:
        return _run_of(run_id, plan, settings)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise damaged(folder.plan) from None


def _run_of(run_id: str, plan: dict[str, Any], settings: dict[str, Any]) -> Run:
    return Run(
        run_id=run_id,
        job=ResolvedJob.model_validate(settings),
        day=date.fromisoformat(plan["day"]),
        digest=plan["digest"],
        redo=tuple(plan["redo"]),
        shards=tuple(ShardRef(**shard) for shard in plan["shards"]),
        estimate=Estimate(**plan["estimate"]),
        price=ModelPrice.from_json(plan["price"]),
        started_at=datetime.fromisoformat(plan["started_at"]),
        input_rows=plan["input_rows"],
        correction=Calibration.from_json(learned) if (learned := plan.get("correction")) else None,
        began=Moment(**began) if (began := plan.get("began")) else None,
        keeps_digest=plan.get("keeps_digest", False),
        known_journals=plan.get("known_journals", ""),
    )


def current_run(folders: Folders) -> Run | None:
    """Return the run of this output that is under way or was cut off, if any."""
    current = read_json(folders.meta / "current.json")
    if current is None or not folders.run(current["run_id"]).plan.exists():
        return None
    return load_run(folders.state, current["run_id"])


def sum_shards(shards: Sequence[ShardRef]) -> tuple[int, int]:
    """Return (rows, rows to send) of shards."""
    return sum(s.rows for s in shards), sum(s.to_send for s in shards)
