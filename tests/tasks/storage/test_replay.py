"""The records of a journal give the state of rows, requests and money."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from parquill.tasks.errors import DamagedJournal
from parquill.tasks.records import Outcome, to_json
from parquill.tasks.storage.journal import JournalRecord
from parquill.tasks.storage.replay import ShardState, Submitted, replay_records

PATH = Path("shard-00000.journal")
INTENT = {"type": "intent", "row": 0, "n": 1, "reserved": 70}
SUBMITTED = {"type": "submitted", "row": 0, "n": 1, "to": "batch_1"}


def _replay(*records: dict[str, Any]) -> ShardState:
    return replay_records(PATH, [JournalRecord(0, 0, memoryview(b""), record) for record in records])


def _outcome(resolves: int, cost_nano: int = 0) -> dict[str, Any]:
    outcome = Outcome(row=0, key="00", status="ok", cost_nano=cost_nano, attempts=1, resolves=resolves)
    record: dict[str, Any] = orjson.loads(orjson.dumps(outcome, default=to_json))
    return record


def test_an_intent_without_an_end_is_in_doubt() -> None:
    """A request that was under way when the run was cut off is in doubt, since it may have been paid."""
    totals = _replay(INTENT).totals()
    assert (totals.in_doubt, totals.in_doubt_nano, totals.submitted) == (1, 70, 0)


def test_a_submitted_request_is_neither_open_nor_in_doubt() -> None:
    """A request that waits in a batch keeps its reservation, costs no attempt, and is not counted as in doubt."""
    state = _replay(INTENT, SUBMITTED)
    row, totals = state.rows[0], state.totals()
    assert row.submitted == {1: Submitted("batch_1", 70)}
    assert (row.failures, row.open, row.requests) == (0, {}, 1)
    assert (totals.in_doubt, totals.in_doubt_nano, totals.submitted, totals.submitted_nano) == (0, 0, 1, 70)
    assert totals.committed_nano == 70
    assert not state.outcomes


def test_the_outcome_of_a_submitted_request_settles_it() -> None:
    """When a batch reply is collected, nothing stays reserved, and the row costs only what the reply costs."""
    totals = _replay(INTENT, SUBMITTED, _outcome(1, 40)).totals()
    assert (totals.submitted, totals.in_doubt, totals.committed_nano, totals.statuses) == (0, 0, 40, {"ok": 1})


@pytest.mark.parametrize(("fate", "in_doubt"), [("unpaid", 0), ("in_doubt", 70)])
def test_the_failure_of_a_submitted_request_settles_it(fate: str, in_doubt: int) -> None:
    """A row that its batch did not answer costs nothing, or stays in doubt with its reservation."""
    failure = {"type": "attempt", "row": 0, "n": 1, "fate": fate, "code": "server_error"}
    totals = _replay(INTENT, SUBMITTED, failure).totals()
    assert (totals.submitted, totals.in_doubt_nano, totals.committed_nano) == (0, in_doubt, in_doubt)


def test_each_request_of_a_row_is_submitted_by_itself() -> None:
    """Each request of a row is tracked by itself: one can have failed while the other waits in a batch."""
    failure = {"type": "attempt", "row": 0, "n": 1, "fate": "unpaid", "code": "server_error"}
    again = [{**INTENT, "n": 2, "reserved": 35}, {**SUBMITTED, "n": 2, "to": "batch_2"}]
    state = _replay(INTENT, SUBMITTED, failure, *again)
    assert state.rows[0].submitted == {2: Submitted("batch_2", 35)}
    assert (state.totals().committed_nano, state.rows[0].failures) == (35, 1)


def test_a_record_of_an_unknown_type_is_an_error() -> None:
    """A record of an unknown type raises an error and is not read as an outcome."""
    with pytest.raises(DamagedJournal, match="record of the kind 'paused'"):
        _replay({"type": "paused", "row": 0})
