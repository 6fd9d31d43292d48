"""Step 4, complete: send shards of requests, many at once, and write every answer to the journal."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from parquill.tasks.llm import open_senders
from parquill.tasks.llm.open_senders import complete_in_this_process
from parquill.tasks.llm.shard_report import ShardReport
from parquill.tasks.orchestration.options import TASK_OPTIONS
from parquill.tasks.orchestration.redaction import redact_errors
from parquill.tasks.orchestration.run_log import run_log
from parquill.tasks.records import ShardRef


@task(name="complete", task_run_name="complete-{shard.number}", **TASK_OPTIONS)
@redact_errors
def complete_shard(state: Path, run_id: str, shard: ShardRef) -> ShardReport:
    """Complete the rows that the shard lacks, and report how it ended. Raises DiskFailed, DamagedJournal, LedgerFailed.

    An engine may run this again, even at the same time in another process: finished rows are not sent again.
    """
    return complete_in_this_process(state, run_id, shard, run_log())


@task(name="complete", task_run_name="complete-part-{begin}", **TASK_OPTIONS)
@redact_errors
def complete_part(state: Path, run_id: str, shards: list[ShardRef], begin: int, at_once: int) -> list[ShardReport]:
    """Complete shards that no other process completes, `at_once` of them, and report how they ended.

    Raises DiskFailed, DamagedJournal, LedgerFailed. A process that dies costs nothing but what it had under way.
    """
    return open_senders.complete_part(state, run_id, shards, begin, at_once, run_log())
