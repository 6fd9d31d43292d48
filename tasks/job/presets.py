"""The jobs of the ready flows: what a parameter gives is given there alone, every other setting under `settings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job, merge
from parquill.tasks.job.reasoning import answers_at_once
from parquill.tasks.job.settings import Job

# What the prompt says in a sentence; a blank would leave a hole in it, and be paid for.
Phrase = Annotated[str, Field(pattern=r"\S")]
# settings, and the parameters that give them
_SAME = {name: name for name in ("name", "input", "output", "model", "max_output_tokens")}
PARAMETERS: Mapping[str, str] = {**_SAME, "budget.run_usd": "run_usd"}
MADE = ("prompt", "messages_column")


def preset_job(job: Mapping[str, Any], settings: Mapping[str, Any], parameters: Mapping[str, str]) -> Job:
    """A flow's own job with more settings; `parameters` names the flow's by what they give beside PARAMETERS.

    Raises BadJob for a setting that would put aside what a parameter says, the budget first of all.
    """
    for path, parameter in {**PARAMETERS, **parameters}.items():
        if _has(settings, path):
            raise BadJob(f"`settings.{path}` is the parameter `{parameter}` of this flow; set it there")
    for name in MADE:
        if name in settings:
            raise BadJob(f"`settings.{name}`: this flow makes its own prompt; the flow `complete-prompts` takes any")
    job = {"parameters": {}, **job}
    for name, value in settings.items():
        # whatever else stands there would replace the flow's whole group, with what parameters have given of it
        if isinstance(job.get(name), dict) and not isinstance(value, dict):
            raise BadJob(f"`settings.{name}` must be a mapping: this flow adds to it")
    made = merge(job, settings)
    if "parameters" not in settings and isinstance(made["model"], str):
        # translations and summaries are short: what a model thinks before them would use up max_output_tokens
        endpoint = made.get("endpoint")
        api = endpoint.get("api", "chat") if isinstance(endpoint, Mapping) else "chat"
        made["parameters"] = answers_at_once(made["model"], api)
    return make_job(made)


def _has(settings: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(settings, Mapping) or name not in settings:
            return False
        settings = settings[name]
    return True
