"""How flows and their steps run under Prefect.

A step that pays is never repeated and never cached by Prefect (the journal knows what is paid), and no result is
persisted: persisted results are pickles, in which prompts and keys would hide.
"""

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

import parquill.tasks.orchestration.slot_lease  # noqa: F401 - importing it is what has runs outlive their slots

SHARDS_AT_ONCE = 4  # one that ends, one that begins, two for a margin; the rows of all of them share one set of limits

TASK_OPTIONS: dict[str, Any] = {"retries": 0, "persist_result": False, "cache_policy": NO_CACHE, "log_prints": False}
FLOW_OPTIONS: dict[str, Any] = {
    "retries": 0,  # whatever PREFECT_FLOWS_DEFAULT_RETRIES says: a refusal would be asked again, and told as a crash
    "persist_result": False,
    "validate_parameters": False,  # by `returns_state`, which ends a bad job in a sentence under a name
    "task_runner": ThreadPoolTaskRunner[Any](max_workers=SHARDS_AT_ONCE),
}
