"""Collects the batches of a run that no start resumes, because its input or its settings have changed.

What they have completed is paid. So before another run of the output is planned, the batches are cancelled, and their
replies go into the journals of their run. The new plan reuses those that it still needs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from parquill.tasks.errors import BadJob
from parquill.tasks.limits.lease_client import LogFn
from parquill.tasks.llm.client import aiohttp_transport
from parquill.tasks.llm.open_senders import open_sender
from parquill.tasks.llm.pace import REAL, Pace
from parquill.tasks.llm.rounds import Rounds
from parquill.tasks.prompts.run import Run


def collect_abandoned(
    run: Run,
    transport: Callable[[], httpx.AsyncBaseTransport] = aiohttp_transport,
    log: LogFn | None = None,
    *,
    pace: Pace = REAL,
) -> None:
    """Cancel the batches of a run, wait until they have ended, and collect what they have completed.

    Raises Interrupted if a stop was requested before, BadJob if the service does not let them be collected.
    """
    with (
        open_sender(run, transport, log=log, is_abandoned=True, pace=pace) as run_sender,
        ThreadPoolExecutor(4) as threads,
    ):
        rounds = Rounds(run, run_sender)
        for shards in rounds:
            rounds.add(threads.map(run_sender.complete, shards))
            run_sender.cancel_batches()
        ending = rounds.ending()
    if run.open_batches:
        raise BadJob(
            f"the batches of the run {run.run_id} cannot be collected: {ending.message}. They are paid for; to leave "
            f"them, remove {run.folders.meta / 'current.json'}"
        )
