"""Crash, seen in the journals: damage is found and never skipped, old versions replay, and answers go to their rows."""

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
from tests.tools.make_journals import FOLDER, content_of
from tests.tools.small_job import SmallJob, stripped


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallJob:
    monkeypatch.setenv("PARQUILL_LEDGER_URL", f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    for setting in ("prepare.MIN_SHARD", "input_parquet.BATCH_ROWS"):
        monkeypatch.setattr(f"parquill.tasks.prompts.{setting}", 6)
    return SmallJob.make(tmp_path / "job")


def _cut_off(job: SmallJob) -> list[Path]:
    """Run until all is answered and only the swap of the results is left; return the journals of the run."""
    disk = BrokenDisk(lambda name, target: name == "rename" and target.name == "staging", for_good=True)
    with pytest.raises(DiskFailed):
        job.run(Answering(), disk)
    run = orjson.loads((job.root / ".parquill" / "current.json").read_bytes())["run_id"]
    return sorted((job.root / ".parquill" / "runs" / run / "journals").iterdir())


def _outcomes(data: bytes) -> int:
    return len(re.findall(rb'"type":"outcome"', data))


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("with_index", [True, False])
def test_damage_stops_the_run(job: SmallJob, *, with_index: bool) -> None:
    """C2: A flipped bit anywhere but in the last group stops the run before it sends anything, with or without the
    index. The error gives the offset and the count of safe rows, and with the journal restored the run resumes.
    """
    journal = _cut_off(job)[0]
    whole, scan = photograph(job.root), scan_journal(journal)
    starts = [start - 16 for start, _ in scan.spans]
    for offset in range(0, starts[-1], 197):
        to_folder(whole, job.root)
        if not with_index:
            for index in (job.root / ".parquill").glob("answers.sqlite*"):
                index.unlink()
        _flip(journal, offset)
        service = Answering()
        with pytest.raises(DamagedJournal) as caught:
            job.run(service)
        at = max(start for start in starts if start <= offset)
        safe = _outcomes(scan.data[:at])
        assert f"{journal} is damaged at byte {at}; " in str(caught.value)
        assert f" with the outcomes of {safe} rows, are safe" in str(caught.value)
        assert not service.billed
    to_folder(whole, job.root)
    assert not job.start().billed
    assert stripped(results(job.settings)) == job.wanted


def test_damage_in_an_answer_that_is_reused(job: SmallJob) -> None:
    """C2: A changed answer of an earlier run is never used: the run stops, and the error says what is safe."""
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
    """C2: A last group that was never finished is cut off and reported, even in the journal of a run that was given up.
    Only its rows are sent again.
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
    """C8: A stored journal of any released version, or of the present one, replays to the content stored with it."""
    stored = orjson.loads(path.with_suffix(".json").read_bytes())
    assert _kept(content_of(replay_shard(path)), stored) == stored


def test_every_version_is_stored() -> None:
    """C8: Each version up to the present one has stored journals."""
    stored = {int(path.name[1 : path.name.index("-")]) for path in FOLDER.glob("v*.journal")}
    assert stored == set(range(1, VERSION + 1))


def _kept(now: Any, stored: Any) -> Any:
    """Return the present content, without what a later version may add."""
    if isinstance(stored, dict):
        assert isinstance(now, dict)
        return {name: _kept(now[name], value) for name, value in stored.items()}
    return now


@pytest.mark.parametrize("order", ["reversed", "random"])
def test_answers_find_their_rows(job: SmallJob, order: str) -> None:
    """C9: Each answer is in the row that asked for it, in any order of answers and even if all have the same id."""
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
    """C9: Answers are matched by their key, so swapped journals never give their answers to other rows."""
    first, second = _cut_off(job)
    spare = first.with_suffix(".spare")
    for old, new in ((first, spare), (second, first), (spare, second)):
        old.rename(new)
    with pytest.raises(DamagedJournal, match="answers another request"):
        job.start()
    job.check_reader()
