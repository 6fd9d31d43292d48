"""Step 4, complete: one shard of requests, concurrent inside, every answer journalled."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from parquill.tasks.records import ShardRef
from parquill.tasks.server.lender import sharing_of
from parquill.tasks.steps import STEP
from parquill.tasks.unforeseen import tells_no_data
from parquill.tasks.wire.open_sendings import sending_of


@task(name="complete", task_run_name="complete-{shard.number}", **STEP)
@tells_no_data
def complete_shard(state: Path, run_id: str, shard: ShardRef) -> bool:
    """Complete what the shard lacks; True when every row of it has its outcome. Raises DiskFailed."""
    return sending_of(state, run_id, sharing_of).complete(shard)
