"""The rounds in which a run's shards are completed: one, or with batches as many as it takes.

rounds = Rounds(run, run_sender)
for shards in rounds:
rounds.add(... complete each of them ...)
ending = rounds.ending()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from parquill.tasks.errors import WaitsForBatch
from parquill.tasks.llm.run_sender import RunSender
from parquill.tasks.llm.shard_report import SendResult, ShardReport
from parquill.tasks.prompts.run import Run
from parquill.tasks.records import ShardRef


class Rounds:
    """The shards of a run that are to be completed, and the reports of those that were."""

    def __init__(self, run: Run, run_sender: RunSender, stay_s: float | None = None) -> None:
        """`stay_s` is the most seconds to wait between two rounds, None for as long as it takes."""
        self._stay_s = stay_s
        self._shards = [shard for shard in run.shards if not run.is_done(shard)]
        self._run_sender = run_sender
        self._reports: dict[int, ShardReport] = {}

    def __iter__(self) -> Iterator[list[ShardRef]]:
        """Yield the shards to complete now; waits between two rounds. The first round may have none.

        Raises WaitsForBatch if nothing has changed after `stay_s` seconds.
        """
        shards = self._shards
        while True:
            yield shards
            waiting = [report for report in self._reports.values() if report.waiting]
            ready = self._run_sender.wait(waiting, self._stay_s)
            if ready is None:
                lane = self._run_sender.lane
                raise WaitsForBatch(f"waiting for {lane.waiting_for}", lane.due_at)
            shards = [shard for shard in self._shards if shard.number in ready]
            if not shards:
                return

    def add(self, reports: Iterable[ShardReport]) -> None:
        """Take the reports of a round; that of a shard's latest round counts."""
        self._reports.update((report.number, report) for report in reports)

    def ending(self) -> SendResult:
        """Return how sending ended. Raises Interrupted if a stop was requested and rows are left."""
        return SendResult.of(self._shards, list(self._reports.values()), self._run_sender.lane.stop_reason)
