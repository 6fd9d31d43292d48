"""The name under which a service wants max_output_tokens, learned from the refusal that says so.

The name of a deployment does not show its model, and gateways know one name or the other. The reply to a wrong name is
a refusal that costs nothing and names the parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from parquill.tasks.job.endpoint import LimitName

NAMES: tuple[str, ...] = get_args(LimitName)
MAX_READ_CHARACTERS = 2_000

_OTHER = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_NAME = rf"\b({'|'.join(NAMES)})\b"
_USE = re.compile(
    rf"\b(?:use|replaced by|renamed to|did you mean|in favou?r of)\b[^.;,]{{0,40}}?{_NAME}", re.IGNORECASE
)
_REQUIRED = re.compile(r"\brequired\b|\bmissing\b", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"unsupported|not support|not permitted|not allowed|not recogni[sz]ed|not valid|forbidden|unknown|unrecogni[sz]ed|"
    r"unexpected|no longer|deprecated|extra[ _](?:fields|inputs|forbidden)|does not exist",
    re.IGNORECASE,
)
# The service knows the name but refuses its value.
_VALUE = re.compile(
    r"too (?:large|small|high|low|big|long|many)|at (?:most|least)|greater|less than|exceed|out of range|between|"
    r"unsupported[ _]value",
    re.IGNORECASE,
)


def other_limit_name(error: Mapping[str, Any] | None, used: str) -> str | None:
    """Return the name that a refusal asks for instead of `used`; None if the refusal is about something else."""
    if error is None:
        return None
    text = " ".join(_texts(error, 6))[:MAX_READ_CHARACTERS]
    asked = next((found.group(1) for found in _USE.finditer(text) if found.group(1) != used), None)
    names = set(re.findall(_NAME, text))
    if asked is not None and used in names:
        return asked
    if _VALUE.search(text):
        return None
    missing = [name for name in NAMES if name in names and name != used]
    if missing and used not in names and _REQUIRED.search(text):
        return missing[0]
    return _OTHER.get(used) if used in names and _UNKNOWN.search(text) else None


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Yield the strings of an error body: message, parameter, code FastAPI's list of faults; not the echoed request."""
    if isinstance(value, str):
        yield value[:MAX_READ_CHARACTERS]
    elif depth and isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in {"input", "url", "ctx"}:
                yield from _texts(inner, depth - 1)
    elif depth and isinstance(value, list):
        for inner in value[:20]:
            yield from _texts(inner, depth - 1)
