"""The folders of a job: the process that holds them, the run under way, the files of a run.

STATE/                            (default OUTPUT/.parquill)
  lock                            held during a run; names the holder
  answers.sqlite                  index of every answer ever paid, rebuilt from the journals if it is lost
  runs/RUN_ID/plan.json           written last, when the plan is complete
  runs/RUN_ID/shards/*.parquet    input columns and rendered requests
  runs/RUN_ID/journals/*.journal  intents and outcomes: the truth about money
  runs/RUN_ID/begun/*.json        which shards had a journal
  runs/RUN_ID/done/*.json         totals of each finished shard
  runs/RUN_ID/leader, workers     during sending: locked by the process that leads the run, and by those that joined
  tables/*.parquet                tables that Python code gave as input, see kept_table.py
OUTPUT/.parquill/
  lock, current.json (the run under way), manifest.json (the parts that belong together)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from parquill.tasks.errors import BadJob, DiskFailed, FolderInUse
from parquill.tasks.storage.disk import DISK, TEMPORARY, Disk, private_folder, read_json, remove_folder, sweep
from parquill.tasks.storage.uri import is_uri, local_mirror

CLOSED_AFTER_NS = 3_600 * 10**9  # an hour


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run in a state folder."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's id, which sorts by time, see `new_run_id`."""
        return self.path.name

    @property
    def plan(self) -> Path:
        """The plan; a run without one was interrupted before it sent anything."""
        return self.path / "plan.json"

    def shard(self, number: int) -> Path:
        """The rows and requests of a shard."""
        return self.path / "shards" / f"{number:06d}.parquet"

    def journal(self, number: int) -> Path:
        """The journal of a shard."""
        return self.path / "journals" / f"{number:06d}.journal"

    def begun(self, number: int) -> Path:
        """The mark that a shard has a journal, written before its first request: a missing journal is noticed."""
        return self.path / "begun" / f"{number:06d}.json"

    def done(self, number: int) -> Path:
        """The totals of a finished shard."""
        return self.path / "done" / f"{number:06d}.json"

    @property
    def leader_lock(self) -> Path:
        """The file that the process that leads the run locks, see run_lock.py."""
        return self.path / "leader"

    @property
    def workers_lock(self) -> Path:
        """The file that the processes that joined the run lock, see run_lock.py."""
        return self.path / "workers"

    def create(self, disk: Disk = DISK) -> None:
        """Create the folders (0700). Raises DiskFailed."""
        for folder in (self.path.parent, self.path, *(self.path / n for n in ("shards", "journals", "begun", "done"))):
            private_folder(folder, disk)

    @property
    def has_begun(self) -> bool:
        """Whether the run may have sent something."""
        return any((self.path / "begun").glob("*.json"))

    def lost_journals(self) -> list[Path]:
        """The journals that the run had and that are missing now."""
        numbers = {int(mark.stem) for name in ("begun", "done") for mark in (self.path / name).glob("*.json")}
        return [path for number in sorted(numbers) if not (path := self.journal(number)).exists()]

    def has_journals(self) -> bool:
        """Whether any journal is there."""
        try:
            with os.scandir(self.path / "journals") as entries:
                return any(entry.name.endswith(".journal") for entry in entries)
        except FileNotFoundError:
            return False

    def closed_ns(self, now_ns: int) -> int | None:
        """When the last journal was created or removed, if no process writes any of them any more; else None.

        A run has shards until its end, and a workers' lock while processes that joined it are at work. Answers that
        are restored from results are written within minutes.
        """
        # promise: history: a run that still has shards is not closed
        if (self.path / "shards").exists() or self.workers_lock.exists():
            return None
        try:
            changed_ns = (self.path / "journals").stat().st_mtime_ns
        except FileNotFoundError:
            return None
        return changed_ns if now_ns - changed_ns > CLOSED_AFTER_NS else None

    def discard(self, disk: Disk = DISK) -> None:
        """Remove a run that has sent nothing, its plan first: without a plan it is not a run. Raises DiskFailed."""
        try:
            if self.plan.exists():
                # promise: C4 discarding a run removes its plan first
                disk.remove(self.plan)
                disk.sync_folder(self.path)
        except OSError as error:
            raise DiskFailed(f"cannot remove {self.path}: {error.strerror}") from None
        remove_folder(self.path)


