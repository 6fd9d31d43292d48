"""The JSON schema of a job file, for editors and for other programs that write jobs.

It describes what the loader accepts, short forms included. Rules that concern several settings at once are not in it.
"""

from __future__ import annotations

from typing import Any

from parquill.tasks.job.settings import Job

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def job_schema() -> dict[str, Any]:
    """Return the JSON schema of a job file."""
    schema = Job.model_json_schema()
    for name in ("Endpoint", "WeightedEndpoint"):
        query = schema["$defs"][name]["properties"]["query"]
        # YAML reads some texts as numbers, and the loader takes them as texts again
        query["additionalProperties"] = {"type": ["string", "number"]}
    return {"$schema": DIALECT, **schema, "title": "Parquill job"}
