"""Step 4, complete: one shard of requests, concurrent inside, every answer journalled."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from parquill.tasks.llm.open_senders import sender_for
from parquill.tasks.orchestration.limit_store import sharing_of
from parquill.tasks.orchestration.options import TASK_OPTIONS
from parquill.tasks.orchestration.redaction import redact_errors
from parquill.tasks.records import ShardRef


@task(name="complete", task_run_name="complete-{shard.number}", **TASK_OPTIONS)
@redact_errors
def complete_shard(state: Path, run_id: str, shard: ShardRef) -> bool:
    """Complete what the shard lacks; True when every row of it has its outcome. Raises DiskFailed."""
    return sender_for(state, run_id, sharing_of).complete(shard)
