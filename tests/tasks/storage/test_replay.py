"""The records of a journal give the state of rows, requests and money."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from parquill.tasks.errors import DamagedJournal
from parquill.tasks.records import MAX_USES, Outcome, Totals, Use, UseKey, to_json, use_of
from parquill.tasks.storage.batch_state import BatchState
from parquill.tasks.storage.journal import JournalRecord
from parquill.tasks.storage.replay import ShardState, Submitted, replay_records

PATH = Path("shard-00000.journal")
INTENT = {"type": "intent", "row": 0, "n": 1, "reserved": 70}
SUBMITTED = {"type": "submitted", "row": 0, "n": 1, "to": "batch_1", "reserved": 70}


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


def test_each_request_counts_for_its_endpoint() -> None:
    """With several endpoints, requests, costs and doubts are also summed by the endpoint to which a request went."""
    billed = {
        "type": "attempt",
        "row": 0,
        "n": 1,
        "fate": "billed",
        "code": "empty",
        "cost": 7,
        "usage": [3, 0, 0, 4, 0],
    }
    held = {"type": "attempt", "row": 1, "n": 1, "fate": "in_doubt", "code": "timeout"}
    answer = {**_outcome(2, 7 + 40), "usage": [10, 0, 0, 5, 0]}
    totals = _replay(
        {**INTENT, "at": "a"},
        billed,
        {**INTENT, "n": 2, "at": "b"},
        {**INTENT, "row": 1, "at": "b"},
        held,
        answer,
        {**INTENT, "row": 1, "n": 2, "at": "a"},
    ).totals()
    assert totals.endpoints == {
        "a": Use(sent=2, billed=1, settled_nano=7, in_doubt_nano=70, prompt_tokens=3, completion_tokens=4),
        "b": Use(2, 1, 1, 40, 70, 10, completion_tokens=5),
    }
    assert (totals.sent, totals.settled_nano, totals.in_doubt_nano) == (4, 47, 140)
    assert Totals.from_json(orjson.loads(orjson.dumps(totals.to_json()))) == totals


def test_requests_are_summed_by_day_model_and_lane() -> None:
    """Each request counts on the day on which it ended, for the model and the lane that its record names.

    One that is under way at a kill counts on the day of the latest record.
    """
    day_us = 86_400_000_000
    held = {"type": "attempt", "row": 0, "n": 1, "fate": "in_doubt", "code": "timeout"}
    held |= {"lane": "flex", "ended_at": 3 * day_us - 1}
    answer = {**_outcome(2, 40), "model_used": "m-1", "lane": "live", "finished_at": 3 * day_us}
    free = {"type": "attempt", "row": 1, "n": 1, "fate": "unpaid", "code": "rate_limited"}
    totals = _replay(
        INTENT,
        held,
        {**INTENT, "n": 2},
        {**answer, "in_doubt_nano": 70, "usage": [10, 3, 2, 5, 4]},
        {**INTENT, "row": 1},
        free,
        {**INTENT, "row": 1, "n": 2},
    ).totals()
    assert totals.uses == {
        UseKey(2, None, "flex"): Use(sent=1, in_doubt_nano=70),
        UseKey(3, "m-1", "live"): Use(1, 1, 1, 40, 0, 10, 3, 2, 5, 4),
        UseKey(3): Use(sent=2, in_doubt_nano=70),
    }
    assert sum(use.in_doubt_nano for use in totals.uses.values()) == totals.in_doubt_nano


def test_a_service_with_endless_models_fills_no_memory() -> None:
    """Beyond MAX_USES names, answers of further models are summed without their name."""
    uses: dict[UseKey, Use] = {}
    for number in range(MAX_USES + 50):
        use_of(uses, UseKey(1, f"m-{number}", "live")).sent += 1
    assert len(uses) == MAX_USES + 1
    assert uses[UseKey(1, None, "live")].sent == 50
    assert uses[UseKey(1, "m-3", "live")].sent == 1


def test_a_submitted_request_is_neither_open_nor_in_doubt() -> None:
    """A request that waits in a batch keeps its reservation, costs no attempt, and is not counted as in doubt."""
    state = _replay(SUBMITTED)
    row, totals = state.rows[0], state.totals()
    assert row.submitted == {1: Submitted("batch_1", 70)}
    assert (row.failures, row.open, row.requests) == (0, {}, 1)
    assert (totals.in_doubt, totals.in_doubt_nano, totals.submitted, totals.submitted_nano) == (0, 0, 1, 70)
    assert totals.committed_nano == 70
    assert not state.outcomes


def test_the_outcome_of_a_submitted_request_settles_it() -> None:
    """When a batch reply is collected, nothing stays reserved, and the row costs only what the reply costs."""
    totals = _replay(SUBMITTED, _outcome(1, 40)).totals()
    assert (totals.submitted, totals.in_doubt, totals.committed_nano, totals.statuses) == (0, 0, 40, {"ok": 1})


@pytest.mark.parametrize(("fate", "in_doubt"), [("unpaid", 0), ("in_doubt", 70)])
def test_the_failure_of_a_submitted_request_settles_it(fate: str, in_doubt: int) -> None:
    """A row that its batch did not answer costs nothing, or stays in doubt with its reservation."""
    failure = {"type": "attempt", "row": 0, "n": 1, "fate": fate, "code": "server_error"}
    totals = _replay(SUBMITTED, failure).totals()
    assert (totals.submitted, totals.in_doubt_nano, totals.committed_nano) == (0, in_doubt, in_doubt)


def test_each_request_of_a_row_is_submitted_by_itself() -> None:
    """Each request of a row is tracked by itself: one can have failed while the other waits in a batch."""
    failure = {"type": "attempt", "row": 0, "n": 1, "fate": "unpaid", "code": "server_error"}
    again = {**SUBMITTED, "n": 2, "to": "batch_2", "reserved": 35}
    state = _replay(SUBMITTED, failure, again)
    assert state.rows[0].submitted == {2: Submitted("batch_2", 35)}
    assert (state.totals().committed_nano, state.rows[0].failures) == (35, 1)


BATCH = {"type": "batch", "key": "batch_1"}
BEGUN = {**BATCH, "step": "intent", "rows": 2, "tokens": 30, "fingerprint": "ab", "limit": "max_tokens", "at": 100.0}
CREATED = {**BATCH, "step": "created", "batch": "remote_1", "deadline": 900.0}


def test_the_steps_of_a_batch() -> None:
    """A batch that is not over has what its latest steps say; one whose rows are all collected is gone."""
    steps: list[dict[str, Any]] = [
        BEGUN,
        {**BATCH, "step": "uploaded", "file": "file_1"},
        {**BATCH, "step": "creating", "at": 105.0},
        CREATED,
    ]
    assert _replay(*steps[:1]).batches == {"batch_1": BatchState("batch_1", 2, 30, "ab", "max_tokens", 100.0)}
    expected = BatchState("batch_1", 2, 30, "ab", "max_tokens", 100.0, "file_1", 105.0, "remote_1", 900.0)
    assert _replay(*steps).batches == {"batch_1": expected}
    assert _replay(*steps, {**BATCH, "step": "collected"}).batches == {}


def test_the_requests_of_a_batch_that_never_was() -> None:
    """M8: The requests of a batch that was never created were never sent: they cost no money and no attempt."""
    state = _replay(BEGUN, SUBMITTED, {**SUBMITTED, "row": 1, "to": "batch_2"}, {**BATCH, "step": "void"})
    assert (state.batches, state.rows[0].requests, state.rows[0].submitted) == ({}, 0, {})
    assert (state.rows[1].requests, state.totals().submitted_nano) == (1, 70)


@pytest.mark.parametrize("record", [{**BATCH, "step": "paused"}, CREATED])
def test_an_unknown_step_of_a_batch_is_an_error(record: dict[str, Any]) -> None:
    """C8: A step of a batch that no version before wrote, or that has no intent, is an error."""
    with pytest.raises(DamagedJournal, match=r"a step '(paused|created)' of a batch"):
        _replay(record)


def test_a_record_of_an_unknown_type_is_an_error() -> None:
    """A record of an unknown type raises an error and is not read as an outcome."""
    with pytest.raises(DamagedJournal, match="record of the kind 'paused'"):
        _replay({"type": "paused", "row": 0})
