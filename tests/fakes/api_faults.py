"""Rules that make calls for files, batches and figures fail; a call that a rule hits may be carried out all the same.

A rule is a JSON object; the first rule that fits a call applies.

    on           upload, files, file, content, delete, create, batches, batch, cancel, models, usage, costs,
                 rate_limits, projects, spend_limit; required
    kind         see KINDS; `status:NNN` is refused with this status and not carried out, `done:NNN` is carried out and
                 answered with this status; required
    match        a text that the path must hold, such as the id of a file; null: any path
    times        at most this often; null: always
    after        only after this number of calls that fit, hit by other rules or not; 0
    delay_ms     real time before the answer; a client that waits less has the call carried out and no answer
    retry_after  sent unchanged as Retry-After
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KINDS = {
    "lost": "carried out; the connection is closed without one byte",
    "cut": "not carried out; the connection is closed without one byte",
    "half": "carried out; half of the body, then the connection is closed",
    "slow": "carried out and answered after delay_ms",
    "garbage": "carried out; 200 with text/html",
}
OPERATIONS = (
    "upload", "files", "file", "content", "delete", "create", "batches", "batch", "cancel", "models", "usage", "costs",
    "rate_limits", "projects", "spend_limit",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ApiRule:
    """One rule, see the module."""

    on: str
    kind: str
    match: str | None = None
    times: int | None = None
    after: int = 0
    delay_ms: float = 0.0
    retry_after: str | None = None

    @property
    def status(self) -> int | None:
        """Return the N of `status:N` and `done:N`."""
        _, _, code = self.kind.partition(":")
        return int(code) if code else None

    @property
    def carried_out(self) -> bool:
        """Return whether the call does what it would do without the fault."""
        return self.kind != "cut" and not self.kind.startswith("status")


def read_api_rules(value: Any) -> tuple[ApiRule, ...]:
    """Check a list of rules; a ValueError or TypeError names what is wrong."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"a list of rules is wanted, not {value!r}")
    return tuple(each if isinstance(each, ApiRule) else _read(each) for each in value)


def _read(value: Any) -> ApiRule:
    if not isinstance(value, dict):
        raise TypeError(f"a rule is an object, not {value!r}")
    rule = ApiRule(**value)  # an unknown name is a TypeError that names it
    prefix, _, code = rule.kind.partition(":")
    if rule.on not in OPERATIONS:
        raise ValueError(f"unknown call {rule.on!r}; known are {OPERATIONS}")
    if rule.kind not in KINDS and not (prefix in {"status", "done"} and code.isdigit() and 200 <= int(code) < 600):
        raise ValueError(f"unknown kind {rule.kind!r}; known are status:NNN, done:NNN and {sorted(KINDS)}")
    return rule


class ApiFaultBook:
    """Decides which rule hits which call, and counts."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._hits: dict[int, int] = {}

    def pick(self, rules: tuple[ApiRule, ...], operation: str, path: str) -> ApiRule | None:
        """Return the first rule that fits and record its use."""
        chosen: int | None = None
        for index, rule in enumerate(rules):
            if rule.on != operation or (rule.match is not None and rule.match not in path):
                continue
            seen = self._seen[index] = self._seen.get(index, 0) + 1
            is_used_up = rule.times is not None and self._hits.get(index, 0) >= rule.times
            if chosen is None and seen > rule.after and not is_used_up:
                chosen = index
        if chosen is None:
            return None
        self._hits[chosen] = self._hits.get(chosen, 0) + 1
        return rules[chosen]
