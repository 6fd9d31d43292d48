"""Crash: whatever is killed, cut off or full, at any moment, a paid answer is kept, and outputs are whole."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import DiskFailed, Interrupted
from parquill.tasks.job.load import make_job
from parquill.tasks.llm.open_senders import complete_in_this_process, open_sender, open_senders
from parquill.tasks.llm.run_sender import RunSender
from parquill.tasks.money.amounts import femto_to_nano
from parquill.tasks.prompts.prepare import prepare_run
from parquill.tasks.prompts.resolve import resolve_job
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import ShardRef
from parquill.tasks.storage.disk import Disk, remove_folder
from parquill.tasks.storage.folders import Folders
from parquill.tasks.storage.journal import Journal, read_journal, scan_journal
from parquill.tasks.storage.parquet_reader import ChecksummedReader
from tests.tools.answering import Answering
from tests.tools.direct import results
from tests.tools.disks import (
    BrokenDisk,
    CountingDisk,
    FailingDisk,
    ForgetfulDisk,
    FullDisk,
    Image,
    photograph,
    to_folder,
)
from tests.tools.small_job import AT_ONCE, OLD, TEXTS, SmallJob, stripped
from tests.tools.timing import within

HANGS_S = 60.0  # a bound for what takes milliseconds
LONG = bool(os.environ.get("LONG_CRASH"))  # `make crash` sets it: each call fails in each way


@pytest.fixture
def memory() -> Iterator[Path]:
    """Return a folder in memory if the machine has one: a model decides what lasts, and real syncs cost time."""
    shared = Path("/dev") / "shm"
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def job(memory: Path, monkeypatch: pytest.MonkeyPatch) -> SmallJob:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{memory / 'ledger.sqlite'}")
    for setting in ("prepare.MIN_SHARD", "input_parquet.BATCH_ROWS"):  # several shards of a few rows
        monkeypatch.setattr(f"parquill.tasks.prompts.{setting}", 6)
    return SmallJob.make(memory / "job")


def _cuts(job: SmallJob, how: str) -> dict[str, tuple[Image, Counter[str]]]:
    """Return each different state in which a power cut can leave an undisturbed run, and what was billed by then."""
    service, disk = Answering(), ForgetfulDisk(job.root)
    cuts: dict[str, tuple[Image, Counter[str]]] = {}

    def look(throws: int = 3 if how == "mixed" else 1) -> None:
        job.check_reader()
        for throw in range(throws):
            image = disk.image(how, throw)
            # the index only repeats other files
            decisive = {name: content for name, content in image.items() if "answers.sqlite" not in name}
            with service.lock:
                cuts[repr(sorted(decisive.items()))] = (image, Counter(service.billed))

    disk.on_call = look
    job.run(service, disk)
    look(20)  # the disk does not report what is removed at the end
    disk.close()
    return cuts


@pytest.mark.parametrize(("how", "every"), [("forgotten", 2), ("mixed", 6), ("names", 8), ("torn", 8), ("zeros", 8)])
def test_a_power_cut_at_any_moment(job: SmallJob, how: str, every: int) -> None:
    """C1, C3, C4: After a power cut at any moment, with any loss of unsynced bytes, a job ends like an undisturbed one.
    Only what was in flight is paid twice, and readers see whole results at each instant.
    """
    cuts = list(_cuts(job, how).values())
    assert len(cuts) > 20
    for image, billed in cuts[:: 1 if LONG else every]:
        to_folder(image, job.root)
        job.check_reader()
        job.check_resume(billed)


def _one_of_each(calls: list[str]) -> list[str]:
    """Of the calls that differ only by numbers (shards, parts, groups of a journal), return the one in the middle."""
    kinds: dict[str, list[str]] = {}
    for call in calls:
        kinds.setdefault(re.sub(r"\d+", "N", call), []).append(call)
    return [alike[len(alike) // 2] for alike in kinds.values()]


@pytest.mark.parametrize(
    ("number", "for_good", "every"),
    [(errno.ENOSPC, False, 1), (errno.EIO, True, 3)],
    ids=["full-once", "broken-for-good"],
)
def test_a_disk_that_fails_at_any_call(job: SmallJob, number: int, *, for_good: bool, every: int) -> None:
    """C5: If any write, sync or rename fails, sending stops at once, and no sync is tried again.
    The error names the file and the reason, readers see whole results, and on a healthy disk the job resumes.
    """
    counted = CountingDisk()
    job.start(counted)
    tried = counted.calls if LONG else _one_of_each(counted.calls)[::every]
    assert len(tried) > 40 / every
    noticed = 0
    for fail_at in tried:
        to_folder(job.before, job.root)
        service = Answering(lambda _: 0.001)
        disk = FailingDisk(fail_at, number, for_good=for_good, look=service.billed.total)
        try:
            job.run(service, disk)
        except DiskFailed as error:
            caught, noticed = error, noticed + 1
        else:
            assert disk.failed_name is None, f"a failed {fail_at} went unnoticed"
            assert ".journal " in fail_at, f"{fail_at} did not happen again"  # the number of groups depends on chance
            continue
        assert str(job.root) in str(caught)
        assert os.strerror(number) in str(caught)
        assert service.billed.total() - disk.seen <= 2 * AT_ONCE, "sending continued"
        assert disk.synced_again == 0
        job.check_reader()
        assert for_good or (job.root / "results").exists(), "the results before are gone"
        job.check_resume(service.billed)
    assert noticed >= len(tried) * 0.8


@pytest.mark.parametrize("full_at", ["000000.journal", "staging", "history"])
def test_a_summary_after_a_full_disk(job: SmallJob, full_at: str) -> None:
    """C5: If the disk is full at any file, the summary says that the run stopped and why.
    The next start with room resumes the run, and the summary says that it is finished.
    """
    service = Answering()
    with pytest.raises(DiskFailed, match=os.strerror(errno.ENOSPC)):
        job.run(service, FullDisk(lambda path: full_at in path and service.billed.total() > 1))
    summary = orjson.loads((job.root / "summary.json").read_bytes())
    assert (summary["state"], summary["exit_code"]) == ("stopped", 1)
    assert os.strerror(errno.ENOSPC) in summary["message"]
    job.check_resume(service.billed)
    assert orjson.loads((job.root / "summary.json").read_bytes())["state"] == "finished"


def test_a_clock_that_is_set_back(job: SmallJob) -> None:
    """A summary shows the time that really passed, even if the clock was set back by an hour since the plan."""
    run = job.planned()
    dataclasses.replace(run, started_at=run.started_at + timedelta(hours=1)).save()
    job.start()
    summary = orjson.loads((job.root / "summary.json").read_bytes())
    assert summary["run_id"] == run.run_id
    assert 0 < summary["duration_s"] < 600


def _is_journal(name: str, target: Any) -> bool:
    return name == "sync" and str(Path(f"/proc/self/fd/{target}").readlink()).endswith("000000.journal")


def _is_totals(name: str, target: Any) -> bool:
    return name == "rename" and target.parent.name == "done"


@pytest.mark.parametrize("is_it", [_is_journal, _is_totals])
def test_one_failure_stops_all_sending(job: SmallJob, is_it: Callable[[str, Any], bool]) -> None:
    """C5: When the disk fails for one shard, all others stop: they send no more than what is under way.
    This holds however long the other requests take.
    """
    table = pa.table({"id": [f"r{n}" for n in range(90)], "text": [f"many {n}" for n in range(90)]})
    pq.write_table(table, job.settings["input"])
    service = Answering(lambda prompt: 0.3 if prompt == "many 1" else 0.001)
    billed: list[int] = []

    def breaks(name: str, target: Any) -> bool:
        if not service.billed or not is_it(name, target):
            return False
        billed.append(service.billed.total())
        return True

    with pytest.raises(DiskFailed, match=os.strerror(errno.EIO)):
        job.run(service, BrokenDisk(breaks))
    assert service.billed.total() - billed[0] <= 2 * AT_ONCE
    done = job.start()
    assert len(results(job.settings)) == 90
    assert sum((service.billed + done.billed).values()) - 90 <= AT_ONCE


def test_a_task_that_comes_after_the_stop_sends_nothing(job: SmallJob) -> None:
    """C7: A task that comes to send after the run was stopped neither sends nor waits."""
    run, service = job.planned(), Answering()
    with contextlib.suppress(KeyboardInterrupt), open_sender(run, service.open) as run_sender:
        raise KeyboardInterrupt
    with pytest.raises(Interrupted):
        run_sender.complete(run.shards[0])
    with pytest.raises(Interrupted):  # and it opens no sender of its own
        complete_in_this_process(run.folders.state, run.run_id, run.shards[0])
    assert service.billed == Counter()
    job.check_resume(Counter())


def test_a_shard_that_is_being_read_at_the_stop_ends(job: SmallJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """C7: A shard without a first request when the run is stopped ends, however long its disk takes."""
    monkeypatch.setattr("parquill.tasks.llm.run_sender.FINISH_TIMEOUT_S", 0.05)
    run, service = job.planned(), Answering()
    reading, may_end, ended = threading.Event(), threading.Event(), threading.Event()
    open_shard = Run.open_shard

    def slow(self: Run, shard: ShardRef) -> ChecksummedReader:
        reading.set()
        may_end.wait(HANGS_S)
        return open_shard(self, shard)

    def complete(run_sender: RunSender) -> None:
        with pytest.raises(Interrupted):
            run_sender.complete(run.shards[0])
        ended.set()

    monkeypatch.setattr(Run, "open_shard", slow)
    with contextlib.suppress(KeyboardInterrupt), open_sender(run, service.open) as run_sender:
        # a daemon thread: if it never ends, it must not block the tests
        threading.Thread(target=complete, args=[run_sender], daemon=True).start()
        reading.wait(HANGS_S)
        raise KeyboardInterrupt
    assert ended.wait(HANGS_S)
    may_end.set()
    monkeypatch.undo()
    assert service.billed == Counter()
    job.check_resume(Counter())


@pytest.mark.timed
def test_what_hangs_is_cut_off_after_the_grace(job: SmallJob) -> None:
    """C7: A run that is asked to stop sends nothing more and keeps answers that come within the grace period.
    It cuts off the rest, which is in doubt, and the next start resumes it.
    """
    patience = {"new 1": 0.6, "new 2": 3_600.0}  # these two are under way when the run is asked to stop
    service = Answering(lambda prompt: patience.get(prompt, 0.0))
    sent: set[str] = set()

    def stop_when_sent() -> None:
        while not set(patience) <= set(service.billed):
            time.sleep(0.001)
        sent.update(service.billed)
        open_senders()[0].request_stop(5.0)

    asked = threading.Thread(target=stop_when_sent)
    asked.start()
    began = time.monotonic()
    with within(15), pytest.raises(Interrupted):
        job.run(service)  # the answer takes an hour, and a request has a deadline of two minutes
    asked.join()
    assert time.monotonic() - began < HANGS_S
    assert set(service.billed) == sent
    again = job.start()
    assert again.billed == Counter(set(TEXTS) - set(OLD) - set(service.billed) | {"new 2"})
    assert [row["text"] for row in results(job.settings) if row["in_doubt_usd"]] == ["new 2"]
    assert stripped(results(job.settings)) == job.wanted


def _until_stopped(run_sender: RunSender, shard: ShardRef) -> None:
    with contextlib.suppress(Interrupted):
        run_sender.complete(shard)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Make an interrupt an exception, even if this process was started with it ignored, as shells do with `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_cuts_the_grace_short(job: SmallJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """C7: A second interrupt during the grace period ends the run at once: hanging requests are cut off.
    Nothing is left running. Here an interrupt is an exception, as in a user's own script.
    """
    # answers and grace period take an hour, and requests have a deadline of two minutes: the run ends before both
    monkeypatch.setattr("parquill.tasks.llm.open_senders.GRACE_TIMEOUT_S", 3_600.0)
    service = Answering(lambda _: 3_600.0)
    run = job.planned()
    main_thread = threading.get_ident()
    in_grace = threading.Event()

    def interrupt_again() -> None:
        in_grace.wait()
        while sys._current_frames()[main_thread].f_code is not threading.Condition.wait.__code__:
            time.sleep(0.001)
        time.sleep(0.5)  # the thread now waits for the end of the grace period; an earlier signal would wake nothing
        # sent to the waiting thread: a signal to the process may wake another thread only
        signal.pthread_kill(main_thread, signal.SIGINT)

    again = threading.Thread(target=interrupt_again)
    again.start()
    with pytest.raises(KeyboardInterrupt), open_sender(run, transport=service.open) as run_sender:
        shard = threading.Thread(target=_until_stopped, args=(run_sender, run.shards[0]), daemon=True)
        shard.start()
        while sum(service.billed.values()) < AT_ONCE:
            time.sleep(0.001)  # the shard's own thread sends them
        in_grace.set()
        raise KeyboardInterrupt
    again.join()
    shard.join(HANGS_S)
    assert not shard.is_alive()
    assert open_senders() == []
    assert sum(service.billed.values()) == AT_ONCE
    job.check_resume(service.billed)


def test_a_second_signal_when_all_is_closed(job: SmallJob) -> None:
    """C7: A second signal is not an error if the run's thread has ended and only files are left to close."""
    service = Answering()
    with open_sender(job.planned(), transport=service.open) as run_sender:
        run_sender.close(grace_s=0)
    assert open_senders() == []
    assert not service.billed


