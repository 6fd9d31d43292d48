"""Models that think before they answer: the tokens of it are output, are billed, and count for max_output_tokens.

With a small `max_output_tokens` such a model may use all of it before the first word of an answer, which is paid and
empty. Most services take a parameter that switches the thinking off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from parquill.tasks.job.settings import Job

# Below this a thinking model may well end before its answer begins.
SMALL_OUTPUT_TOKENS = 1_000
# Those that think unless they are asked not to, by the names that services have, behind that of a maker or not.
_THINKS = re.compile(
    r"""(?:^|[/.:])(?:
      o[1-9](?:-|$)                       # OpenAI
    | gpt-(?:5(?!\.[1-4])|[6-9])(?!.*-chat)  # 5.1 to 5.4 think only if they are asked to
    | gpt-oss
    | gemini-(?:2\.5-(?:pro|flash(?!-lite))|[3-9])
    | deepseek-(?:reasoner|r\d)
    | grok-(?:3-mini|[4-9])(?!.*non-reasoning)
    | qwq | qwen3-(?!.*(?:instruct|coder)) | magistral
    )|-thinking\b|(?<!non)-reasoning\b|-r1\b""",
    re.VERBOSE | re.IGNORECASE,
)
# Those of OpenAI's that take an effort of `none`, and then a temperature too; not so pro, codex and chat.
_TAKES_NONE = re.compile(
    r"(?:.*/)?gpt-(?:5\.[1-9]|[6-9])(?:\.\d+)?(?:-(?:mini|nano|luna|terra|sol))?(?:-\d{4}-\d\d-\d\d)?"
)
# What services take to switch it off, by its path in the parameters.
_OFF: tuple[tuple[str, Any], ...] = (
    ("reasoning_effort", "none"),
    ("reasoning.effort", "none"),
    ("reasoning.enabled", False),
    ("thinking.type", "disabled"),
    ("thinking", False),
    ("enable_thinking", False),
    ("think", False),
    ("chat_template_kwargs.enable_thinking", False),
    ("chat_template_kwargs.thinking", False),
    ("thinking_budget", 0),
)


def takes_effort_none(model: str) -> bool:
    """Whether a model is one of OpenAI's that thinks at will, and answers at once with an effort of `none`."""
    return _TAKES_NONE.fullmatch(model) is not None


def answers_at_once(model: str, api: str = "chat") -> dict[str, Any]:
    """Parameters for short answers: no thinking where the model can do without; none for any other model."""
    if not takes_effort_none(model):
        return {}
    return {"reasoning": {"effort": "none"}} if api == "responses" else {"reasoning_effort": "none"}


def thinks(job: Job) -> bool:
    """Whether the job's model thinks before it answers, as far as its name and the job's parameters tell."""
    asked = _at(job.parameters, "reasoning_effort") or _at(job.parameters, "reasoning.effort")
    if any(_is_off(_at(job.parameters, path), off) for path, off in _OFF):
        return False
    if _THINKS.search(job.model):
        return True
    return takes_effort_none(job.model) and asked is not None


def warn_of_thinking(job: Job) -> str | None:
    """What to say of a model that thinks within a small `max_output_tokens`; None where there is nothing to say."""
    if job.max_output_tokens >= SMALL_OUTPUT_TOKENS or not thinks(job):
        return None
    off = answers_at_once(job.model, job.endpoint.api)
    # the mapping is one of ours, with names and one word
    shown = str(off).replace("'", "")
    switch = f"Set `parameters: {shown}`" if off else "Switch its thinking off by a parameter"
    return (
        f"the model {job.model} thinks before it answers, and max_output_tokens = {job.max_output_tokens:,} counts "
        f"that too: answers may come back cut off or empty, and are paid. {switch}, or raise `max_output_tokens` to "
        f"{SMALL_OUTPUT_TOKENS:,} or more"
    )


def _is_off(value: Any, off: Any) -> bool:
    return type(value) is type(off) and value == off


def _at(parameters: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(parameters, Mapping):
            return None
        parameters = parameters.get(name)
    return parameters
