"""How flows and their steps run under Prefect.

Prefect never repeats and never caches a step that pays, because the journal knows what is paid. No result is
persisted: persisted results are pickles, which could contain prompts and keys.
"""

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from parquill.tasks.llm.open_senders import SHARDS_AT_ONCE
from parquill.tasks.orchestration.deployed_process import end_unstarted_at_exit
from parquill.tasks.orchestration.slot_lease import outlive_slots

TASK_OPTIONS: dict[str, Any] = {"retries": 0, "persist_result": False, "cache_policy": NO_CACHE, "log_prints": False}
_FLOW_OPTIONS: dict[str, Any] = {
    # promise: flows: Prefect's default retries do not apply
    "retries": 0,  # whatever PREFECT_FLOWS_DEFAULT_RETRIES says: a refusal would be repeated, and reported as a crash
    "persist_result": False,
    # promise: presets: a bad job ends in its own state, not in Prefect's parameter error
    "validate_parameters": False,  # `returns_state` does: a bad job ends in a named state with one sentence
    "task_runner": ThreadPoolTaskRunner[Any](max_workers=SHARDS_AT_ONCE),
}


def flow_options() -> dict[str, Any]:
    """Return the options of a flow, and prepare this process for deployed runs of it."""
    outlive_slots()
    end_unstarted_at_exit()
    return _FLOW_OPTIONS