def local_output(named: str, state: str | None = None) -> Path:
    """Return the folder of an output; for a URI, the local folder that is copied there."""
    if not is_uri(named):
        return Path(named)
    usual = local_mirror(named)
    # promise: stores: a machine that shares the state folder resumes another machine's run
    return usual if state in {None, str(usual / ".parquill")} else local_mirror(named, state)


def _check_resolve(setting: str, folder: Path) -> None:
    """Refuse a place where no folder can be created or written, before anything else is done. Raises BadJob."""
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    except OSError as error:  # for example, a name that is too long
        raise BadJob(f"`{setting}`: {str(folder)[:200]} cannot be used: {error.strerror}") from None
    # promise: input: an output or state path that is not a folder is refused
    if not there.is_dir():
        raise BadJob(f"`{setting}`: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadJob(f"`{setting}`: {there} cannot be written")


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a job keeps its state and its output."""

    state: Path
    output: Path
    output_uri: str  # the job's `output`: where users look; for a URI, `output` is the local folder behind it

    @classmethod
    def of(cls, output: str, state: str | None) -> Folders:
        """The folders of a job's `output` and `state`."""
        folder = local_output(output, state)
        return cls(Path(state) if state else folder / ".parquill", folder, output)

    @property
    def meta(self) -> Path:
        """Parquill's folder inside the output."""
        return self.output / ".parquill"

    def run(self, run_id: str) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.state / "runs" / run_id)

    def runs(self) -> list[RunFolder]:
        """All runs of the state folder, oldest first."""
        folder = self.state / "runs"
        return [RunFolder(p) for p in sorted(folder.iterdir())] if folder.is_dir() else []

    @property
    def staging(self) -> Path:
        """Where results are written before they are moved into place."""
        return self.meta / "staging"

    @property
    def replaced(self) -> Path:
        """Where the earlier results go while new ones are moved into place."""
        return self.meta / "replaced"

    def create(self, disk: Disk = DISK) -> None:
        """Create output and state, and check that both can be written. Raises BadJob, DiskFailed."""
        _check_resolve("output", self.output)
        _check_resolve("state", self.state)
        disk.make_folder(self.output)
        for folder in sorted({self.meta, self.state}):
            private_folder(folder, disk)
            # a unique name: other processes may probe at the same time, and the folder's holder may sweep it
            probe = folder / f".probe-{secrets.token_hex(8)}{TEMPORARY}"
            try:
                probe.write_bytes(b"")
                probe.unlink(missing_ok=True)
            except OSError as error:
                raise DiskFailed(f"cannot write into {folder}: {error.strerror}") from None

    def recover(self, disk: Disk = DISK) -> None:
        """Clean up after a killed process: remove half-written files, and put back results that it moved away.

        The caller holds the folders. Raises DiskFailed; BadJob if the results could not be moved into place later, when
        everything is paid.
        """
        results = self.output / "results"
        # promise: results: an output whose results cannot be swapped by a rename is refused
        if results.is_symlink() or self.meta.stat().st_dev != self.output.stat().st_dev:
            raise BadJob(
                f"{results} and {self.meta} must be folders on one disk, because results are moved into place with one "
                f"rename; to keep them elsewhere, make {self.output} itself a link"
            )
        if self.replaced.exists() and not results.exists():
            try:
                # promise: C3 the next start restores results that an interrupted swap moved away
                disk.rename(self.replaced, results)
            except OSError as error:
                raise DiskFailed(f"cannot put the results back into {results}: {error.strerror}") from None
        # promise: C3 the next start removes folders of parts that a killed process left
        for folder in (self.staging, self.replaced):
            remove_folder(folder)
        # promise: C3 the next start removes temporary files that a killed process left
        for folder in (self.output, self.output / "history", self.meta, self.state):
            sweep(folder)
        self.delete_stale_shards()

    def delete_stale_shards(self) -> None:
        """Remove the shards of every abandoned run of this output, since they hold prompts."""
        current = read_json(self.meta / "current.json") or {}
        for run in self.runs():
            if (run.path / "shards").is_dir():  # not finished, or killed before it had cleaned up
                sweep(run.path)
                sweep(run.path / "done")
                settings = read_json(run.path / "job.json") or {}
                if settings.get("output") == self.output_uri and run.run_id != current.get("run_id"):
                    remove_folder(run.path / "shards")


