"""Crash, as the journals tell it: damage is found and never skipped, old versions replay, answers go to their rows."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquill.tasks.errors import DamagedJournal, DiskFailed
from parquill.tasks.storage.journal import VERSION, scan_journal
from parquill.tasks.storage.replay import replay_shard
from tests.tools.answering import Answering
from tests.tools.direct import results
from tests.tools.disks import BrokenDisk, photograph, to_folder
from tests.tools.make_journals import FOLDER, told
from tests.tools.small_job import SmallJob, stripped


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallJob:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    for setting in ("prepare.MIN_SHARD", "input_parquet.BATCH_ROWS"):
        monkeypatch.setattr(f"parquill.tasks.prompts.{setting}", 6)
    return SmallJob.make(tmp_path / "job")


def _cut_off(job: SmallJob) -> list[Path]:
    """Run until all is answered and the results are to be swapped in; gives the journals of the run."""
    disk = BrokenDisk(lambda name, target: name == "rename" and target.name == "staging", for_good=True)
    with pytest.raises(DiskFailed):
        job.run(Answering(), disk)
    run = orjson.loads((job.root / ".parquill" / "current.json").read_bytes())["run_id"]
    return sorted((job.root / ".parquill" / "runs" / run / "journals").iterdir())


def _outcomes(data: bytes) -> int:
    return len(re.findall(rb'"type":"outcome"', data))


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("with_index", [True, False])
def test_damage_stops_the_run(job: SmallJob, *, with_index: bool) -> None:
    """C2: a flipped bit anywhere but in the last group stops the run before anything is sent, with the place of the
    damage and the count of safe rows, whether the index of answers is there or not; the journal restored, it goes on.
    """
    journal = _cut_off(job)[0]
    whole, scan = photograph(job.root), scan_journal(journal)
    starts = [start - 16 for start, _ in scan.spans]
    for place in range(0, starts[-1], 197):
        to_folder(whole, job.root)
        if not with_index:
            for index in (job.root / ".parquill").glob("answers.sqlite*"):
                index.unlink()
        _flip(journal, place)
        service = Answering()
        with pytest.raises(DamagedJournal) as caught:
            job.run(service)
        at = max(start for start in starts if start <= place)
        safe = _outcomes(scan.data[:at])
        assert f"{journal} is damaged at byte {at}; " in str(caught.value)
        assert f" with the outcomes of {safe} rows, are safe" in str(caught.value)
        assert not service.billed
    to_folder(whole, job.root)
    assert not job.start().billed
    assert stripped(results(job.settings)) == job.wanted


def test_damage_in_an_answer_that_is_reused(job: SmallJob) -> None:
    """C2: an answer of an earlier run that is not what it was is never shown: the run stops, and names what is safe."""
    job.start()
    own = job.root / ".parquill"
    journal = min((own / "runs").glob("*/journals/*.journal"))
    data = journal.read_bytes()
    _flip(journal, data.index(b"answer to first") + 3)  # still JSON, under the same key
    (own / "manifest.json").unlink()
    with pytest.raises(
        DamagedJournal, match=r"is damaged at byte \d+; \d+ records before it, with the outcomes of \d+ row"
    ):
        job.start()


def test_a_torn_end_is_cut_and_reported(job: SmallJob, caplog: pytest.LogCaptureFixture) -> None:
    """C2: a last group that was never finished is cut off and reported, also in the journal of a run that was given up;
    only its rows are asked for again.
    """
    journals = _cut_off(job)
    scan = scan_journal(journals[-1])
    lost = {entry.record["row"] for entry in scan.entries() if entry.offset >= scan.tail.last}
    journals[-1].write_bytes(scan.data[:-3] + bytes(5000))
    for done in journals[0].parents[1].glob("done/*.json"):
        done.unlink()
    whole = photograph(job.root)
    service = job.start()
    cut = len(scan.data) + 4997 - scan.tail.last
    assert f"{journals[-1]}: the last {cut} bytes are an unfinished write" in caplog.text
    assert 0 < service.billed.total() <= len(lost)
    assert scan_journal(journals[-1]).tail.torn_bytes == 0
    assert stripped(results(job.settings)) == job.wanted
    to_folder(whole, job.root)
    caplog.clear()
    table = pq.read_table(job.settings["input"])
    pq.write_table(table.slice(0, len(table) - 1), job.settings["input"])  # the run is given up for another
    assert job.start().billed.total() <= len(lost)
    assert f"{journals[-1]}: the last {cut} bytes" in caplog.text


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.journal")), ids=lambda path: path.stem)
def test_stored_journals_replay(path: Path) -> None:
    """C8: a journal of every released version, and of the present one, says today what it said when it was written."""
    stored = orjson.loads(path.with_suffix(".json").read_bytes())
    assert _kept(told(replay_shard(path)), stored) == stored


def test_every_version_is_stored() -> None:
    """C8: no version is released without journals of it that are kept."""
    stored = {int(path.name[1 : path.name.index("-")]) for path in FOLDER.glob("v*.journal")}
    assert stored == set(range(1, VERSION + 1))


def _kept(now: Any, stored: Any) -> Any:
    """Return what is there now, without what a later version may add."""
    if isinstance(stored, dict):
        assert isinstance(now, dict)
        return {name: _kept(now[name], value) for name, value in stored.items()}
    return now


@pytest.mark.parametrize("order", ["reversed", "random"])
def test_answers_find_their_rows(job: SmallJob, order: str) -> None:
    """C9: in whatever order answers come, and though all have the same id, each is in the row that asked for it."""
    chance = random.Random(9)
    texts = [f"prompt {n % 70}" for n in range(90)]
    pq.write_table(pa.table({"id": [f"r{n}" for n in range(90)], "text": texts}), job.settings["input"])
    limits = {"max_at_once": 50}

    def delay_s(prompt: str) -> float:
        return 0.1 - int(prompt.split()[1]) / 1000 if order == "reversed" else chance.uniform(0, 0.05)

    wide = SmallJob(job.root, {**job.settings, "limits": limits}, job.before, job.wanted)
    service = Answering(delay_s)
    wide.run(service)
    rows = results(job.settings)
    assert [row["completion"] for row in rows] == [f"answer to {text}" for text in texts]
    assert service.billed == Counter(set(texts))


def test_a_journal_of_other_rows_is_refused(job: SmallJob) -> None:
    """C9: answers are told by their key: journals that have changed places never give their answers to other rows."""
    first, second = _cut_off(job)
    spare = first.with_suffix(".spare")
    for old, new in ((first, spare), (second, first), (spare, second)):
        old.rename(new)
    with pytest.raises(DamagedJournal, match="answers another request"):
        job.start()
    job.check_reader()
