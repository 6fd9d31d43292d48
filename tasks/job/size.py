"""How large a job may be: Prefect stores the whole job as a parameter of the flow run, and refuses large parameters.

Its server counts the bytes of the parameters as ASCII JSON, in which an é takes six. The content of files that a job
names does not count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from parquill.tasks.errors import BadJob
from parquill.tasks.job.settings import Job

SETTING = "PREFECT_SERVER_API_MAX_PARAMETER_SIZE"
MAX_PARAMETER_BYTES = 524_288  # Prefect's default of SETTING
OTHER_PARAMETERS_BYTES = 256  # the names of all parameters, a date, a limit and every status to redo
_GROUPS = ("vars", "response_format", "prompt", "for_each", "parameters")


def check_size(job: Job, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a job that is too large for Prefect. Raises BadJob, which names the largest setting and what to do."""
    limit = _limit(environment)
    dumped = job.model_dump(mode="json")
    size = _bytes(dumped) + OTHER_PARAMETERS_BYTES
    if not limit or size <= limit:
        return
    sizes = {name: _bytes(dumped[name]) for name in _GROUPS}
    largest = max(sizes, key=lambda name: sizes[name])
    advice = f"`{largest}` is {sizes[largest]:,} of them; make it shorter"
    if largest in {"vars", "response_format"}:
        advice = f"put `{largest}` ({sizes[largest]:,} of them) into a file, and set `{largest}: {largest}.json`"
    raise BadJob(f"the job is {size:,} bytes of JSON, and Prefect accepts at most {limit:,}: {advice}")


def _limit(environment: Mapping[str, str]) -> int:
    """Return the most bytes that the server accepts, according to the environment; 0 for no limit."""
    text = environment.get(SETTING, "")
    return int(text) if text.isascii() and text.isdecimal() else MAX_PARAMETER_BYTES


def _bytes(value: object) -> int:
    # promise: input: the size of a job is computed as Prefect computes it
    return len(json.dumps(value, separators=(",", ":")))