def _left_at_removal(job: SmallJob, monkeypatch: pytest.MonkeyPatch, remover: str) -> Image:
    """Return what a power cut would leave at the moment when a run removes an existing folder, which it does once."""
    disk = ForgetfulDisk(job.root)
    lasting: list[Image] = []

    def look(path: Path) -> None:
        if path.exists():
            lasting.append(disk.image("forgotten"))
        remove_folder(path)

    monkeypatch.setattr(remover, look)
    job.run(Answering(), disk)
    disk.close()
    (left,) = lasting
    return left


def test_old_results_go_when_the_new_ones_last(job: SmallJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """C3: The old parts are removed only when a power cut would leave the new ones in their place."""
    left = _left_at_removal(job, monkeypatch, "parquill.tasks.results.writer.remove_folder")
    now = photograph(job.root)
    assert {name: left[name] for name in left if name.startswith("results/")} == {
        name: now[name] for name in now if name.startswith("results/")
    }


def test_shards_go_when_their_run_is_forgotten_for_good(job: SmallJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """C4: A finished run's shards are removed only when a power cut would not make it the current run again."""
    left = _left_at_removal(job, monkeypatch, "parquill.tasks.results.finish.remove_folder")
    assert ".parquill/manifest.json" in left
    assert ".parquill/current.json" not in left


def test_results_come_back_after_half_a_swap(job: SmallJob) -> None:
    """C3: If the old results were moved away and the new ones are not in place, the next start restores the old."""
    disk = BrokenDisk(lambda name, target: name == "rename" and target.name == "staging", for_good=True)
    with pytest.raises(DiskFailed):
        job.run(Answering(), disk)
    assert not (job.root / "results").exists()
    Folders(job.root / ".parquill", job.root, str(job.root)).recover()
    job.check_reader()
    assert (job.root / "results").exists()


def test_left_overs_are_swept(job: SmallJob) -> None:
    """C3: The next start removes what a killed process left half written, even if it has nothing else to do."""
    job.start()
    own = job.root / ".parquill"
    for folder in (own / "staging", own / "replaced"):
        folder.mkdir()
        (folder / "half.parquet").write_bytes(b"PAR1")
    for folder in (job.root, job.root / "history", own):
        (folder / ".half.json.tmp").write_bytes(b"{")
    assert job.start().billed == Counter()
    job.check_tidy()
    assert stripped(results(job.settings)) == job.wanted


def test_a_plan_that_was_half_removed_is_no_plan(job: SmallJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """C4: If a job is killed while it removes an unsent plan, the next start does not resume what is left of it."""
    refused = {**job.settings, "budget": {"run_usd": 5}}
    placed, options = resolve_job(make_job(refused), None, None, None)
    assert prepare_run(placed, options) is not None  # planned, and then declined

    def killed(path: Path) -> None:
        if (path / "shards").exists():
            shutil.rmtree(path / "shards")
        raise KeyboardInterrupt

    monkeypatch.setattr("parquill.tasks.storage.folders.remove_folder", killed)
    longer, options = resolve_job(make_job({**refused, "max_output_tokens": 60}), None, None, None)
    with monkeypatch.context() as no_tidy, pytest.raises(KeyboardInterrupt):
        no_tidy.setattr(Folders, "recover", lambda *_: None)
        prepare_run(longer, options)
    monkeypatch.undo()
    job.check_resume(Counter())


def test_the_last_group_is_written_anew(memory: Path) -> None:
    """C5: If the sync of a journal's last group failed, the next start writes the group again.
    So it lasts, even if the kernel takes the bytes for written.
    """
    disk = _DroppingDisk()
    path = memory / "journal"
    with ThreadPoolExecutor(1) as threads:

        async def append(rows: range) -> None:
            journal = Journal(path, {"run_id": "r", "shard": 0}, threads, disk)
            try:
                for row in rows:
                    await journal.append({"type": "intent", "row": row, "n": 1, "reserved": 5})
            finally:
                await journal.close()

        disk.fail_at = 4  # after the syncs of the header and of two groups
        with pytest.raises(DiskFailed):
            asyncio.run(append(range(9)))
        assert [entry.record["row"] for entry in read_journal(path)] == [
            0,
            1,
            2,
        ]  # complete as long as the machine runs
        asyncio.run(append(range(3, 6)))
    path.write_bytes(disk.lasting)
    assert [entry.record["row"] for entry in read_journal(path)] == list(range(6))


class _DroppingDisk(Disk):
    """One file, on a kernel that drops what it could not sync: only later writes are synced."""

    def __init__(self) -> None:
        self.fail_at = 0
        self.lasting = bytearray()
        self._dirty: list[tuple[int, bytes]] = []
        self._syncs = 0

    def write(self, descriptor: int, data: bytes) -> None:
        self._dirty.append((os.lseek(descriptor, 0, os.SEEK_CUR), bytes(data)))
        super().write(descriptor, data)

    def sync_folder(self, folder: Path) -> None:
        pass

    def sync(self, _descriptor: int) -> None:
        self._syncs += 1
        dirty, self._dirty = self._dirty, []
        if self._syncs == self.fail_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        for at, data in dirty:
            self.lasting.extend(bytes(max(0, at + len(data) - len(self.lasting))))
            self.lasting[at : at + len(data)] = data


def test_an_index_that_is_ahead_of_the_journals(job: SmallJob) -> None:
    """C1: If a journal's last group was lost in a power cut and the index has it, the index is rebuilt."""
    job.start()
    journal = max((job.root / ".parquill" / "runs").glob("*/journals/*.journal"))
    scan = scan_journal(journal)
    journal.write_bytes(scan.data[: scan.tail.last])
    lost = {e.record["row"] for e in scan.entries()} - {e.record["row"] for e in read_journal(journal)}
    (job.root / ".parquill" / "manifest.json").unlink()
    again = job.start()
    assert len(again.billed) <= AT_ONCE + len(lost)
    assert stripped(results(job.settings)) == job.wanted


def test_an_error_that_nobody_foresaw_is_told(job: SmallJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """C5: An unexpected error in one row stops the run with that error, even if that row ended before the others.
    The next start resumes the run, and what was under way is in doubt.
    """
    settled: list[int] = []

    def fail_once(femto: int) -> int:
        settled.append(femto)
        return femto // 1_000_000 if len(settled) > 1 else femto // 0

    monkeypatch.setattr("parquill.tasks.llm.settlement.femto_to_nano", fail_once)
    service = Answering(lambda prompt: 0 if prompt == "new 0" else 0.05)
    with pytest.raises(ZeroDivisionError):
        job.run(service)
    monkeypatch.setattr("parquill.tasks.llm.settlement.femto_to_nano", femto_to_nano)
    assert service.billed.total() <= 2 * AT_ONCE
    job.check_resume(service.billed)
