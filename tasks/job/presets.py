"""The jobs of the ready flows: a setting that has a parameter is set only there, every other one under `settings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from parquill.tasks.errors import BadJob
from parquill.tasks.job.load import make_job, merge, nest
from parquill.tasks.job.reasoning import answers_at_once
from parquill.tasks.job.settings import Job

# A phrase of the prompt: a blank one would leave a gap in a sentence, and every row would be paid for.
# promise: presets: a blank phrase for the instructions is refused
Phrase = Annotated[str, Field(pattern=r"\S")]
# setting -> the parameter that sets it
_SAME = {name: name for name in ("name", "input", "output", "model", "max_output_tokens")}
# promise: presets: the budget of a preset flow is set only by `run_usd`
PARAMETERS: Mapping[str, str] = {**_SAME, "budget.run_usd": "run_usd"}
MADE = ("prompt", "messages_column")


def preset_job(job: Mapping[str, Any], settings: Mapping[str, Any], parameters: Mapping[str, str]) -> Job:
    """Return a flow's job with more settings; `parameters` maps settings to the flow's parameters besides PARAMETERS.

    Raises BadJob for a setting that would override a parameter, above all the budget.
    """
    settings = nest(settings)
    for path, parameter in {**PARAMETERS, **parameters}.items():
        # promise: presets: `settings` cannot override a parameter of the flow
        if _has(settings, path):
            raise BadJob(f"`settings.{path}` is the parameter `{parameter}` of this flow; set it there")
    for name in MADE:
        if name in settings:
            raise BadJob(f"`settings.{name}`: this flow makes its own prompt; to set it, use `complete-prompts`")
    job = {"parameters": {}, **job}
    for name, value in settings.items():
        # any other value would replace the flow's whole group, and with it what the parameters set
        # promise: presets: a group of settings can be extended but not replaced
        if isinstance(job.get(name), dict) and not isinstance(value, dict):
            raise BadJob(f"`settings.{name}` must be a mapping: this flow adds to it")
    made = merge(job, settings)
    if "parameters" not in settings and isinstance(made["model"], str):
        # translations and summaries are short: thinking before them would use up max_output_tokens
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
