"""How the steps run under Prefect.

A step that pays is never repeated and never cached by Prefect (the journal knows what is paid), and no result is
persisted: persisted results are pickles, in which prompts and keys would hide.
"""

from typing import Any

from prefect.cache_policies import NO_CACHE

STEP: dict[str, Any] = {"retries": 0, "persist_result": False, "cache_policy": NO_CACHE, "log_prints": False}
