"""Models that think before they answer: thinking tokens are billed as output and count toward max_output_tokens.

With a small `max_output_tokens` such a model may use all of it before the first word of the answer, which is then empty
but paid for. Most services accept a parameter that switches the thinking off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from parquill.tasks.job.settings import Job

# Below this limit a thinking model may be cut off before its answer begins.
SMALL_OUTPUT_TOKENS = 1_000
# Models that think unless a parameter says otherwise, by the names that services use, with or without a maker's prefix.
_THINKS = re.compile(
    r"""(?:^|[/.:])(?:
      o[1-9](?:-|$)                       # OpenAI
    | gpt-(?:5(?!\.[1-4])|[6-9])(?!.*-chat)  # 5.1 to 5.4 think only if they are asked to
    | gpt-oss
    | gemini-(?:2\.5-(?:pro|flash(?!-lite))|[3-9])
    | deepseek-(?:reasoner|r\d|v[4-9])  # v4 thinks by default: api-docs.deepseek.com/guides/thinking_mode
    | grok-(?:3-mini|[4-9])(?!.*non-reasoning)
    | qwq | qwen3-(?!.*(?:instruct|coder)) | magistral
    )|-thinking\b|(?<!non)-reasoning\b|-r1\b""",
    re.VERBOSE | re.IGNORECASE,
)
# OpenAI models that accept an effort of `none`, and then a temperature too; pro, codex and chat models do not.
_TAKES_NONE = re.compile(
    r"(?:.*/)?gpt-(?:5\.[1-9]|[6-9])(?:\.\d+)?(?:-(?:mini|nano|luna|terra|sol))?(?:-\d{4}-\d\d-\d\d)?"
)
# What services accept to switch thinking off, by its path in the parameters.
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
    """Whether a model is one of OpenAI's that answers without thinking at an effort of `none`."""
    return _TAKES_NONE.fullmatch(model) is not None


def answers_at_once(model: str, api: str = "chat") -> dict[str, Any]:
    """Return parameters that switch off thinking, for short answers; empty if the model does not accept them."""
    if not takes_effort_none(model):
        return {}
    return {"reasoning": {"effort": "none"}} if api == "responses" else {"reasoning_effort": "none"}


def thinks(job: Job) -> bool:
    """Whether the job's model thinks before it answers, as far as its name and the job's parameters show."""
    asked = _at(job.parameters, "reasoning_effort") or _at(job.parameters, "reasoning.effort")
    if any(_is_off(_at(job.parameters, path), off) for path, off in _OFF):
        return False
    if _THINKS.search(job.model):
        return True
    return takes_effort_none(job.model) and asked is not None


def warn_of_thinking(job: Job) -> str | None:
    """Return a warning for a model that thinks within a small `max_output_tokens`; None for any other job."""
    if job.max_output_tokens >= SMALL_OUTPUT_TOKENS or not thinks(job):
        return None
    off = answers_at_once(job.model, job.endpoint.api)
    # safe: the mapping is our own, with plain names and one word
    shown = str(off).replace("'", "")
    switch = f"Set `parameters: {shown}`" if off else "Switch its thinking off with a parameter"
    return (
        f"the model {job.model} thinks before it answers, and max_output_tokens = {job.max_output_tokens:,} counts "
        f"that too: answers may be cut off or empty, and are still paid for. {switch}, or raise `max_output_tokens` to "
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
