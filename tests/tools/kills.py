"""Kills the real command again and again over one job, at seeded random moments, and counts what was paid."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parquill.tasks.storage.replay import replay_shard
from tests.fakes.running import FakeService
from tests.tools.jobs import Jobs, Spawned

NOTICED_S = 0.05  # after this time the service knows that its client is gone


@dataclass
class Kills:
    """Kills a job again and again. A moment is after a number of requests, or a time after the start.

    `in_flight` holds for each kill the requests that the journals know as sent and not as ended, without those that an
    earlier kill left: only these may be paid twice. `twice` is how many requests were paid once more, `cut` how many
    answers the service saw cut off.
    """

    jobs: Jobs
    settings: Mapping[str, Any]
    seed: int
    each: int  # requests between two kills, at most
    times: int = 0
    by_moment: dict[str, int] = field(default_factory=dict)
    in_flight: list[int] = field(default_factory=list)
    twice: int = 0
    cut: int = 0

    def kill(self, count: int) -> None:
        """Start the job `count` times and kill it each time; a start that ends before its kill is not counted."""
        chance = random.Random(self.seed)
        for _ in range(count):
            spawned = self.jobs.spawn(self.settings)
            # one in eight is killed at any time after its first line: reading, planning, opening journals
            moment = "any time" if chance.random() < 1 / 8 else "sending"
            if moment == "sending":
                wait_for_requests(self.jobs.service, spawned, self._seen() + chance.randint(1, self.each))
                time.sleep(chance.uniform(0, 0.03))  # a random moment in the life of a request
            else:
                time.sleep(chance.uniform(0.1, 4))  # a random moment
            if self._end(spawned):
                self.times += 1
                self.by_moment[moment] = self.by_moment.get(moment, 0) + 1

    def kill_writing(self) -> None:
        """Kill the job once more while it writes the results."""
        spawned = self.jobs.spawn(self.settings)
        staging = Path(self.settings["output"]) / ".parquill" / "staging"
        deadline = time.monotonic() + 120
        while not staging.exists() and time.monotonic() < deadline and spawned.process.poll() is None:
            time.sleep(0.001)  # no event reports a new folder, and this one exists for milliseconds
        if self._end(spawned):
            self.times += 1
            self.by_moment["writing"] = self.by_moment.get("writing", 0) + 1

    def _end(self, spawned: Spawned) -> bool:
        alive = spawned.process.poll() is None
        os.kill(spawned.process.pid, signal.SIGKILL)
        spawned.process.wait()
        time.sleep(NOTICED_S)  # no event reports that the service has written its last bytes to the dead client
        journals = Path(self.settings["output"]).glob(".parquill/runs/*/journals/*.journal")
        in_doubt = sum(replay_shard(journal).totals().in_doubt for journal in journals)
        self.in_flight.append(in_doubt - sum(self.in_flight))
        return alive

    def count(self) -> None:
        """Count what was paid again; all of it shows once the job has ended."""
        stats = self.jobs.service.stats(full=True)
        self.twice = sum(bill[0] - 1 for bill in stats["billed_map"].values())
        self.cut = len(stats["cut_by_client"])

    def _seen(self) -> int:
        seen: int = self.jobs.service.stats()["requests"]
        return seen


def wait_for_requests(service: FakeService, spawned: Spawned, requests: int, timeout_s: float = 180) -> None:
    """Wait until the service has seen this number of requests, or the command has ended."""
    deadline = time.monotonic() + timeout_s
    before = service.stats()["requests"]
    while (seen := service.stats()["requests"]) < requests:
        assert time.monotonic() < deadline, spawned.read("err")
        if spawned.process.poll() is not None:
            return
        # each look takes CPU, and a command needs seconds for its start; once it sends, the moment must be exact
        time.sleep(0.004 if seen > before else 0.03)
