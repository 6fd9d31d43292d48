"""The flow folds the reports of its shards, which may come from tasks in other processes, into one result."""

from __future__ import annotations

import pickle

import pytest

from parquill.tasks.errors import Interrupted
from parquill.tasks.llm.shard_report import SendResult, ShardReport, StopReason
from parquill.tasks.records import ShardRef, Totals

SHARDS = [ShardRef(number, rows=10, to_send=8) for number in range(3)]
DONE = Totals(statuses={"ok": 7, "failed": 1})
HALF = Totals(statuses={"ok": 4})
QUOTA = StopReason("quota_exhausted", "the quota is used up")


def _fold(*reports: ShardReport) -> SendResult:
    return SendResult.of(SHARDS, reports)


def test_shards_that_are_done_end_well() -> None:
    """If every shard is done, the run is done, even if a stop came after the last row."""
    late = [ShardReport(number, True, DONE, stop=StopReason()) for number in range(3)]
    assert _fold(*late) == SendResult()
    assert not _fold(*late).is_stop


def test_rows_over_the_budget_are_summed() -> None:
    """The result sums the rows over the budget of all processes."""
    found = _fold(ShardReport(0, False, HALF, 4), ShardReport(1, True, DONE), ShardReport(2, False, HALF, 3))
    assert (found.over_budget, found.is_stop) == (7, True)


def test_what_the_service_said_to_one_process_ends_the_run() -> None:
    """A stop by the service ends the run, even if other processes were only asked to stop."""
    found = _fold(ShardReport(0, False, HALF, stop=StopReason()), ShardReport(1, False, HALF, 1, QUOTA))
    assert found == SendResult(1, "quota_exhausted", "the quota is used up")
    assert found.is_stop


def test_an_interruption_names_the_rows_left() -> None:
    """If a user asked for a stop, the error says how many rows have no outcome."""
    with pytest.raises(Interrupted, match="interrupted with 12 rows left; run again to resume"):
        _fold(
            ShardReport(0, True, DONE, stop=StopReason()),
            ShardReport(1, False, HALF, stop=StopReason()),
            ShardReport(2, False, Totals(), stop=StopReason()),
        )


def test_a_report_travels_between_processes() -> None:
    """A report comes back unchanged from another process."""
    report = ShardReport(1, False, HALF, 1, QUOTA)
    assert pickle.loads(pickle.dumps(report)) == report  # noqa: S301 - our own bytes