def new_run_id(now: datetime) -> str:
    """A run id that sorts by time, also within a second: UTC, part of the second, random; 20261123-051448-k3fqab."""
    letters = "23456789abcdefghjkmnpqrstuvwxyz"  # ascending, so that names sort as their numbers do
    base, part = len(letters), now.microsecond * len(letters) ** 3 // 1_000_000
    fine = "".join(letters[part // base**digit % base] for digit in (2, 1, 0))
    return f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{fine}{''.join(secrets.choice(letters) for _ in range(3))}"


_locks: dict[Path, tuple[int, int]] = {}  # lock file -> (descriptor, number of nested holds)
_mutex = threading.Lock()
# The lock files that the current flow holds. Another flow of this process, in another thread or task, is another holder
_held_here: ContextVar[frozenset[Path]] = ContextVar("parquill-held", default=frozenset())


@contextlib.contextmanager
def lock_folders(folders: Folders, who: str) -> Iterator[None]:
    """Hold the output and the state folder. Holds nest: the flow of a command shares the command's hold.

    These are kernel locks, so they end with the process that holds them. Raises FolderInUse, which names the holder.
    """
    before = _held_here.get()
    with contextlib.ExitStack() as stack:
        for folder in sorted({folders.meta, folders.state}):
            _acquire(folder / "lock", folder, who)
            stack.callback(_release, folder / "lock")
        _held_here.set(before | {folders.meta / "lock", folders.state / "lock"})
        stack.callback(_held_here.set, before)
        yield


def _acquire(path: Path, folder: Path, who: str) -> None:
    with _mutex:
        # promise: C6 two flows in one process never hold the same folder
        if path in _held_here.get():
            descriptor, times = _locks[path]
            _locks[path] = (descriptor, times + 1)
            return
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DiskFailed(f"cannot open {path}: {error.strerror}") from None
        try:
            # promise: C6 only one run at a time holds an output or state folder
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # promise: C6 the error for a folder in use names the run that holds it
            holder = _holder(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise FolderInUse(
                f"the folder {folder} is in use by {holder}; wait until it ends, or choose another folder"
            ) from None
        except OSError as error:  # a file system without locks
            os.close(descriptor)
            raise DiskFailed(f"cannot lock {path}: {error.strerror}") from None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        text = orjson.dumps({"who": who, "process": os.getpid(), "host": socket.gethostname(), "since": now})
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text, 0)
        except OSError as error:
            os.close(descriptor)
            raise DiskFailed(f"cannot write {path}: {error.strerror}") from None
        _locks[path] = (descriptor, 1)


def _holder(text: bytes) -> str:
    try:
        found = orjson.loads(text)
        return f"{found['who']} (process {found['process']} on {found['host']}, since {found['since']})"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "another run"


def _forget_in_child() -> None:
    """Close a forked child's copies: they would hold the folders after the death of the parent."""
    global _mutex  # noqa: PLW0603 - another thread may have held it at the fork
    _mutex = threading.Lock()
    # promise: C6 a forked child process does not keep its parent's folders locked
    for descriptor, _ in _locks.values():
        os.close(descriptor)
    _locks.clear()
    _held_here.set(frozenset())


os.register_at_fork(after_in_child=_forget_in_child)


def _release(path: Path) -> None:
    with _mutex:
        if path not in _locks:  # in a forked child
            return
        descriptor, times = _locks[path]
        if times > 1:
            _locks[path] = (descriptor, times - 1)
            return
        del _locks[path]
        os.close(descriptor)
