"""Processes that complete a run: what happens when one dies, and when one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest

from parquill.tasks.errors import DiskFailed, Interrupted
from parquill.tasks.llm.shard_report import ShardReport, StopReason
from parquill.tasks.orchestration import engines as module
from parquill.tasks.orchestration.engines import MAX_DEATHS, Processes
from parquill.tasks.records import ShardRef, Totals

Part = Callable[[list[ShardRef]], list[ShardReport]]


def _report(shard: ShardRef) -> ShardReport:
    return ShardReport(shard.number, is_done=True, totals=Totals())


class _Pool:
    """A pool of processes, each of which does what the test says, in the order in which parts are submitted."""

    def __init__(self, *parts: Part) -> None:
        self._parts = iter(parts)
        self.begun: list[int] = []

    def __call__(self, *, max_workers: int, initializer: object) -> Self:
        assert (max_workers, initializer) == (2, module.begin_process)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, _task: object, given: dict[str, Any]) -> SimpleNamespace:
        self.begun.append(given["begin"])
        assert given["at_once"] >= 1
        part = next(self._parts)
        return SimpleNamespace(result=lambda: part(given["shards"]))


class _Run:
    """A run of four shards; `done` are those that are done on disk, with or without a report."""

    def __init__(self) -> None:
        self.job = SimpleNamespace(parts=2)
        self.run_id, self.folders = "run", SimpleNamespace(state=Path("state"))
        self.shards = [ShardRef(number, 10, 10) for number in range(4)]
        self.done: set[int] = set()

    def is_done(self, shard: ShardRef) -> bool:
        return shard.number in self.done

    def totals_of(self, _: ShardRef) -> Totals:
        return Totals()


class _Sender:
    def __init__(self) -> None:
        self.lane = SimpleNamespace(stopping=False, stop_reason=None)
        self.stops: list[bool] = []

    def request_stop(self, *, cancels: bool) -> None:
        self.stops.append(cancels)
        self.lane.stopping, self.lane.stop_reason = True, StopReason()


def _dies(_: list[ShardRef]) -> list[ShardReport]:
    raise BrokenProcessPool("killed")


def _nothing(_: list[ShardRef]) -> list[ShardReport]:
    return []


def _all(shards: list[ShardRef]) -> list[ShardReport]:
    return [_report(shard) for shard in shards]


class _Engine:
    """An engine over such a pool."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *parts: Part) -> None:
        self.pool, self.run, self.sender = _Pool(*parts), _Run(), _Sender()
        monkeypatch.setattr(module, "ProcessPoolTaskRunner", self.pool)
        monkeypatch.setattr(module, "as_completed", iter)
        self._engine = Processes(cast("Any", self.run), cast("Any", self.sender), cast("Any", None))

    def complete(self) -> Sequence[ShardReport]:
        return list(self._engine.complete(self.run.shards))


def test_each_part_begins_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes begin at the first and at the third of four shards; each shard has one report."""
    engine = _Engine(monkeypatch, _all, _nothing)
    assert [report.number for report in engine.complete()] == [0, 1, 2, 3]
    assert engine.pool.begun == [0, 2]


def test_a_dead_process_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a process dies, new ones complete what is left; what the dead ones had done counts, though not reported."""
    engine = _Engine(monkeypatch, _dies, _dies, lambda shards: [_report(shard) for shard in shards], _nothing)
    engine.run.done = {0, 2}
    reports = engine.complete()
    assert [(report.number, report.is_done) for report in reports] == [(number, True) for number in range(4)]
    assert engine.pool.begun == [0, 2, 0, 1]  # two of the four are left
    assert engine.sender.stops == []


def test_processes_that_keep_dying_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """If all processes die again and again without completing a shard, the run stops and says so."""
    engine = _Engine(monkeypatch, *[_dies] * 2 * MAX_DEATHS)
    with pytest.raises(Interrupted, match="died 3 times, perhaps for lack of memory"):
        engine.complete()


def test_an_error_in_one_process_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in one process stops the run, which would otherwise wait for all other shards."""

    def fail(_: list[ShardRef]) -> list[ShardReport]:
        raise DiskFailed("no space left")

    engine = _Engine(monkeypatch, fail, _all)
    with pytest.raises(DiskFailed):
        engine.complete()
    assert engine.sender.stops[0] is False


def test_shards_that_a_stop_has_left_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop, shards that no process has begun are reported as stopped, so that the run does not end as done.

    A stop that comes first starts no process.
    """

    def stop(shards: list[ShardRef]) -> list[ShardReport]:
        engine.sender.request_stop(cancels=True)
        return [_report(shards[0])]

    engine = _Engine(monkeypatch, stop, _nothing)
    stopped = (False, StopReason())
    assert [(report.is_done, report.stop) for report in engine.complete()] == [(True, None), *[stopped] * 3]
    engine.pool.begun.clear()
    assert [(report.is_done, report.stop) for report in engine.complete()] == [stopped] * 4
    assert engine.pool.begun == []
